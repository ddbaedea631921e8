"""A matrix product with a packed panel of b and a micro-tile of 6 rows and 32 columns in vector registers."""

from libc.stdlib cimport free, malloc

cdef extern from *:
    """
    #include <string.h>
    typedef float vec __attribute__((vector_size(64)));    /* 16 floats; the compiler splits it if registers are smaller */

    /* out(m, n) = or += a(m, k) sliver(k, 32): 12 sums of 16 floats stay in registers for all k steps. */
    static void micro_kernel(int m, int n, long k, const float* a, long row, const float* sliver, float* out, long N,
                             int add) {
        vec sum[6][2];
        memset(sum, 0, sizeof sum);
        const float* line[6];
        for (int i = 0; i < 6; i++) line[i] = a + (i < m ? i : 0) * row;    /* rows behind the end repeat the first */
        for (long p = 0; p < k; p++) {
            vec left, right;
            memcpy(&left, sliver + 32 * p, 64);
            memcpy(&right, sliver + 32 * p + 16, 64);
            for (int i = 0; i < 6; i++) {
                sum[i][0] += left * line[i][p];
                sum[i][1] += right * line[i][p];
            }
        }
        for (int i = 0; i < m; i++) {
            float* values = (float*) sum[i];
            for (int j = 0; j < n; j++) out[i * N + j] = add ? out[i * N + j] + values[j] : values[j];
        }
    }
    """
    void micro_kernel(int m, int n, long k, const float* a, long row, const float* sliver, float* out, long N,
                      bint add) nogil

# MR and NR are the micro-tile. A sliver of KC x NR floats is 32 KB and stays in L1 or L2 while all rows of a meet it.
cdef enum:
    MR = 6
    NR = 32
    KC = 256


def matmul(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out):
    """Write a b into out."""
    cdef Py_ssize_t M = a.shape[0], K = a.shape[1], N = b.shape[1]
    cdef Py_ssize_t i, j, j0, p, p0, n, k
    cdef float* sliver
    if M == 0 or N == 0:
        return
    if K == 0:
        out[:, :] = 0
        return
    sliver = <float*> malloc(KC * NR * sizeof(float))
    if sliver == NULL:
        raise MemoryError("no memory for a sliver of b")
    for p0 from 0 <= p0 < K by KC:
        k = min(KC, K - p0)
        for j0 from 0 <= j0 < N by NR:
            n = min(NR, N - j0)
            for p in range(k):                          # pack KC rows of NR columns, with zeros behind the edge
                for j in range(NR):
                    sliver[p * NR + j] = b[p0 + p, j0 + j] if j < n else 0
            for i from 0 <= i < M by MR:
                micro_kernel(min(MR, M - i), n, k, &a[i, p0], K, sliver, &out[i, j0], N, p0 > 0)
    free(sliver)
