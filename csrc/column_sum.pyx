"""Column sums: the gradient of a bias that was added to every row.

    out[c] = sum_r x[r, c]                    x: (R, C), out: (C,), float32; out[c] += ... with accumulate

rung      the one idea it adds                         what it costs
naive     one column after the other                   a cache line of x is fetched for each of its 16 columns
parallel  columns are independent: one thread each     threads read the same lines
blocked   a tile of columns is one line of x           a buffer of sums per thread
simd      four lines of x at a time, in registers      the last tile may be narrower

Design
- A column is summed from the first row to the last, whatever the number of threads, so the bits do not depend on them.
  Rejected: dividing the rows among threads. Their partial sums would pay only for a very narrow x.
"""
from cython.parallel cimport parallel, prange, threadid
from libc.stdlib cimport free, malloc

cdef extern from "simd/column_sum_kernel.h" nogil:
    ctypedef struct ColumnSumKernels:
        void (*add_rows)(const float* x, Py_ssize_t row, Py_ssize_t rows, int n, float* out, bint add) noexcept nogil
    const ColumnSumKernels* column_sum_kernels(const char* isa)

# Columns per tile. LINE: 16 floats are one cache line, so that no two threads share a line of x. TILE: four lines for
# simd are at least 16 sums of 4 lanes, so that they wait for the loads and not for each other.
cdef enum:
    LINE = 16
    TILE = 64


cdef void column_total(const float[:, ::1] x, float[::1] out, Py_ssize_t c, bint accumulate) noexcept nogil:
    """Compute out[c] = sum_r x[r, c] down one column."""
    cdef Py_ssize_t r
    cdef float total = 0
    for r in range(x.shape[0]):
        total += x[r, c]
    out[c] = out[c] + total if accumulate else total


def column_sum_naive(const float[:, ::1] x, float[::1] out, bint accumulate, int n_threads):  # IN, OUT
    """Sum one column after the other, on one thread."""
    cdef Py_ssize_t c
    with nogil:
        for c in range(x.shape[1]):
            column_total(x, out, c, accumulate)


def column_sum_parallel(const float[:, ::1] x, float[::1] out, bint accumulate, int n_threads):  # IN, OUT
    """Add threads: columns are independent."""
    cdef Py_ssize_t c
    for c in prange(x.shape[1], nogil=True, num_threads=n_threads, schedule="static"):
        column_total(x, out, c, accumulate)


def column_sum_blocked(const float[:, ::1] x, float[::1] out, bint accumulate, int n_threads):  # IN, OUT
    """Add tiles of one cache line: each line of x is read once and used whole."""
    cdef Py_ssize_t k, r, c, width, first, C = x.shape[1]
    cdef float* total = NULL
    cdef float* buffer = <float*> malloc(<size_t> n_threads * LINE * sizeof(float))
    if buffer == NULL:
        raise MemoryError("[column_sum] no memory for the partial sums")
    with nogil, parallel(num_threads=n_threads):
        total = buffer + threadid() * LINE
        for k in prange((C + LINE - 1) // LINE, schedule="static"):
            first = k * LINE
            width = min(LINE, C - first)
            for c in range(LINE):
                total[c] = 0
            for r in range(x.shape[0]):
                for c in range(width):
                    total[c] = total[c] + x[r, first + c]
            for c in range(width):
                out[first + c] = out[first + c] + total[c] if accumulate else total[c]
    free(buffer)


cdef const ColumnSumKernels* simd = column_sum_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const ColumnSumKernels* found = column_sum_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


def column_sum_simd(const float[:, ::1] x, float[::1] out, bint accumulate, int n_threads):  # IN, OUT
    """Add vectors: TILE columns are summed in registers, row after row."""
    cdef Py_ssize_t k, R = x.shape[0], C = x.shape[1]
    if n_threads == 1:                                      # without a region, which would cost more than a few rows
        with nogil:
            for k in range((C + TILE - 1) // TILE):
                simd.add_rows(&x[0, 0] + k * TILE, C, R, min(TILE, C - k * TILE), &out[k * TILE], accumulate)
        return
    for k in prange((C + TILE - 1) // TILE, nogil=True, num_threads=n_threads, schedule="static"):
        simd.add_rows(&x[0, 0] + k * TILE, C, R, min(TILE, C - k * TILE), &out[k * TILE], accumulate)


RUNGS = {
    "naive": {"column_sum": column_sum_naive},
    "parallel": {"column_sum": column_sum_parallel},
    "blocked": {"column_sum": column_sum_blocked},
    "simd": {"column_sum": column_sum_simd},
}
