"""Multiply two matrices tile by tile."""

# Elements along one side of a tile: 64 x 64 floats are 16 KB, half of a small L1 cache.
cdef enum:
    TILE = 64


def matmul(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out):
    """Write a b into out.

    a : (M, K), b : (K, N)
        Only read them.
    out : (M, N)
        To be written; it holds NaN before the call.
    """
    cdef Py_ssize_t M = a.shape[0], K = a.shape[1], N = b.shape[1]
    cdef Py_ssize_t i, j, p, p0, j0
    # Your code. Variables that loops use must be declared with cdef; otherwise they are slow Python objects.
    # A loop in steps of a tile is written like this:   for p0 from 0 <= p0 < K by TILE:
    raise NotImplementedError
