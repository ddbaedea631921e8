"""The loss of a language model: how much probability every row of logits gives to its target.

    lse[r]        = log(sum_v exp(logits[r, v]))                    logits: (R, V), lse, losses, targets: (R,)
    losses[r]     = lse[r] - logits[r, targets[r]]                  0 where targets[r] < 0: such a row does not count
    dlogits[r, v] = (exp(logits[r, v] - lse[r]) - [v = targets[r]]) scale              0 in a row that does not count

All float32, targets int32 and below V: the caller has checked them. scale is 1 / number of rows for a mean loss.

rung      the one idea it adds                              what it costs
naive     the maximum of a row, then the sum under it       a row of logits comes from memory twice
parallel  rows are independent: one thread each             the same work, several rows at a time
blocked   maximum and sum of a block while it is in L1      one more exp for every block
simd      blocks in vectors, the next on its way meanwhile  a kernel for every instruction set; smaller blocks and other
                                                            sums, so other bits than blocked

Design
- The softmax of a row is never stored: lse, one float, is all that the gradient needs. Rejected: keeping the
  probabilities, R V floats more.
- The sum, its logarithm and the difference to the target are doubles and are rounded once. Rejected: floats, where a
  sum of 50257 terms may be off by 50257 * 2^-24 = 0.3 %, and a loss far below lse loses its digits to the difference.
- dlogits may be the memory of logits: an element is read before it is written, by the same thread, and never again.
- simd adds the exponentials of a block as floats, in four vectors, and the blocks as doubles. It asks for the next
  block while exp keeps the processor busy with this one. Rejected: leaving that to the processor, which fetches ahead
  only while it reads: exp and memory then wait for each other.
- The gradient has no blocked rung: it passes over a row once, there is nothing to keep in cache. In simd no lane asks
  whether it is the target: scale goes off that one element when its row is written.
"""
from cython.parallel cimport prange
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, exp, expf, log

cdef extern from "simd/cross_entropy_kernel.h" nogil:
    ctypedef struct CrossEntropyKernels:
        void (*loss)(Py_ssize_t rows, Py_ssize_t columns, const float* logits, const int* targets, float* losses,
                     float* lse) noexcept nogil
        void (*gradient)(Py_ssize_t rows, Py_ssize_t columns, const float* logits, const int* targets,
                         const float* lse, float* dlogits, float scale) noexcept nogil
    const CrossEntropyKernels* cross_entropy_kernels(const char* isa)

# Columns per block: 16 KB of logits, half of the smallest L1 in use (32 KB). A shorter row is one block. It also fixes
# the order of summation.
cdef enum:
    BLOCK = 4096


cdef void row_of_loss(const float[:, ::1] logits, const int[::1] targets, float[::1] losses, float[::1] lse,
                      Py_ssize_t r) noexcept nogil:
    """lse and loss of row r; the maximum goes off before exp, so nothing overflows and one term of the sum is 1."""
    cdef Py_ssize_t v
    cdef float top = -INFINITY
    cdef double total = 0, log_total
    for v in range(logits.shape[1]):
        top = logits[r, v] if logits[r, v] > top else top
    for v in range(logits.shape[1]):
        total += expf(logits[r, v] - top)
    log_total = top + log(total)
    lse[r] = <float> log_total
    losses[r] = 0 if targets[r] < 0 else <float> (log_total - logits[r, targets[r]])


def cross_entropy_naive(const float[:, ::1] logits, const int[::1] targets, float[::1] losses,          # IN, IN, OUT
                        float[::1] lse, int n_threads):                                                 # OUT
    """The formula, one row after the other."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(logits.shape[0]):
            row_of_loss(logits, targets, losses, lse, r)


def cross_entropy_parallel(const float[:, ::1] logits, const int[::1] targets, float[::1] losses,       # IN, IN, OUT
                           float[::1] lse, int n_threads):                                              # OUT
    """Adds threads: each owns whole rows, so nothing is shared and nothing is reduced."""
    cdef Py_ssize_t r
    for r in prange(logits.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_loss(logits, targets, losses, lse, r)


cdef void blocks_of_loss(const float[:, ::1] logits, const int[::1] targets, float[::1] losses, float[::1] lse,
                         Py_ssize_t r) noexcept nogil:
    """lse and loss of row r, block by block.

    -FLT_MAX stands for "nothing seen": no number is below it, and unlike -inf it can be subtracted from a logit of
    -inf: blocks that are masked as a whole add nothing.
    """
    cdef Py_ssize_t v, first, last, V = logits.shape[1]
    cdef float top = -FLT_MAX, before
    cdef double total = 0, part, log_total
    for first from 0 <= first < V by BLOCK:
        last = min(first + BLOCK, V)
        before = top
        for v in range(first, last):
            top = logits[r, v] if logits[r, v] > top else top
        part = 0
        for v in range(first, last):
            part += expf(logits[r, v] - top)
        total = total * exp(before - top) + part        # a factor <= 1 moves the sum under the new maximum
    log_total = top + log(total)
    lse[r] = <float> log_total
    losses[r] = 0 if targets[r] < 0 else <float> (log_total - logits[r, targets[r]])


def cross_entropy_blocked(const float[:, ::1] logits, const int[::1] targets, float[::1] losses,        # IN, IN, OUT
                          float[::1] lse, int n_threads):                                               # OUT
    """Adds blocks of columns: a running maximum and a rescaled sum (Milakov and Gimelshein, 2018)."""
    cdef Py_ssize_t r
    for r in prange(logits.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        blocks_of_loss(logits, targets, losses, lse, r)


cdef void row_of_gradient(const float[:, ::1] logits, const int[::1] targets, const float[::1] lse,
                          float[:, ::1] dlogits, float scale, Py_ssize_t r) noexcept nogil:
    """dlogits[r, :], the probabilities less the one that was asked for. logits and dlogits may be one array."""
    cdef Py_ssize_t v
    if targets[r] < 0:
        for v in range(logits.shape[1]):
            dlogits[r, v] = 0
        return
    for v in range(logits.shape[1]):
        dlogits[r, v] = (expf(logits[r, v] - lse[r]) - (1 if v == targets[r] else 0)) * scale


def cross_entropy_backward_naive(const float[:, ::1] logits, const int[::1] targets,                    # IN, IN
                                 const float[::1] lse, float[:, ::1] dlogits, float scale,              # IN, OUT
                                 int n_threads):
    """The formula, one row after the other."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(logits.shape[0]):
            row_of_gradient(logits, targets, lse, dlogits, scale, r)


def cross_entropy_backward_parallel(const float[:, ::1] logits, const int[::1] targets,                 # IN, IN
                                    const float[::1] lse, float[:, ::1] dlogits, float scale,           # IN, OUT
                                    int n_threads):
    """Adds threads: each owns whole rows."""
    cdef Py_ssize_t r
    for r in prange(logits.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_gradient(logits, targets, lse, dlogits, scale, r)


cdef const CrossEntropyKernels* simd = cross_entropy_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const CrossEntropyKernels* found = cross_entropy_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


def cross_entropy_simd(const float[:, ::1] logits, const int[::1] targets, float[::1] losses,           # IN, IN, OUT
                       float[::1] lse, int n_threads):                                                  # OUT
    """Adds vectors: the blocked rows, four vectors at a time; a thread takes one run of rows."""
    cdef Py_ssize_t k, r, R = logits.shape[0], V = logits.shape[1], share = (R + n_threads - 1) // n_threads
    for k in prange((R + share - 1) // share if R else 0, nogil=True, num_threads=n_threads, schedule="static"):
        r = k * share
        simd.loss(min(share, R - r), V, &logits[0, 0] + r * V, &targets[0] + r, &losses[0] + r, &lse[0] + r)


def cross_entropy_backward_simd(const float[:, ::1] logits, const int[::1] targets,                     # IN, IN
                                const float[::1] lse, float[:, ::1] dlogits, float scale,               # IN, OUT
                                int n_threads):
    """Adds vectors; the target's share of 1 goes off when its row is written."""
    cdef Py_ssize_t k, r, R = logits.shape[0], V = logits.shape[1], share = (R + n_threads - 1) // n_threads
    for k in prange((R + share - 1) // share if R else 0, nogil=True, num_threads=n_threads, schedule="static"):
        r = k * share
        simd.gradient(min(share, R - r), V, &logits[0, 0] + r * V, &targets[0] + r, &lse[0] + r,
                      &dlogits[0, 0] + r * V, scale)


RUNGS = {
    "naive": {"cross_entropy": cross_entropy_naive, "cross_entropy_backward": cross_entropy_backward_naive},
    "parallel": {"cross_entropy": cross_entropy_parallel, "cross_entropy_backward": cross_entropy_backward_parallel},
    "blocked": {"cross_entropy": cross_entropy_blocked},
    "simd": {"cross_entropy": cross_entropy_simd, "cross_entropy_backward": cross_entropy_backward_simd},
}
