"""Facts about this processor and its two ceilings: instruction sets, OpenMP, peak FMA rate, memory bandwidth.

Two ceilings bound every kernel (the roofline of Williams, Waterman and Patterson, 2009): it cannot do more
floating-point operations per second than the peak, and it cannot read from memory faster than the bandwidth. Both are
measured, because data sheets do not know the clock, the hypervisor or the neighbours of this machine. The probes are
here; tinygpt/kernels/peak.py times them and computes the rates.

Design
- An ISA counts as supported when the processor has it and the operating system saves its registers.
- The probes run a given number of steps, and the caller times them. Rejected: a clock in here, which would need one
  implementation per platform.
"""
from cython.parallel cimport prange
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef extern from "openmp.h" nogil:
    int openmp_version()
    int openmp_max_threads()

cdef extern from "build.h":
    const char* build_compiler()

cdef extern from "simd/peak.h" nogil:
    int ACCUMULATORS
    int has_avx2()
    int has_avx512()
    int has_neon()
    float peak_scalar(long n)
    float peak_avx2(long n)
    float peak_avx512(long n)
    float peak_neon(long n)
    uint64_t read_words(const uint64_t* words, Py_ssize_t n)

ctypedef float (*Probe)(long) noexcept nogil

cdef Probe _probe = peak_scalar
cdef int _lanes = 4


def openmp():
    """Return the date of the OpenMP specification of this build, for example 201511; 0 for a build without threads."""
    return openmp_version()


def max_threads():
    """Return the threads that OpenMP would use by default (OMP_NUM_THREADS included); 1 without OpenMP."""
    return openmp_max_threads()


def compiler():
    """Return the compiler of this build with its version, for example gcc 12.2.0."""
    return build_compiler().decode("ascii")


def isas():
    """Return the instruction sets that both processor and operating system support, lowest first."""
    return tuple(name for name, there in (("scalar", True), ("avx2", has_avx2()), ("avx512", has_avx512()),
                                          ("neon", has_neon())) if there)


def set_isa(str name):
    """Switch the probes to one of the instruction sets in `isas`."""
    global _probe, _lanes
    if name not in isas():
        raise ValueError(f"[set_isa] 'name' must be one of {', '.join(isas())}, got '{name}'")
    if name == "avx512":
        _probe, _lanes = peak_avx512, 16
    elif name == "avx2":
        _probe, _lanes = peak_avx2, 8
    elif name == "neon":
        _probe, _lanes = peak_neon, 4
    else:
        _probe, _lanes = peak_scalar, 4


def multiply_add(long steps, int n_threads):
    """Run `steps` rounds of multiply-adds on every thread; return the floating-point operations of all threads."""
    cdef int _
    cdef float total = 0
    for _ in prange(n_threads, nogil=True, num_threads=n_threads, schedule="static"):
        total += _probe(steps)
    # total is compared with itself so that the compiler cannot remove the loop whose result nobody else uses.
    return 2 * _lanes * ACCUMULATORS * steps * n_threads if total == total else 0


def read(const uint64_t[::1] words, int n_threads):                                                               # IN
    """Read every word once, each thread its own share; return the bytes read."""
    cdef Py_ssize_t i, share = words.shape[0] // n_threads
    cdef uint64_t total = 0
    if share == 0:
        return 0
    for i in prange(n_threads, nogil=True, num_threads=n_threads, schedule="static"):
        total += read_words(&words[0] + i * share, share)
    return 8 * share * n_threads if total != 1 else 0


def copy(const uint64_t[::1] words, uint64_t[::1] out, int n_threads):                                       # IN, OUT
    """Copy every word, each thread its own share; return the bytes read and written.

    For large blocks the C library's copy writes past the caches, so that only the copied words are read.
    """
    cdef Py_ssize_t i, share = min(words.shape[0], out.shape[0]) // n_threads
    if share == 0:
        return 0
    for i in prange(n_threads, nogil=True, num_threads=n_threads, schedule="static"):
        memcpy(&out[0] + i * share, &words[0] + i * share, 8 * share)
    return 16 * share * n_threads
