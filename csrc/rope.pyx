"""Rotary positions: turn pairs of a head's numbers by an angle that grows with the position.

    out[j]     = x[j] cos[t, j] - x[j + E] sin[t, j]           x, out: (B, T, H, 2E), float32, last axis contiguous
    out[j + E] = x[j + E] cos[t, j] + x[j] sin[t, j]           cos, sin: (T, E), 0 <= j < E, for every b, t, h

The rotation is that of Su and others, 2021, eq. (34), with the pairs (j, j + E) of Hugging Face's Llama in place of
(2j, 2j + 1). Row t of cos and sin belongs to token t of x: the caller cuts them to the positions that x stands at. A
rotation is undone, and its gradient found, by turning back: the same with -sin, which is what inverse asks for.

rung      the one idea it adds                              what it costs
naive     the formula, one head after the other             one thread
parallel  tokens are independent: a piece each              opening a region, much of it for a single token
blocked   left out: x is read once, and the row of cos and sin that H heads share is in L1 after the first

Design
- The angles come in as tables. Rejected: sin and cos in the kernel, B H times for the same angle.
- Both numbers of a pair are read before either is written, so out may be x itself.
- x and out have strides of their own (b, t, h), the last axis has stride one: a part of the fused q, k, v is turned
  where it lies. Rejected: asking for contiguous arrays, which would be a copy there and back.
- The unit of work is a token with all its heads. Rejected: a sequence, for B is 1 when a model answers a prompt.
"""
from cython.parallel cimport prange


cdef void rotate(const float* x, float* out, const float* cos, const float* sin, Py_ssize_t E,
                 bint inverse) noexcept nogil:
    """One head at one position: x and out are (2E,), cos and sin (E,)."""
    cdef Py_ssize_t j
    cdef float first, second, s
    for j in range(E):
        first = x[j]
        second = x[j + E]
        s = -sin[j] if inverse else sin[j]
        out[j] = first * cos[j] - second * s
        out[j + E] = second * cos[j] + first * s


def rope_naive(const float[:, :, :, :] x, float[:, :, :, :] out, const float[:, ::1] cos,            # IN, OUT, IN
               const float[:, ::1] sin, bint inverse, int n_threads):                                # IN
    """The formula, head by head."""
    cdef Py_ssize_t b, t, h
    with nogil:
        for b in range(x.shape[0]):
            for t in range(x.shape[1]):
                for h in range(x.shape[2]):
                    rotate(&x[b, t, h, 0], &out[b, t, h, 0], &cos[t, 0], &sin[t, 0], cos.shape[1], inverse)


cdef void rotate_token(const float[:, :, :, :] x, float[:, :, :, :] out, const float[:, ::1] cos,
                       const float[:, ::1] sin, bint inverse, Py_ssize_t b, Py_ssize_t t) noexcept nogil:
    """The H heads of token t in sequence b."""
    cdef Py_ssize_t h
    for h in range(x.shape[2]):
        rotate(&x[b, t, h, 0], &out[b, t, h, 0], &cos[t, 0], &sin[t, 0], cos.shape[1], inverse)


def rope_parallel(const float[:, :, :, :] x, float[:, :, :, :] out, const float[:, ::1] cos,         # IN, OUT, IN
                  const float[:, ::1] sin, bint inverse, int n_threads):                             # IN
    """Adds threads: each owns whole tokens, counted over sequences and positions together."""
    cdef Py_ssize_t r, T = x.shape[1]
    for r in prange(x.shape[0] * T, nogil=True, num_threads=n_threads, schedule="static"):
        rotate_token(x, out, cos, sin, inverse, r // T, r % T)


RUNGS = {"naive": {"rope": rope_naive}, "parallel": {"rope": rope_parallel}}
