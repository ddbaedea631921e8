"""Layer normalisation, forward and backward (Ba, Kiros and Hinton, 2016, eq. (3)).

Every row gets mean 0 and variance 1; then every column is scaled and shifted.

    total[r, c] = x[r, c] + residual[r, c]                            without a residual, total is x itself
    mean[r]     = sum_c total[r, c] / C                               rows: (R, C), mean, rstd: (R,), float32
    rstd[r]     = 1 / sqrt(sum_c (total[r, c] - mean[r])^2 / C + eps)
    xhat[r, c]  = (total[r, c] - mean[r]) rstd[r]                     never stored
    out[r, c]   = xhat[r, c] weight[c] + bias[c]                      weight, bias: (C,)

The backward pass takes total as its x. With g[r, c] = dy[r, c] weight[c]:

    dx[r, c]    = rstd[r] (g[r, c] - sum_k g[r, k] / C - xhat[r, c] sum_k g[r, k] xhat[r, k] / C) + dtotal[r, c]
    dweight[c]  = sum_r dy[r, c] xhat[r, c]        dbias[c] = sum_r dy[r, c]        added to what is there if accumulate

rung      the one idea it adds                                 what it costs
naive     the formulas: rows for dx, columns for dweight       backward reads dy and x twice, once down the columns
parallel  rows are independent, and so are columns             the same work, several rows or columns at a time
blocked   dx and the sums of a chunk of rows in one pass       2 C floats per chunk, and one more sum over the chunks
simd      rows in vectors, the residual in the first pass      one kernel per instruction set; other sums along a row,
                                                               so the last bits differ from blocked

Design
- The variance takes two passes, the mean first. Rejected: sum of squares minus square of the sum in one pass, which
  cancels when the mean is large compared to the deviations.
- Sums along a row or down a column are doubles, so that their error does not grow with C or R. Only the ROWS terms in a
  chunk of blocked are added as floats. Rejected: floats throughout. Their error may reach C 2^-24 of the largest entry,
  and in a row with a large mean it would shift every deviation.
- simd adds along a row in four vectors of floats. It then corrects the mean by the mean of the deviations, which the
  second pass computes anyway. Rejected: doubles for every sum, which need twice the vectors and convert each element.
  Only the squared deviations are doubles, because as floats they overflow from 2^64 on.
- The sum over rows is split into chunks of ROWS rows whatever the number of threads, and the chunks are added in order,
  so that the bits do not depend on the threads. Rejected: one partial sum per thread.
- dtotal is the gradient arriving at total through the residual path. Adding it here saves a pass over dx.
- The forward pass has no blocked rung: a row as wide as a model stays in L1 between its passes without any tiles.
"""
from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.stdlib cimport free, malloc

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/layernorm_kernel.h" nogil:
    ctypedef struct Layernorm:
        Py_ssize_t columns
        const float* x
        const float* residual
        const float* weight
        const float* bias
        float* out
        float* total
        float* mean
        float* rstd
        float eps
    ctypedef struct LayernormGradient:
        Py_ssize_t columns
        const float* dy
        const float* x
        const float* weight
        const float* mean
        const float* rstd
        const float* dtotal
        float* dx
    ctypedef struct LayernormKernels:
        void (*rows)(const Layernorm* a, Py_ssize_t first, Py_ssize_t last) noexcept nogil
        void (*gradient)(const LayernormGradient* a, Py_ssize_t first, Py_ssize_t last, float* part) noexcept nogil
        void (*add_chunks)(const float* part, Py_ssize_t chunks, Py_ssize_t stride, float* out, int width,
                           bint accumulate) noexcept nogil
    const LayernormKernels* layernorm_kernels(const char* isa)
    int LAYERNORM_TILE

# ROWS is the number of rows per chunk of a sum over rows. A chunk moves 3 x ROWS x C floats (dy, x, dx) and leaves 2
# C for the second sum, 2 % more. Fewer rows would leave more; more rows would leave threads without work: 256 rows
# are 8 chunks. LINE is the number of columns of the second sum per task: 16 floats are one cache line.
cdef enum:
    ROWS = 32
    LINE = 16


cdef void row_of_layernorm(const float[:, ::1] x, const float[:, ::1] residual, const float[::1] weight,
                           const float[::1] bias, float[:, ::1] out, float[:, ::1] total, float[::1] mean,
                           float[::1] rstd, float eps, Py_ssize_t r) noexcept nogil:
    """Compute row r, line by line of the formula; z is the row that is normalised."""
    cdef Py_ssize_t c, C = x.shape[1]
    cdef const float* z = &x[r, 0]
    cdef double added = 0, squares = 0, deviation
    if residual is not None:
        for c in range(C):
            total[r, c] = x[r, c] + residual[r, c]
        z = &total[r, 0]
    for c in range(C):
        added += z[c]
    mean[r] = <float> (added / C)
    for c in range(C):
        deviation = z[c] - mean[r]
        squares += deviation * deviation
    rstd[r] = <float> (1 / sqrt(squares / C + eps))
    for c in range(C):
        out[r, c] = (z[c] - mean[r]) * rstd[r] * weight[c] + (0 if bias is None else bias[c])


def layernorm_naive(const float[:, ::1] x, const float[:, ::1] residual,                                # IN, IN
                    const float[::1] weight, const float[::1] bias, float[:, ::1] out,                  # IN, IN, OUT
                    float[:, ::1] total, float[::1] mean, float[::1] rstd, float eps,                   # OUT, OUT, OUT
                    int n_threads):
    """Apply the formula to one row after the other, on one thread."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(x.shape[0]):
            row_of_layernorm(x, residual, weight, bias, out, total, mean, rstd, eps, r)


def layernorm_parallel(const float[:, ::1] x, const float[:, ::1] residual,                             # IN, IN
                       const float[::1] weight, const float[::1] bias, float[:, ::1] out,               # IN, IN, OUT
                       float[:, ::1] total, float[::1] mean, float[::1] rstd, float eps,                # OUT, OUT, OUT
                       int n_threads):
    """Add threads: each owns whole rows. They share only weight and bias, which are read-only."""
    cdef Py_ssize_t r
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        row_of_layernorm(x, residual, weight, bias, out, total, mean, rstd, eps, r)


cdef const LayernormKernels* simd = layernorm_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const LayernormKernels* found = layernorm_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


def layernorm_simd(const float[:, ::1] x, const float[:, ::1] residual,                                 # IN, IN
                   const float[::1] weight, const float[::1] bias, float[:, ::1] out,                   # IN, IN, OUT
                   float[:, ::1] total, float[::1] mean, float[::1] rstd, float eps,                    # OUT, OUT, OUT
                   int n_threads):
    """Add vectors: three passes over a row, the first with the residual. A thread takes one contiguous run of rows."""
    cdef Py_ssize_t k, R = x.shape[0], share = (R + n_threads - 1) // n_threads
    cdef Layernorm a
    if R == 0:
        return
    a.columns, a.eps = x.shape[1], eps
    a.x, a.weight, a.residual, a.bias, a.total = &x[0, 0], &weight[0], NULL, NULL, NULL
    a.out, a.mean, a.rstd = &out[0, 0], &mean[0], &rstd[0]
    if residual is not None:
        a.residual, a.total = &residual[0, 0], &total[0, 0]
    if bias is not None:
        a.bias = &bias[0]
    if n_threads == 1:                                                  # without a region, which would cost more
        with nogil:                                                     # than a few rows
            simd.rows(&a, 0, R)
        return
    for k in prange((R + share - 1) // share, nogil=True, num_threads=n_threads, schedule="static"):
        simd.rows(&a, k * share, min((k + 1) * share, R))


cdef void row_of_gradient(const float[:, ::1] dy, const float[:, ::1] x, const float[::1] weight,
                          const float[::1] mean, const float[::1] rstd, const float[:, ::1] dtotal, float[:, ::1] dx,
                          Py_ssize_t r) noexcept nogil:
    """Compute dx[r, :]: g without its mean and without its component along xhat, scaled by rstd."""
    cdef Py_ssize_t c, C = x.shape[1]
    cdef double sum_g = 0, sum_g_xhat = 0
    cdef float g, xhat, mean_g, mean_g_xhat
    for c in range(C):
        g = dy[r, c] * weight[c]
        xhat = (x[r, c] - mean[r]) * rstd[r]
        sum_g += g
        sum_g_xhat += <double> g * xhat
    mean_g = <float> (sum_g / C)
    mean_g_xhat = <float> (sum_g_xhat / C)
    for c in range(C):
        g = dy[r, c] * weight[c]
        xhat = (x[r, c] - mean[r]) * rstd[r]
        dx[r, c] = rstd[r] * (g - mean_g - xhat * mean_g_xhat) + (0 if dtotal is None else dtotal[r, c])


cdef void column_of_gradient(const float[:, ::1] dy, const float[:, ::1] x, const float[::1] mean,
                             const float[::1] rstd, float[::1] dweight, float[::1] dbias, bint accumulate,
                             Py_ssize_t c) noexcept nogil:
    """Compute dweight[c] and dbias[c] down one column."""
    cdef Py_ssize_t r
    cdef double scaled = 0, shifted = 0
    for r in range(x.shape[0]):
        scaled += <double> dy[r, c] * ((x[r, c] - mean[r]) * rstd[r])
        shifted += dy[r, c]
    dweight[c] = <float> (dweight[c] + scaled if accumulate else scaled)
    if dbias is not None:
        dbias[c] = <float> (dbias[c] + shifted if accumulate else shifted)


def layernorm_backward_naive(const float[:, ::1] dy, const float[:, ::1] x,                             # IN, IN
                             const float[::1] weight, const float[::1] mean, const float[::1] rstd,     # IN, IN, IN
                             const float[:, ::1] dtotal, float[:, ::1] dx, float[::1] dweight,          # IN, OUT, OUT
                             float[::1] dbias, bint accumulate, int n_threads):                         # OUT
    """Apply the two formulas in two loops: columns for the parameters, rows for dx."""
    cdef Py_ssize_t r, c
    with nogil:
        for c in range(x.shape[1]):
            column_of_gradient(dy, x, mean, rstd, dweight, dbias, accumulate, c)
        for r in range(x.shape[0]):
            row_of_gradient(dy, x, weight, mean, rstd, dtotal, dx, r)


def layernorm_backward_parallel(const float[:, ::1] dy, const float[:, ::1] x,                          # IN, IN
                                const float[::1] weight, const float[::1] mean, const float[::1] rstd,  # IN, IN, IN
                                const float[:, ::1] dtotal, float[:, ::1] dx, float[::1] dweight,       # IN, OUT, OUT
                                float[::1] dbias, bint accumulate, int n_threads):                      # OUT
    """Add threads: each owns whole columns in the first loop and whole rows in the second."""
    cdef Py_ssize_t r, c
    with nogil:
        for c in prange(x.shape[1], num_threads=n_threads, schedule="static"):
            column_of_gradient(dy, x, mean, rstd, dweight, dbias, accumulate, c)
        for r in prange(x.shape[0], num_threads=n_threads, schedule="static"):
            row_of_gradient(dy, x, weight, mean, rstd, dtotal, dx, r)


cdef void chunk_of_gradient(const float[:, ::1] dy, const float[:, ::1] x, const float[::1] weight,
                            const float[::1] mean, const float[::1] rstd, const float[:, ::1] dtotal,
                            float[:, ::1] dx, float* part, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Compute dx of rows first to last - 1, and in part (2, C) what they add to dweight and dbias.

    A row of dy and x is read from memory once: the second use finds it in L1.
    """
    cdef Py_ssize_t r, c, C = x.shape[1]
    for c in range(2 * C):
        part[c] = 0
    for r in range(first, last):
        for c in range(C):
            part[c] = part[c] + dy[r, c] * ((x[r, c] - mean[r]) * rstd[r])
            part[C + c] = part[C + c] + dy[r, c]
        row_of_gradient(dy, x, weight, mean, rstd, dtotal, dx, r)


cdef void sum_of_chunks(const float* part, Py_ssize_t chunks, Py_ssize_t stride, float* out, Py_ssize_t width,
                        bint accumulate) noexcept nogil:
    """Set out[:width] to the sum over chunks k, in order, of part[k * stride:][:width]; width is at most LINE."""
    cdef Py_ssize_t k, c
    cdef double[LINE] total
    for c in range(LINE):
        total[c] = 0
    for k in range(chunks):
        for c in range(width):
            total[c] = total[c] + part[k * stride + c]
    for c in range(width):
        out[c] = <float> (out[c] + total[c] if accumulate else total[c])


def layernorm_backward_blocked(const float[:, ::1] dy, const float[:, ::1] x,                           # IN, IN
                               const float[::1] weight, const float[::1] mean, const float[::1] rstd,   # IN, IN, IN
                               const float[:, ::1] dtotal, float[:, ::1] dx, float[::1] dweight,        # IN, OUT, OUT
                               float[::1] dbias, bint accumulate, int n_threads):                       # OUT
    """Add chunks of rows: dx and partial sums of dweight and dbias while a row is in L1, then a sum over the chunks.

    With no rows there are no chunks, and the second sum still writes zeros.
    """
    cdef Py_ssize_t k, c, R = x.shape[0], C = x.shape[1], chunks = (R + ROWS - 1) // ROWS
    cdef float* part = <float*> malloc(max(1, chunks * 2 * C) * sizeof(float))            # (chunks, 2, C)
    if part == NULL:
        raise MemoryError("[layernorm_backward] no memory for the partial sums")
    with nogil:
        for k in prange(chunks, num_threads=n_threads, schedule="static"):
            chunk_of_gradient(dy, x, weight, mean, rstd, dtotal, dx, part + k * 2 * C, k * ROWS,
                              min((k + 1) * ROWS, R))
        for k in prange((C + LINE - 1) // LINE, num_threads=n_threads, schedule="static"):     # LINE columns
            c = k * LINE
            sum_of_chunks(part + c, chunks, 2 * C, &dweight[c], min(LINE, C - c), accumulate)
            if dbias is not None:
                sum_of_chunks(part + C + c, chunks, 2 * C, &dbias[c], min(LINE, C - c), accumulate)
    free(part)


def layernorm_backward_simd(const float[:, ::1] dy, const float[:, ::1] x,                              # IN, IN
                            const float[::1] weight, const float[::1] mean, const float[::1] rstd,      # IN, IN, IN
                            const float[:, ::1] dtotal, float[:, ::1] dx, float[::1] dweight,           # IN, OUT, OUT
                            float[::1] dbias, bint accumulate, int n_threads):                          # OUT
    """Add vectors to the chunks of blocked and to the sum over them."""
    cdef Py_ssize_t k, c, R = x.shape[0], C = x.shape[1], chunks = (R + ROWS - 1) // ROWS
    cdef float* part = scratch_floats(chunks * 2 * C)                                     # (chunks, 2, C)
    cdef LayernormGradient a
    if part == NULL:
        raise MemoryError("[layernorm_backward] no memory for the partial sums")
    a.columns, a.dtotal = C, NULL
    a.dy, a.x, a.weight, a.mean, a.rstd, a.dx = &dy[0, 0], &x[0, 0], &weight[0], &mean[0], &rstd[0], &dx[0, 0]
    if dtotal is not None:
        a.dtotal = &dtotal[0, 0]
    if n_threads == 1:                                                  # both loops below without a region
        with nogil:
            for k in range(chunks):
                simd.gradient(&a, k * ROWS, min((k + 1) * ROWS, R), part + k * 2 * C)
            simd.add_chunks(part, chunks, 2 * C, &dweight[0], C, accumulate)
            if dbias is not None:
                simd.add_chunks(part + C, chunks, 2 * C, &dbias[0], C, accumulate)
        return
    with nogil:
        for k in prange(chunks, num_threads=n_threads, schedule="static"):
            simd.gradient(&a, k * ROWS, min((k + 1) * ROWS, R), part + k * 2 * C)
        for k in prange((C + LAYERNORM_TILE - 1) // LAYERNORM_TILE, num_threads=n_threads, schedule="static"):
            c = k * LAYERNORM_TILE
            simd.add_chunks(part + c, chunks, 2 * C, &dweight[c], min(LAYERNORM_TILE, C - c), accumulate)
            if dbias is not None:
                simd.add_chunks(part + C + c, chunks, 2 * C, &dbias[c], min(LAYERNORM_TILE, C - c), accumulate)


RUNGS = {
    "naive": {"layernorm": layernorm_naive, "layernorm_backward": layernorm_backward_naive},
    "parallel": {"layernorm": layernorm_parallel, "layernorm_backward": layernorm_backward_parallel},
    "blocked": {"layernorm_backward": layernorm_backward_blocked},
    "simd": {"layernorm": layernorm_simd, "layernorm_backward": layernorm_backward_simd},
}
