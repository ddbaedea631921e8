"""Rotary position embedding (RoPE): rotate pairs of a head's elements by an angle that grows with the position.

    out[j]     = x[j] cos[t, j] - x[j + E] sin[t, j]           x, out: (B, T, H, 2E), float32, last axis contiguous
    out[j + E] = x[j + E] cos[t, j] + x[j] sin[t, j]           cos, sin: (T, E), 0 <= j < E, for every b, t, h

The rotation is eq. (34) of Su et al., 2021, with the pairs (j, j + E) of Hugging Face's Llama instead of (2j, 2j + 1).
Row t of cos and sin belongs to token t of x: the caller slices the tables to the positions of x. The inverse and the
gradient are the same rotation with -sin, selected by `inverse`.

rung      the one idea it adds                              what it costs
naive     the formula, one head after the other             one thread
parallel  tokens are independent: a run per thread          opening a region, which dominates for a single token
blocked   left out: x is read once, and the row of cos and sin that H heads share stays in L1
simd      a vector of pairs at once                         a masked step where E is not a multiple of the lanes

Design
- The angles are given as tables. Rejected: sin and cos in the kernel, B H times for the same angle.
- Both elements of a pair are read before either is written, so out may be x itself.
- x and out have strides of their own for b, t and h; only the last axis has stride one. q and k are therefore rotated
  inside the fused qkv array. Rejected: requiring contiguous arrays, which costs a copy there and back.
- simd visits the heads of a token as they lie in memory. Rejected: keeping cos and sin in registers for all heads,
  which visits a token once per vector of pairs and reads x in strides.
- The unit of work is a token with all its heads. Rejected: a sequence, because B is 1 during prefill of one prompt.
"""
from cython.parallel cimport prange

cdef extern from "simd/rope_kernel.h" nogil:
    ctypedef struct RopeKernels:
        void (*rotate)(const float* x, Py_ssize_t x_head, float* out, Py_ssize_t out_head, Py_ssize_t heads,
                       const float* cos, const float* sin, Py_ssize_t E, bint inverse) noexcept nogil
    const RopeKernels* rope_kernels(const char* isa)

# ALONE: up to this many elements, as in a single token, the calling thread finishes before it could wake another.
cdef enum:
    ALONE = 8192

cdef void rotate(const float* x, float* out, const float* cos, const float* sin, Py_ssize_t E,
                 bint inverse) noexcept nogil:
    """Rotate one head at one position: x and out are (2E,), cos and sin (E,)."""
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
    """Apply the formula to one head after the other, on one thread."""
    cdef Py_ssize_t b, t, h
    with nogil:
        for b in range(x.shape[0]):
            for t in range(x.shape[1]):
                for h in range(x.shape[2]):
                    rotate(&x[b, t, h, 0], &out[b, t, h, 0], &cos[t, 0], &sin[t, 0], cos.shape[1], inverse)


cdef void rotate_token(const float[:, :, :, :] x, float[:, :, :, :] out, const float[:, ::1] cos,
                       const float[:, ::1] sin, bint inverse, Py_ssize_t b, Py_ssize_t t) noexcept nogil:
    """Rotate the H heads of token t in sequence b."""
    cdef Py_ssize_t h
    for h in range(x.shape[2]):
        rotate(&x[b, t, h, 0], &out[b, t, h, 0], &cos[t, 0], &sin[t, 0], cos.shape[1], inverse)


def rope_parallel(const float[:, :, :, :] x, float[:, :, :, :] out, const float[:, ::1] cos,         # IN, OUT, IN
                  const float[:, ::1] sin, bint inverse, int n_threads):                             # IN
    """Add threads: each owns whole tokens, counted over sequences and positions together."""
    cdef Py_ssize_t r, T = x.shape[1]
    for r in prange(x.shape[0] * T, nogil=True, num_threads=n_threads, schedule="static"):
        rotate_token(x, out, cos, sin, inverse, r // T, r % T)


cdef const RopeKernels* simd = rope_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const RopeKernels* found = rope_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


def rope_simd(const float[:, :, :, :] x, float[:, :, :, :] out, const float[:, ::1] cos,             # IN, OUT, IN
              const float[:, ::1] sin, bint inverse, int n_threads):                                 # IN
    """Add vectors along the pairs of a head."""
    cdef Py_ssize_t r, b, t, T = x.shape[1], H = x.shape[2], E = cos.shape[1]
    cdef Py_ssize_t x_head = x.strides[2] // sizeof(float), out_head = out.strides[2] // sizeof(float)
    if x.shape[0] * T * H * E <= ALONE or n_threads == 1:
        with nogil:
            for b in range(x.shape[0]):
                for t in range(T):
                    simd.rotate(&x[b, t, 0, 0], x_head, &out[b, t, 0, 0], out_head, H, &cos[t, 0], &sin[t, 0], E,
                                inverse)
        return
    for r in prange(x.shape[0] * T, nogil=True, num_threads=n_threads, schedule="static"):
        b = r // T
        t = r % T
        simd.rotate(&x[b, t, 0, 0], x_head, &out[b, t, 0, 0], out_head, H, &cos[t, 0], &sin[t, 0], E, inverse)


RUNGS = {"naive": {"rope": rope_naive}, "parallel": {"rope": rope_parallel}, "simd": {"rope": rope_simd}}
