"""One step of AdamW, and the sum of squares that clipping needs.

    g = grad_scale grad                                        param, grad, m, v: (N,), float32
    m = beta1 m + (1 - beta1) g                                the mean of g, slowly forgetting
    v = beta2 v + (1 - beta2) g^2                              the mean of g^2
    m' = m / (1 - beta1^step),  v' = v / (1 - beta2^step)      step counts from 1
    param = param - lr (m' / (sqrt(v') + eps) + weight_decay param)

    squared_norm(x) = sum_i x[i]^2                             x: (N,), the result a Python float

The step is Loshchilov and Hutter, 2019, algorithm 2, with the decay scaled by lr as PyTorch has it. m and v start at
zero; dividing by 1 - beta^step takes out what that start still weighs (Kingma and Ba, 2015, section 3).

rung      the one idea it adds                                    what it costs
naive     the formulas, one element after the other               one thread; four arrays read, three written
parallel  adamw: elements are independent, chunks of them each    the same traffic
          squared_norm: a partial sum for each chunk              N / CHUNK doubles, and a short sum of them
blocked   left out: every element is used once, so a cache has nothing to keep; memory sets the pace
simd      a root and a quotient for 4, 8 or 16 elements; eight    for many parameters nothing: memory sets the pace; a
          registers of doubles for the sum of squares             sum has another order, so other last bits

Design
- One pass over the four arrays. Rejected: a pass for each line above, as array code has it, which moves m and v twice.
- What is the same for all elements is computed once, in double, and rounded to float once: in float 1 - 0.999 alone
  would be off by 1 part in 10^5.
- Decay and step are added up and taken from param in one subtraction: one rounding. Rejected: to multiply param by
  1 - lr weight_decay first, a factor that is rounded to float: at lr weight_decay = 10^-6 that is up to 3 % of the
  decay, the same way for every parameter.
- grad_scale is part of the kernel: clipping and averaging cost no pass of their own.
- Squares are added in double, where neither the square of a float nor any sum of them can overflow. Partial sums belong
  to chunks of a fixed length and are added in order, so any number of threads gives the same bits. Rejected: an OpenMP
  reduction, whose order depends on the threads.
- One quotient and one root for each element, both rounded correctly. Rejected: the approximate reciprocal root, of 12
  or 14 bits, whose repair takes as long and whose value differs between makers of processors.
- In simd a call with few chunks stays with the calling thread.
- Indices are Py_ssize_t: the parameters of a large model have more than 2^31 bytes.
"""
from cython.parallel cimport prange
from libc.math cimport pow, sqrtf
from libc.stdlib cimport free, malloc

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/adamw_kernel.h" nogil:
    ctypedef struct Scalars:            # of one step, float32; the header says what each is
        float beta1, rest1, beta2, rest2, rate, correction2, eps, decay, grad_scale
    ctypedef struct AdamwKernels:
        void (*update)(float* param, const float* grad, float* m, float* v, Py_ssize_t n,
                       const Scalars* scalars) noexcept nogil
        double (*sum_of_squares)(const float* x, Py_ssize_t n) noexcept nogil
    const AdamwKernels* adamw_kernels(const char* isa)

# 4096 floats are 256 cache lines: threads share no line of an aligned array, and the partial sums of squares are one
# double for 16 KB of x. 124 million parameters are 30,000 chunks, enough to share out evenly.
cdef enum:
    CHUNK = 4096
# Up to ALONE chunks the simd rung is done sooner than it could have woken another thread.
cdef enum:
    ALONE = 4

cdef const AdamwKernels* simd = adamw_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const AdamwKernels* found = adamw_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


cdef Scalars scalars(double lr, double beta1, double beta2, double eps, double weight_decay, Py_ssize_t step,
                     double grad_scale) noexcept nogil:
    """What all elements share, from double."""
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
    """n elements from the given addresses on. Scalars come by value: no store through a pointer can change them."""
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
    """The formulas, element by element."""
    cdef Scalars s = scalars(lr, beta1, beta2, eps, weight_decay, step, grad_scale)
    with nogil:
        update(&param[0], &grad[0], &m[0], &v[0], param.shape[0], s)


def adamw_parallel(float[::1] param, const float[::1] grad, float[::1] m, float[::1] v,       # INOUT, IN, INOUT, INOUT
                   double lr, double beta1, double beta2, double eps, double weight_decay, Py_ssize_t step,
                   double grad_scale, int n_threads):
    """Adds threads: each owns a run of whole chunks."""
    cdef Py_ssize_t k, first, N = param.shape[0]
    cdef Scalars s = scalars(lr, beta1, beta2, eps, weight_decay, step, grad_scale)
    for k in prange((N + CHUNK - 1) // CHUNK, nogil=True, num_threads=n_threads, schedule="static"):
        first = k * CHUNK
        update(&param[first], &grad[first], &m[first], &v[first], min(CHUNK, N - first), s)


def adamw_simd(float[::1] param, const float[::1] grad, float[::1] m, float[::1] v,           # INOUT, IN, INOUT, INOUT
               double lr, double beta1, double beta2, double eps, double weight_decay, Py_ssize_t step,
               double grad_scale, int n_threads):
    """Adds vectors: a square root and a quotient for all lanes at once."""
    cdef Py_ssize_t k, first, N = param.shape[0], chunks = (N + CHUNK - 1) // CHUNK
    cdef Scalars s = scalars(lr, beta1, beta2, eps, weight_decay, step, grad_scale)
    for k in prange(chunks, nogil=True, num_threads=n_threads, schedule="static", use_threads_if=chunks > ALONE):
        first = k * CHUNK
        simd.update(&param[first], &grad[first], &m[first], &v[first], min(CHUNK, N - first), &s)


cdef double sum_of_squares(const float* x, Py_ssize_t n) noexcept nogil:
    """sum_i x[i]^2 in order, each square exact: 24 bits times 24 bits fit the 53 of a double."""
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += <double> x[i] * <double> x[i]
    return total


def squared_norm_naive(const float[::1] x, int n_threads):                                    # IN
    """One sum from the first element to the last."""
    cdef double total
    with nogil:
        total = sum_of_squares(&x[0], x.shape[0])
    return total


def squared_norm_parallel(const float[::1] x, int n_threads):                                 # IN
    """Adds threads: each sums whole chunks, and the caller adds the partial sums in order."""
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
    """Adds vectors: as many sums of doubles as it takes for none to wait for itself, over the same chunks."""
    cdef Py_ssize_t k, N = x.shape[0], chunks = (N + CHUNK - 1) // CHUNK
    cdef double total = 0
    cdef double* partial = <double*> scratch_floats(2 * chunks)         # a double has the size of two floats
    if partial == NULL:
        raise MemoryError("[squared_norm] no memory for the partial sums")
    with nogil:
        for k in prange(chunks, num_threads=n_threads, schedule="static", use_threads_if=chunks > ALONE):
            partial[k] = simd.sum_of_squares(&x[k * CHUNK], min(CHUNK, N - k * CHUNK))
        for k in range(chunks):
            total += partial[k]
    return total


RUNGS = {
    "naive": {"adamw": adamw_naive, "squared_norm": squared_norm_naive},
    "parallel": {"adamw": adamw_parallel, "squared_norm": squared_norm_parallel},
    "simd": {"adamw": adamw_simd, "squared_norm": squared_norm_simd},
}
