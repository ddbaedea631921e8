"""Element-wise ops, forward and backward: GELU, SwiGLU, a sum of two arrays, and dropout.

    gelu      y = x/2 (1 + tanh(u)),  u = sqrt(2/pi) (x + 0.044715 x^3)            x, y: (N,), float32
              dx = dy ((1 + t)/2 + x/2 (1 - t^2) u'),  t = tanh(u)
    swiglu    y[r, f] = g s h,  s = 1 / (1 + exp(-g))                              x: (R, 2F), y: (R, F)
              with the gate g = x[r, f] and the gated value h = x[r, F + f]
              dg = dy h s (1 + g (1 - s)),  dh = dy g s
    add       y = a + b                                                            a, b, y: (N,)
    dropout   y[r, c] = residual[r, c] + (x[r, c] / (1 - rate) if kept, else 0)    all (R, C)
              its gradient is dropout of dy with the same key, without residual

The tanh form of gelu is from Hendrycks and Gimpel, 2016; swiglu from Shazeer, 2020; dropout from Srivastava et al.,
2014. Dropout scales the kept elements while training, so that inference needs no scaling.

rung      the one idea it adds                              what it costs
naive     the formula, one element after the other          one thread
parallel  elements are independent: a piece per thread      opening a region, which dominates for small arrays
blocked   left out: every element is read once and written once, so a cache has nothing to keep
simd      an exponential for 4, 8 or 16 elements at once    its own exp (simd/math.h), off by a unit in the last place

Design
- Element i of an output needs only element i of the inputs. Any number of threads therefore gives the same bits, and
  gelu, add, dropout and gelu_backward may write over an input. swiglu may not, because its rows change width.
- swiglu_backward computes the sigmoid again. Rejected: keeping it from the forward pass, R F floats more in memory to
  save one exp.
- Whether an element is kept depends on (key, site, sequence, position, column) alone. The generator is SplitMix64
  (Steele, Lea and Flood, 2014) with variant 13 of Stafford's mixing functions, 2011, as in the JDK. draw(seed, n) is
  number n, from 0, of the stream that starts at seed. The number of one level is the seed of the next:
      row(r) = draw(draw(draw(mix(key), site), sequence + r // T), r % T)
      kept(r, c) = (draw(row(r), c) >> 32) >= round(rate 2^32)
  Rejected: a generator with a state, whose n-th number needs all those before it, so that the mask would depend on how
  rows are divided; storing the mask, which backward can draw again.
- key is mixed before it is used. Rejected: starting a stream at key itself. Two keys that differ by a multiple of the
  stream's step would then give the same numbers at shifted sites.
- 32 bits are compared with a limit, so the probability of keeping is 1 - rate to within 2^-33. rate 0 gives limit 0,
  which keeps everything.
- A dropped element is 0 whatever x is. Rejected: multiplying x by 0, which is NaN where x is not finite.
- simd sends the last elements of an array through the same polynomial under a mask, so that the bits of an element do
  not depend on its place. Rejected: the C library for the remainder, which is another function.
- simd keeps a small array on the calling thread. Rejected: a team of fewer threads. OpenMP would end the others, and
  the next op would have to start them again.
- swiglu in simd prefetches the next row while it computes one, because gate and up are streams that break off every F
  elements. Rejected: stores that bypass the cache, because the next op reads what is written here.
- The draws of dropout are integers in a plain loop, which the compiler vectorises, and the same in every rung.
  Rejected: 64-bit products in the vocabulary of simd/ for this single use.
"""
from cython.parallel cimport prange

cdef extern from "scalar.h" nogil:
    float gelu_value(float x)
    float gelu_slope(float x)
    float sigmoid_value(float x)

cdef extern from "simd/activation_kernel.h" nogil:
    unsigned long long mix(unsigned long long z)
    unsigned long long draw(unsigned long long seed, unsigned long long n)
    ctypedef struct ActivationKernels:
        void (*gelu)(const float* x, float* out, Py_ssize_t n) noexcept nogil
        void (*gelu_backward)(const float* dy, const float* x, float* dx, Py_ssize_t n) noexcept nogil
        void (*swiglu)(const float* x, float* out, Py_ssize_t F) noexcept nogil
        void (*swiglu_backward)(const float* dy, const float* x, float* dx, Py_ssize_t F) noexcept nogil
        void (*add)(const float* a, const float* b, float* out, Py_ssize_t n) noexcept nogil
        void (*dropout)(const float* x, const float* residual, float* out, Py_ssize_t n, unsigned long long row,
                        unsigned long long limit, float scale) noexcept nogil
    const ActivationKernels* activation_kernels(const char* isa)

# PIECE is the unit that threads share: 4096 floats = 256 cache lines, so that no two threads write to the same line
# of an aligned array. Up to ALONE elements the calling thread finishes before it could wake another. An addition
# takes a fraction of the time of an exponential, so its limit is higher.
cdef enum:
    PIECE = 4096
    ALONE = 8192
    ALONE_ADDING = 32768


def gelu_naive(const float[::1] x, float[::1] out, int n_threads):                                    # IN, OUT
    """Apply the formula to one element after the other, on one thread."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(x.shape[0]):
            out[i] = gelu_value(x[i])


def gelu_parallel(const float[::1] x, float[::1] out, int n_threads):                                 # IN, OUT
    """Add threads: each owns one piece of the array."""
    cdef Py_ssize_t i
    for i in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        out[i] = gelu_value(x[i])


cdef const ActivationKernels* simd = activation_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const ActivationKernels* found = activation_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


def gelu_simd(const float[::1] x, float[::1] out, int n_threads):                                     # IN, OUT
    """Add vectors: one exponential in registers for all lanes at once."""
    cdef Py_ssize_t k, N = x.shape[0]
    if N <= ALONE or n_threads == 1:
        with nogil:
            simd.gelu(&x[0], &out[0], N)
        return
    for k in prange((N + PIECE - 1) // PIECE, nogil=True, num_threads=n_threads, schedule="static"):
        simd.gelu(&x[k * PIECE], &out[k * PIECE], min(PIECE, N - k * PIECE))


def gelu_backward_naive(const float[::1] dy, const float[::1] x, float[::1] dx, int n_threads):       # IN, IN, OUT
    """Multiply dy by the slope of gelu at x."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(x.shape[0]):
            dx[i] = dy[i] * gelu_slope(x[i])


def gelu_backward_parallel(const float[::1] dy, const float[::1] x, float[::1] dx, int n_threads):    # IN, IN, OUT
    """Add threads: each owns one piece of the array."""
    cdef Py_ssize_t i
    for i in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        dx[i] = dy[i] * gelu_slope(x[i])


def gelu_backward_simd(const float[::1] dy, const float[::1] x, float[::1] dx, int n_threads):        # IN, IN, OUT
    """Add vectors, as in gelu_simd."""
    cdef Py_ssize_t k, N = x.shape[0]
    if N <= ALONE or n_threads == 1:
        with nogil:
            simd.gelu_backward(&dy[0], &x[0], &dx[0], N)
        return
    for k in prange((N + PIECE - 1) // PIECE, nogil=True, num_threads=n_threads, schedule="static"):
        simd.gelu_backward(&dy[k * PIECE], &x[k * PIECE], &dx[k * PIECE], min(PIECE, N - k * PIECE))


cdef void swiglu_row(const float[:, ::1] x, float[:, ::1] out, Py_ssize_t r) noexcept nogil:
    """Compute out[r, :] (F,) from x[r, :] = (gate (F,), up (F,)). exp(-gate) may be infinite; the sigmoid is then 0."""
    cdef Py_ssize_t f, F = out.shape[1]
    for f in range(F):
        out[r, f] = x[r, f] * sigmoid_value(x[r, f]) * x[r, F + f]


def swiglu_naive(const float[:, ::1] x, float[:, ::1] out, int n_threads):                            # IN, OUT
    """Apply the formula to one row after the other, on one thread."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(x.shape[0]):
            swiglu_row(x, out, r)


def swiglu_parallel(const float[:, ::1] x, float[:, ::1] out, int n_threads):                         # IN, OUT
    """Add threads: each owns whole rows."""
    cdef Py_ssize_t r
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        swiglu_row(x, out, r)


def swiglu_simd(const float[:, ::1] x, float[:, ::1] out, int n_threads):                             # IN, OUT
    """Add vectors along each row: LANES gates and the LANES values of up that lie F elements further on."""
    cdef Py_ssize_t r, R = x.shape[0], F = out.shape[1]
    if R * F <= ALONE or n_threads == 1:
        with nogil:
            for r in range(R):
                simd.swiglu(&x[r, 0], &out[r, 0], F)
        return
    for r in prange(R, nogil=True, num_threads=n_threads, schedule="static"):
        simd.swiglu(&x[r, 0], &out[r, 0], F)


cdef void swiglu_backward_row(const float[:, ::1] dy, const float[:, ::1] x, float[:, ::1] dx,
                              Py_ssize_t r) noexcept nogil:
    """Compute dx[r, :] (2F,), the gradients of gate and up. The derivative of g s(g) is s (1 + g (1 - s))."""
    cdef Py_ssize_t f, F = dy.shape[1]
    cdef float gate, up, s
    for f in range(F):
        gate = x[r, f]
        up = x[r, F + f]
        s = sigmoid_value(gate)
        dx[r, f] = dy[r, f] * up * s * (1 + gate * (1 - s))
        dx[r, F + f] = dy[r, f] * gate * s


def swiglu_backward_naive(const float[:, ::1] dy, const float[:, ::1] x, float[:, ::1] dx,            # IN, IN, OUT
                          int n_threads):
    """Apply both formulas to one row after the other, on one thread."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(x.shape[0]):
            swiglu_backward_row(dy, x, dx, r)


def swiglu_backward_parallel(const float[:, ::1] dy, const float[:, ::1] x, float[:, ::1] dx,         # IN, IN, OUT
                             int n_threads):
    """Add threads: each owns whole rows."""
    cdef Py_ssize_t r
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        swiglu_backward_row(dy, x, dx, r)


def swiglu_backward_simd(const float[:, ::1] dy, const float[:, ::1] x, float[:, ::1] dx,             # IN, IN, OUT
                         int n_threads):
    """Add vectors along each row, as in swiglu_simd."""
    cdef Py_ssize_t r, R = x.shape[0], F = dy.shape[1]
    if R * F <= ALONE or n_threads == 1:
        with nogil:
            for r in range(R):
                simd.swiglu_backward(&dy[r, 0], &x[r, 0], &dx[r, 0], F)
        return
    for r in prange(R, nogil=True, num_threads=n_threads, schedule="static"):
        simd.swiglu_backward(&dy[r, 0], &x[r, 0], &dx[r, 0], F)


def add_naive(const float[::1] a, const float[::1] b, float[::1] out, int n_threads):                 # IN, IN, OUT
    """Add one pair after the other. add needs no backward of its own: dy is the gradient of both inputs."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(a.shape[0]):
            out[i] = a[i] + b[i]


def add_parallel(const float[::1] a, const float[::1] b, float[::1] out, int n_threads):              # IN, IN, OUT
    """Add threads: each owns one piece of the array."""
    cdef Py_ssize_t i
    for i in prange(a.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        out[i] = a[i] + b[i]


def add_simd(const float[::1] a, const float[::1] b, float[::1] out, int n_threads):                  # IN, IN, OUT
    """Add vectors: LANES sums per instruction."""
    cdef Py_ssize_t k, N = a.shape[0]
    if N <= ALONE_ADDING or n_threads == 1:
        with nogil:
            simd.add(&a[0], &b[0], &out[0], N)
        return
    for k in prange((N + PIECE - 1) // PIECE, nogil=True, num_threads=n_threads, schedule="static"):
        simd.add(&a[k * PIECE], &b[k * PIECE], &out[k * PIECE], min(PIECE, N - k * PIECE))


cdef struct Mask:                       # the arguments of dropout that all rows of a call share
    unsigned long long stream           # draw(mix(key), site)
    unsigned long long limit            # rate as a fraction of 2^32
    unsigned long long sequence         # of row 0
    Py_ssize_t T                        # rows per sequence
    float scale                         # 1 / (1 - rate)


cdef Mask mask_of(double rate, unsigned long long key, unsigned long long site, unsigned long long sequence,
                  Py_ssize_t T) noexcept nogil:
    """Compute once what all rows share. Everything that is rounded is computed as a double."""
    cdef Mask mask
    mask.stream = draw(mix(key), site)
    mask.limit = <unsigned long long> (rate * 4294967296.0 + 0.5)
    mask.sequence = sequence
    mask.T = T
    mask.scale = <float> (1 / (1 - rate))
    return mask


cdef unsigned long long stream_of(Mask mask, Py_ssize_t r) noexcept nogil:
    """Return the seed of row r, from which its elements are drawn by column."""
    return draw(draw(mask.stream, mask.sequence + r // mask.T), r % mask.T)


cdef void dropout_row(const float[:, ::1] x, const float[:, ::1] residual, float[:, ::1] out, Py_ssize_t r,
                      Mask mask) noexcept nogil:
    """Compute out[r, :]: the row has a stream of its own, numbered by column."""
    cdef Py_ssize_t c
    cdef float value
    cdef unsigned long long row = stream_of(mask, r)
    for c in range(x.shape[1]):
        value = x[r, c] * mask.scale if draw(row, c) >> 32 >= mask.limit else 0
        out[r, c] = value if residual is None else residual[r, c] + value


def dropout_naive(const float[:, ::1] x, const float[:, ::1] residual, float[:, ::1] out,             # IN, IN, OUT
                  double rate, unsigned long long key, unsigned long long site,
                  unsigned long long sequence, Py_ssize_t T, int n_threads):
    """Draw once per element, one row after the other, on one thread."""
    cdef Py_ssize_t r
    cdef Mask mask = mask_of(rate, key, site, sequence, T)
    with nogil:
        for r in range(x.shape[0]):
            dropout_row(x, residual, out, r, mask)


def dropout_parallel(const float[:, ::1] x, const float[:, ::1] residual, float[:, ::1] out,          # IN, IN, OUT
                     double rate, unsigned long long key, unsigned long long site,
                     unsigned long long sequence, Py_ssize_t T, int n_threads):
    """Add threads: each owns whole rows. The numbers of a row depend only on its position."""
    cdef Py_ssize_t r
    cdef Mask mask = mask_of(rate, key, site, sequence, T)
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        dropout_row(x, residual, out, r, mask)


def dropout_simd(const float[:, ::1] x, const float[:, ::1] residual, float[:, ::1] out,              # IN, IN, OUT
                 double rate, unsigned long long key, unsigned long long site,
                 unsigned long long sequence, Py_ssize_t T, int n_threads):
    """Add vectors: 64 draws at a time, then a vector selection. The mask equals that of every other rung."""
    cdef Py_ssize_t r, C = x.shape[1]
    cdef Mask mask = mask_of(rate, key, site, sequence, T)
    cdef bint plain = residual is None
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static",
                    use_threads_if=x.shape[0] * C > ALONE):
        if plain:
            simd.dropout(&x[r, 0], NULL, &out[r, 0], C, stream_of(mask, r), mask.limit, mask.scale)
        else:
            simd.dropout(&x[r, 0], &residual[r, 0], &out[r, 0], C, stream_of(mask, r), mask.limit, mask.scale)


RUNGS = {
    "naive": {
        "gelu": gelu_naive,
        "gelu_backward": gelu_backward_naive,
        "swiglu": swiglu_naive,
        "swiglu_backward": swiglu_backward_naive,
        "add": add_naive,
        "dropout": dropout_naive,
    },
    "parallel": {
        "gelu": gelu_parallel,
        "gelu_backward": gelu_backward_parallel,
        "swiglu": swiglu_parallel,
        "swiglu_backward": swiglu_backward_parallel,
        "add": add_parallel,
        "dropout": dropout_parallel,
    },
    "simd": {
        "gelu": gelu_simd,
        "gelu_backward": gelu_backward_simd,
        "swiglu": swiglu_simd,
        "swiglu_backward": swiglu_backward_simd,
        "add": add_simd,
        "dropout": dropout_simd,
    },
}
