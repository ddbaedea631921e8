"""One step of AdamW, and the sum of squares that gradient clipping needs.

    g = grad_scale grad                                        param, grad, m, v: (N,), float32
    m = beta1 m + (1 - beta1) g                                running mean of g
    v = beta2 v + (1 - beta2) g^2                              running mean of g^2
    m' = m / (1 - beta1^step),  v' = v / (1 - beta2^step)      step counts from 1
    param = param - lr (m' / (sqrt(v') + eps) + weight_decay param)

    squared_norm(x) = sum_i x[i]^2                             x: (N,), the result a Python float

The step is algorithm 2 of Loshchilov and Hutter, 2019, with the decay multiplied by lr as in PyTorch. m and v start at
zero, and dividing by 1 - beta^step removes the bias of that start (Kingma and Ba, 2015, section 3).

rung      the one idea it adds                                    what it costs
naive     the formulas, one element after the other               one thread; four arrays read, three written
parallel  adamw: elements are independent, chunks per thread      the same memory traffic
          squared_norm: one partial sum per chunk                 N / CHUNK doubles, and a short sum of them
blocked   left out: every element is used once, so a cache has nothing to keep; memory is the limit
simd      a root and a quotient for 4, 8 or 16 elements; eight    no gain for many parameters, where memory is the
limit; registers of doubles for the sum of squares             the sum has another order, so other last bits

Design
- One pass over the four arrays. Rejected: one pass per line of the formula, as array code does, which moves m and v
  twice.
- Factors that all elements share are computed once as doubles and rounded to float once: as a float, 1 - 0.999 alone
  would be off by 1 part in 10^5.
- Decay and step are added and subtracted from param together, with one rounding. Rejected: multiplying param by
  1 - lr weight_decay first. That factor is rounded to float: at lr weight_decay = 10^-6 the error is up to 3 % of the
  decay, in the same direction for every parameter.
- grad_scale is an argument, so that clipping and averaging need no pass of their own.
- Squares are added as doubles, where neither the square of a float nor a sum of them can overflow. Partial sums belong
  to chunks of fixed length and are added in order, so any number of threads gives the same bits. Rejected: an OpenMP
  reduction, whose order depends on the threads.
- One quotient and one root per element, both correctly rounded. Rejected: the approximate reciprocal root of 12 or 14
  bits, whose refinement takes as long and whose value differs between processor vendors.
- A call with few chunks stays on the calling thread in simd.
- Indices are Py_ssize_t, because the parameters of a large model have more than 2^31 bytes.
"""
from cython.parallel cimport prange
from libc.math cimport pow, sqrtf
from libc.stdlib cimport free, malloc

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/adamw_kernel.h" nogil:
    ctypedef struct Scalars:            # constants of one step, float32; explained in the header
        float beta1, rest1, beta2, rest2, rate, correction2, eps, decay, grad_scale
    ctypedef struct AdamwKernels:
        void (*update)(float* param, const float* grad, float* m, float* v, Py_ssize_t n,
                       const Scalars* scalars) noexcept nogil
        double (*sum_of_squares)(const float* x, Py_ssize_t n) noexcept nogil
    const AdamwKernels* adamw_kernels(const char* isa)

# CHUNK: 4096 floats are 256 cache lines, so that threads share no line of an aligned array, and the partial sums of
# squares are one double per 16 KB of x. 124 million parameters are 30,000 chunks, enough to balance the threads.
cdef enum:
    CHUNK = 4096
# ALONE: up to this many chunks the simd rung finishes before it could wake another thread. Then, and with one thread,
# it opens no parallel region: opening one costs as much as a thousand parameters, even for a team of one.
cdef enum:
    ALONE = 4

cdef Scalars scalars(double lr, double beta1, double beta2, double eps, double weight_decay, Py_ssize_t step,
                     double grad_scale) noexcept nogil:
    """Compute the factors that all elements share, as doubles rounded once."""
    cdef Scalars s
    s.beta1 = <float> beta1
    s.rest1 = <float> (1 - beta1)
    s.beta2 = <float> beta2
    s.rest2 = <float> (1 - beta2)
    s.rate = <float> (lr / (1 - pow(beta1, <double> step)))
    s.correction2 = <float> (1 / (1 - pow(beta2, <double> step)))
    s.eps = <float> eps
    s.decay = <float> (lr * weight_decay)
    s.grad_scale = <float> grad_scale
    return s


cdef void update(float* param, const float* grad, float* m, float* v, Py_ssize_t n, Scalars s) noexcept nogil:
    """Update n elements. Scalars are passed by value, so that no store through a pointer can change them."""
    cdef Py_ssize_t i
    cdef float g, mean, square
    for i in range(n):
        g = s.grad_scale * grad[i]
        mean = s.beta1 * m[i] + s.rest1 * g
        square = s.beta2 * v[i] + s.rest2 * g * g
        m[i] = mean
        v[i] = square
        param[i] -= s.rate * mean / (sqrtf(square * s.correction2) + s.eps) + s.decay * param[i]


def adamw_naive(float[::1] param, const float[::1] grad, float[::1] m, float[::1] v,          # INOUT, IN, INOUT, INOUT
                double lr, double beta1, double beta2, double eps, double weight_decay, Py_ssize_t step,
                double grad_scale, int n_threads):
    """Apply the formulas to one element after the other, on one thread."""
    cdef Scalars s = scalars(lr, beta1, beta2, eps, weight_decay, step, grad_scale)
    with nogil:
        update(&param[0], &grad[0], &m[0], &v[0], param.shape[0], s)


def adamw_parallel(float[::1] param, const float[::1] grad, float[::1] m, float[::1] v,       # INOUT, IN, INOUT, INOUT
                   double lr, double beta1, double beta2, double eps, double weight_decay, Py_ssize_t step,
                   double grad_scale, int n_threads):
    """Add threads: each owns a run of whole chunks."""
    cdef Py_ssize_t k, first, N = param.shape[0]
    cdef Scalars s = scalars(lr, beta1, beta2, eps, weight_decay, step, grad_scale)
    for k in prange((N + CHUNK - 1) // CHUNK, nogil=True, num_threads=n_threads, schedule="static"):
        first = k * CHUNK
        update(&param[first], &grad[first], &m[first], &v[first], min(CHUNK, N - first), s)


cdef const AdamwKernels* simd = adamw_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const AdamwKernels* found = adamw_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


def adamw_simd(float[::1] param, const float[::1] grad, float[::1] m, float[::1] v,           # INOUT, IN, INOUT, INOUT
               double lr, double beta1, double beta2, double eps, double weight_decay, Py_ssize_t step,
               double grad_scale, int n_threads):
    """Add vectors: a square root and a quotient for all lanes at once."""
    cdef Py_ssize_t k, first, N = param.shape[0], chunks = (N + CHUNK - 1) // CHUNK
    cdef Scalars s = scalars(lr, beta1, beta2, eps, weight_decay, step, grad_scale)
    if chunks <= ALONE or n_threads == 1:
        with nogil:
            simd.update(&param[0], &grad[0], &m[0], &v[0], N, &s)
        return
    for k in prange(chunks, nogil=True, num_threads=n_threads, schedule="static"):
        first = k * CHUNK
        simd.update(&param[first], &grad[first], &m[first], &v[first], min(CHUNK, N - first), &s)


cdef double sum_of_squares(const float* x, Py_ssize_t n) noexcept nogil:
    """Return sum_i x[i]^2 in order. Each square is exact: 24 bits times 24 bits fit the 53 of a double."""
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += <double> x[i] * <double> x[i]
    return total


def squared_norm_naive(const float[::1] x, int n_threads):                                    # IN
    """Return one sum from the first element to the last."""
    cdef double total
    with nogil:
        total = sum_of_squares(&x[0], x.shape[0])
    return total


def squared_norm_parallel(const float[::1] x, int n_threads):                                 # IN
    """Add threads: each sums whole chunks, and the caller adds the partial sums in order."""
    cdef Py_ssize_t k, N = x.shape[0], chunks = (N + CHUNK - 1) // CHUNK
    cdef double total = 0
    cdef double* partial = <double*> malloc(max(chunks, 1) * sizeof(double))
    if partial == NULL:
        raise MemoryError("[squared_norm] no memory for the partial sums")
    with nogil:
        for k in prange(chunks, num_threads=n_threads, schedule="static"):
            partial[k] = sum_of_squares(&x[k * CHUNK], min(CHUNK, N - k * CHUNK))
        for k in range(chunks):
            total += partial[k]
    free(partial)
    return total


def squared_norm_simd(const float[::1] x, int n_threads):                                     # IN
    """Add vectors: enough independent sums of doubles that none waits for another, over the same chunks."""
    cdef Py_ssize_t k, N = x.shape[0], chunks = (N + CHUNK - 1) // CHUNK
    cdef double total = 0
    cdef double* partial = <double*> scratch_floats(2 * chunks)         # a double has the size of two floats
    if partial == NULL:
        raise MemoryError("[squared_norm] no memory for the partial sums")
    with nogil:
        if chunks <= ALONE or n_threads == 1:
            for k in range(chunks):
                partial[k] = simd.sum_of_squares(&x[k * CHUNK], min(CHUNK, N - k * CHUNK))
        else:
            for k in prange(chunks, num_threads=n_threads, schedule="static"):
                partial[k] = simd.sum_of_squares(&x[k * CHUNK], min(CHUNK, N - k * CHUNK))
        for k in range(chunks):
            total += partial[k]
    return total


RUNGS = {
    "naive": {"adamw": adamw_naive, "squared_norm": squared_norm_naive},
    "parallel": {"adamw": adamw_parallel, "squared_norm": squared_norm_parallel},
    "simd": {"adamw": adamw_simd, "squared_norm": squared_norm_simd},
}
