"""Element-wise ops: gelu, swiglu, a sum, and dropout.

    gelu      y = x/2 (1 + tanh(u)),  u = sqrt(2/pi) (x + 0.044715 x^3)            x, y: (N,), float32
              dx = dy ((1 + t)/2 + x/2 (1 - t^2) u'),  t = tanh(u)
    swiglu    y[r, f] = g s h,  s = 1 / (1 + exp(-g))                              x: (R, 2F), y: (R, F)
              with g = x[r, f], the gate, and h = x[r, F + f], what it lets through
              dg = dy h s (1 + g (1 - s)),  dh = dy g s
    add       y = a + b                                                            a, b, y: (N,)
    dropout   y[r, c] = residual[r, c] + (x[r, c] / (1 - rate) if kept, else 0)    all (R, C)
              its gradient is dropout of dy, with the same key and without residual

gelu in its tanh form is from Hendrycks and Gimpel, 2016; swiglu from Shazeer, 2020; dropout from Srivastava and others,
2014, scaled while training so that nothing is left to do afterwards.

rung      the one idea it adds                              what it costs
naive     the formula, one element after the other          one thread
parallel  elements are independent: a piece each            opening a region, much of it for small arrays
blocked   left out: every element is read once and written once, so there is nothing for a cache to keep

Design
- Element i of an output needs element i of the inputs alone: any number of threads gives the same bits, and gelu, add,
  dropout and gelu_backward may write over an input. swiglu may not: its rows change width.
- swiglu_backward computes the sigmoid again. Rejected: keeping it from the forward pass, which is R F floats more in
  memory to save one exp.
- Whether an element is kept depends on (key, site, sequence, position, column) alone. The generator is SplitMix64
  (Steele, Lea and Flood, 2014) with variant 13 of Stafford's mixing functions, 2011, as in the JDK. draw(seed, n) is
  number n, from 0, of the stream that starts at seed, and the number of one level is the seed of the next:
      row(r) = draw(draw(draw(mix(key), site), sequence + r // T), r % T)
      kept(r, c) = (draw(row(r), c) >> 32) >= round(rate 2^32)
  Rejected: a generator with a state, whose n-th number waits for those before it, so that the mask would depend on how
  rows are shared out; and a mask kept in memory, which backward can as well draw again.
- key is mixed before it is used. Rejected: starting a stream at key itself: keys that differ by a multiple of the
  stream's step would then give the same numbers at shifted sites.
- 32 bits against a limit: the chance to be kept is 1 - rate to within 2^-33. rate 0 gives the limit 0, which keeps all.
- A dropped element is 0, whatever x is. Rejected: x times 0, which is NaN where x is not finite.
"""
from cython.parallel cimport prange

cdef extern from "scalar.h" nogil:
    float gelu_value(float x)
    float gelu_slope(float x)
    float sigmoid_value(float x)


def gelu_naive(const float[::1] x, float[::1] out, int n_threads):                                    # IN, OUT
    """The formula, element by element."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(x.shape[0]):
            out[i] = gelu_value(x[i])


def gelu_parallel(const float[::1] x, float[::1] out, int n_threads):                                 # IN, OUT
    """Adds threads: each owns one piece of the array."""
    cdef Py_ssize_t i
    for i in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        out[i] = gelu_value(x[i])


def gelu_backward_naive(const float[::1] dy, const float[::1] x, float[::1] dx, int n_threads):       # IN, IN, OUT
    """The slope at x, times what arrives."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(x.shape[0]):
            dx[i] = dy[i] * gelu_slope(x[i])


def gelu_backward_parallel(const float[::1] dy, const float[::1] x, float[::1] dx, int n_threads):    # IN, IN, OUT
    """Adds threads: each owns one piece of the array."""
    cdef Py_ssize_t i
    for i in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        dx[i] = dy[i] * gelu_slope(x[i])


cdef void swiglu_row(const float[:, ::1] x, float[:, ::1] out, Py_ssize_t r) noexcept nogil:
    """out[r, :] (F,) from x[r, :] = (gate (F,), up (F,)). exp(-gate) may be infinite: the sigmoid is then 0."""
    cdef Py_ssize_t f, F = out.shape[1]
    for f in range(F):
        out[r, f] = x[r, f] * sigmoid_value(x[r, f]) * x[r, F + f]


def swiglu_naive(const float[:, ::1] x, float[:, ::1] out, int n_threads):                            # IN, OUT
    """The formula, one row after the other."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(x.shape[0]):
            swiglu_row(x, out, r)


def swiglu_parallel(const float[:, ::1] x, float[:, ::1] out, int n_threads):                         # IN, OUT
    """Adds threads: each owns whole rows."""
    cdef Py_ssize_t r
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        swiglu_row(x, out, r)


cdef void swiglu_backward_row(const float[:, ::1] dy, const float[:, ::1] x, float[:, ::1] dx,
                              Py_ssize_t r) noexcept nogil:
    """dx[r, :] (2F,): the gradient of the gate, then that of up. g s (1 - s) is the slope of the sigmoid, times g."""
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
    """Both halves of the formula, one row after the other."""
    cdef Py_ssize_t r
    with nogil:
        for r in range(x.shape[0]):
            swiglu_backward_row(dy, x, dx, r)


def swiglu_backward_parallel(const float[:, ::1] dy, const float[:, ::1] x, float[:, ::1] dx,         # IN, IN, OUT
                             int n_threads):
    """Adds threads: each owns whole rows."""
    cdef Py_ssize_t r
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        swiglu_backward_row(dy, x, dx, r)


def add_naive(const float[::1] a, const float[::1] b, float[::1] out, int n_threads):                 # IN, IN, OUT
    """One sum after the other. It has no gradient of its own: dy goes to both sides as it is."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(a.shape[0]):
            out[i] = a[i] + b[i]


def add_parallel(const float[::1] a, const float[::1] b, float[::1] out, int n_threads):              # IN, IN, OUT
    """Adds threads: each owns one piece of the array."""
    cdef Py_ssize_t i
    for i in prange(a.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        out[i] = a[i] + b[i]


cdef unsigned long long mix(unsigned long long z) noexcept nogil:
    """What SplitMix64 makes of its state: each bit of z reaches all bits of the result, and no two z share a result."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
    return z ^ (z >> 31)


cdef unsigned long long draw(unsigned long long seed, unsigned long long n) noexcept nogil:
    """Number n of the stream that starts at seed. Its step is 2^64 over the golden ratio, made odd."""
    return mix(seed + (n + 1) * 0x9E3779B97F4A7C15ULL)


cdef struct Mask:                       # what the rows of one call have in common
    unsigned long long stream           # draw(mix(key), site)
    unsigned long long limit            # rate as a fraction of 2^32
    unsigned long long sequence         # of row 0
    Py_ssize_t T                        # rows per sequence
    float scale                         # 1 / (1 - rate)


cdef Mask mask_of(double rate, unsigned long long key, unsigned long long site, unsigned long long sequence,
                  Py_ssize_t T) noexcept nogil:
    """What does not change from row to row, in double where it is rounded."""
    cdef Mask mask
    mask.stream = draw(mix(key), site)
    mask.limit = <unsigned long long> (rate * 4294967296.0 + 0.5)
    mask.sequence = sequence
    mask.T = T
    mask.scale = <float> (1 / (1 - rate))
    return mask


cdef void dropout_row(const float[:, ::1] x, const float[:, ::1] residual, float[:, ::1] out, Py_ssize_t r,
                      Mask mask) noexcept nogil:
    """out[r, :]; the row's own stream is numbered by column."""
    cdef Py_ssize_t c
    cdef float value
    cdef unsigned long long row = draw(draw(mask.stream, mask.sequence + r // mask.T), r % mask.T)
    for c in range(x.shape[1]):
        value = x[r, c] * mask.scale if draw(row, c) >> 32 >= mask.limit else 0
        out[r, c] = value if residual is None else residual[r, c] + value


def dropout_naive(const float[:, ::1] x, const float[:, ::1] residual, float[:, ::1] out,             # IN, IN, OUT
                  double rate, unsigned long long key, unsigned long long site,
                  unsigned long long sequence, Py_ssize_t T, int n_threads):
    """A draw for each element, one row after the other."""
    cdef Py_ssize_t r
    cdef Mask mask = mask_of(rate, key, site, sequence, T)
    with nogil:
        for r in range(x.shape[0]):
            dropout_row(x, residual, out, r, mask)


def dropout_parallel(const float[:, ::1] x, const float[:, ::1] residual, float[:, ::1] out,          # IN, IN, OUT
                     double rate, unsigned long long key, unsigned long long site,
                     unsigned long long sequence, Py_ssize_t T, int n_threads):
    """Adds threads: each owns whole rows, and a row's numbers depend on its place alone."""
    cdef Py_ssize_t r
    cdef Mask mask = mask_of(rate, key, site, sequence, T)
    for r in prange(x.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        dropout_row(x, residual, out, r, mask)


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
}
