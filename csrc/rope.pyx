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
simd      a vector of pairs at once                         a masked step where E is no multiple of the lanes

Design
- The angles come in as tables. Rejected: sin and cos in the kernel, B H times for the same angle.
- Both numbers of a pair are read before either is written, so out may be x itself.
- x and out have strides of their own (b, t, h), the last axis has stride one: a part of the fused q, k, v is turned
  where it lies. Rejected: asking for contiguous arrays, which would be a copy there and back.
- In simd a head follows the other, as they lie in memory. Rejected: cos and sin kept in registers for all heads of a
  token, which goes through the token once for every vector of pairs and reads x in strides.
- The unit of work is a token with all its heads. Rejected: a sequence, for B is 1 when a model answers a prompt.
"""
from cython.parallel cimport prange

cdef extern from "simd/rope_kernel.h" nogil:
    ctypedef struct RopeKernels:
        void (*turn)(const float* x, Py_ssize_t x_head, float* out, Py_ssize_t out_head, Py_ssize_t heads,
                     const float* cos, const float* sin, Py_ssize_t E, bint inverse) noexcept nogil
    const RopeKernels* rope_kernels(const char* isa)

# Up to so many numbers, as for a single token, the calling thread is done sooner than it could have woken another.
cdef enum:
    ALONE = 8192

cdef const RopeKernels* simd = rope_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const RopeKernels* found = rope_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


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


def rope_simd(const float[:, :, :, :] x, float[:, :, :, :] out, const float[:, ::1] cos,             # IN, OUT, IN
              const float[:, ::1] sin, bint inverse, int n_threads):                                 # IN
    """Adds vectors along the pairs of a head."""
    cdef Py_ssize_t r, b, t, T = x.shape[1], H = x.shape[2], E = cos.shape[1]
    cdef Py_ssize_t x_head = x.strides[2] // sizeof(float), out_head = out.strides[2] // sizeof(float)
    for r in prange(x.shape[0] * T, nogil=True, num_threads=n_threads, schedule="static",
                    use_threads_if=x.shape[0] * T * H * E > ALONE):
        b = r // T
        t = r % T
        simd.turn(&x[b, t, 0, 0], x_head, &out[b, t, 0, 0], out_head, H, &cos[t, 0], &sin[t, 0], E, inverse)


RUNGS = {"naive": {"rope": rope_naive}, "parallel": {"rope": rope_parallel}, "simd": {"rope": rope_simd}}
