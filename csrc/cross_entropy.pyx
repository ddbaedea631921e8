"""Cross-entropy loss of a language model, forward and backward.

    lse[r]        = log(sum_v exp(logits[r, v]))                    logits: (R, V), lse, losses, targets: (R,)
    losses[r]     = lse[r] - logits[r, targets[r]]                  0 where targets[r] < 0: such a row is ignored
    dlogits[r, v] = (exp(logits[r, v] - lse[r]) - [v = targets[r]]) scale              0 in an ignored row

exp(-losses[r]) is the probability that the model gives to the target of row r. All arrays are float32, except targets:
int32 and below V, which the caller has checked. For a mean loss, scale is 1 / number of rows that count.

rung      the one idea it adds                              what it costs
naive     the maximum of a row, then the sum under it       a row of logits is read from memory twice
parallel  rows are independent: one thread each             the same work, several rows at a time
blocked   maximum and sum of a block while it is in L1      one more exp per block
simd      blocks in vectors; the next block is prefetched   one kernel per instruction set; smaller blocks and other
                                                            sums, so the last bits differ from blocked

Design
- The softmax of a row is never stored: the gradient needs only lse, one float per row. Rejected: keeping the
  probabilities, R V floats more.
- The sum, its logarithm and the difference to the target are doubles, rounded once. Rejected: floats. A sum of 50257
  terms may be off by 50257 * 2^-24 = 0.3 %, and a loss far below lse loses its digits in the difference.
- dlogits may be the memory of logits: each element is read before it is written, by the same thread, and never again.
- simd adds the exponentials of a block as floats, in four vectors, and the blocks as doubles. It prefetches the next
  block while exp keeps the core busy with this one. Rejected: relying on the hardware prefetcher, which runs ahead only
  while the core reads, so that exp and memory take turns.
- The gradient has no blocked rung: it passes over a row once, so there is nothing to keep in cache. simd tests no lane
  for being the target: scale is subtracted from that one element after its row is written.
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

# Columns per block: 4096 columns are 16 KB of logits, half of the smallest L1 in use (32 KB). A shorter row is one
# block. BLOCK also fixes the order of summation.
cdef enum:
    BLOCK = 4096


cdef void row_of_loss(const float[:, ::1] logits, const int[::1] targets, float[::1] losses, float[::1] lse,
                      Py_ssize_t r) noexcept nogil:
    """Compute lse and loss of row r. The maximum is subtracted before exp, so nothing overflows and one term is 1."""
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
    """Apply the formula to one row after the other, on one thread."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(logits.shape[0]):
            row_of_loss(logits, targets, losses, lse, r)


def cross_entropy_parallel(const float[:, ::1] logits, const int[::1] targets, float[::1] losses,       # IN, IN, OUT
                           float[::1] lse, int n_threads):                                              # OUT
    """Add threads: each owns whole rows, so nothing is shared and nothing is reduced."""
    cdef Py_ssize_t r
    for r in prange(logits.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_loss(logits, targets, losses, lse, r)


cdef void blocks_of_loss(const float[:, ::1] logits, const int[::1] targets, float[::1] losses, float[::1] lse,
                         Py_ssize_t r) noexcept nogil:
    """Compute lse and loss of row r, block by block.

    -FLT_MAX means "no maximum yet": no finite number is below it. Unlike -inf it can be subtracted from a logit of
    -inf, so that a block that is masked as a whole adds 0 and not NaN.
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
        total = total * exp(before - top) + part        # a factor <= 1 rescales the sum to the new maximum
    log_total = top + log(total)
    lse[r] = <float> log_total
    losses[r] = 0 if targets[r] < 0 else <float> (log_total - logits[r, targets[r]])


def cross_entropy_blocked(const float[:, ::1] logits, const int[::1] targets, float[::1] losses,        # IN, IN, OUT
                          float[::1] lse, int n_threads):                                               # OUT
    """Add blocks of columns: a running maximum and a rescaled sum (Milakov and Gimelshein, 2018)."""
    cdef Py_ssize_t r
    for r in prange(logits.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        blocks_of_loss(logits, targets, losses, lse, r)


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
    """Add vectors: the blocks of a row, four vectors at a time. A thread takes one contiguous run of rows."""
    cdef Py_ssize_t k, r, R = logits.shape[0], V = logits.shape[1], share = (R + n_threads - 1) // n_threads
    if n_threads == 1:                                                  # without a region, which would cost more
        with nogil:                                                     # than a few rows
            simd.loss(R, V, &logits[0, 0], &targets[0], &losses[0], &lse[0])
        return
    for k in prange((R + share - 1) // share if R else 0, nogil=True, num_threads=n_threads, schedule="static"):
        r = k * share
        simd.loss(min(share, R - r), V, &logits[0, 0] + r * V, &targets[0] + r, &losses[0] + r, &lse[0] + r)


cdef void row_of_gradient(const float[:, ::1] logits, const int[::1] targets, const float[::1] lse,
                          float[:, ::1] dlogits, float scale, Py_ssize_t r) noexcept nogil:
    """Compute dlogits[r, :]: the probabilities, minus 1 at the target. logits and dlogits may be one array."""
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
    """Apply the formula to one row after the other, on one thread."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(logits.shape[0]):
            row_of_gradient(logits, targets, lse, dlogits, scale, r)


def cross_entropy_backward_parallel(const float[:, ::1] logits, const int[::1] targets,                 # IN, IN
                                    const float[::1] lse, float[:, ::1] dlogits, float scale,           # IN, OUT
                                    int n_threads):
    """Add threads: each owns whole rows."""
    cdef Py_ssize_t r
    for r in prange(logits.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_gradient(logits, targets, lse, dlogits, scale, r)


def cross_entropy_backward_simd(const float[:, ::1] logits, const int[::1] targets,                     # IN, IN
                                const float[::1] lse, float[:, ::1] dlogits, float scale,               # IN, OUT
                                int n_threads):
    """Add vectors. The 1 of the target is subtracted after its row is written."""
    cdef Py_ssize_t k, r, R = logits.shape[0], V = logits.shape[1], share = (R + n_threads - 1) // n_threads
    if n_threads == 1:
        with nogil:
            simd.gradient(R, V, &logits[0, 0], &targets[0], &lse[0], &dlogits[0, 0], scale)
        return
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
