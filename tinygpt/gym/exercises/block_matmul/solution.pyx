"""Multiply two matrices tile by tile: a tile of b serves every row of a while it is in the cache."""

cdef enum:
    TILE = 64


def matmul(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out):
    """Write a b into out."""
    cdef Py_ssize_t M = a.shape[0], K = a.shape[1], N = b.shape[1]
    cdef Py_ssize_t i, j, p, p0, j0
    cdef float left
    for i in range(M):
        for j in range(N):
            out[i, j] = 0
    with nogil:
        for p0 from 0 <= p0 < K by TILE:
            for j0 from 0 <= j0 < N by TILE:
                for i in range(M):
                    for p in range(p0, min(p0 + TILE, K)):
                        left = a[i, p]
                        for j in range(j0, min(j0 + TILE, N)):
                            out[i, j] += left * b[p, j]
