"""Causal multi-head attention, forward and backward.

    s[t, j]   = scale q[t] . k[j]                    for keys j <= S - T + t, so that the last query sees every key
    lse[t]    = log sum_j exp(s[t, j])               p[t, j] = exp(s[t, j] - lse[t])      (Vaswani et al. 2017, eq. 1)
    out[t]    = sum_j p[t, j] v[j]

    dv[j]     = sum_t p[t, j] dout[t]                dp[t, j] = dout[t] . v[j]
    ds[t, j]  = p[t, j] (dp[t, j] - delta[t])        delta[t] = dout[t] . out[t] = sum_j p[t, j] dp[t, j]
    dq[t]     = scale sum_j ds[t, j] k[j]            dk[j]    = scale sum_t ds[t, j] q[t]

for every batch b and query head h. q, out: (B, T, H, D)   k, v: (B, S, G, D)   lse: (B, H, T)   weights: (B, H, T, S)

Query head h reads key/value head h // (H // G): with G < H several query heads share one (Ainslie et al. 2023). Arrays
of four axes may be strided, with a contiguous last axis: they are views into one qkv buffer or into a KV cache.

rung      the one idea it adds                                             what it costs
naive     one query after the other: scores, softmax, weighted sum         a row of S scores; all of k and v per query
parallel  queries (backward: key/value heads) are independent              a row of scores per thread
blocked   tiles of queries meet tiles of keys, with an online softmax      keys transposed into a tile; rescaling
simd      scores transposed: queries are the lanes of a register, so no    queries are transposed, values are copied
          sum or maximum crosses lanes; products use the micro-kernel

Design
- Backward receives out and lse and recomputes p from them, so memory grows with T and not with T^2 (Dao et al. 2022,
  section 3.1). All rungs save the same lse, so forward and backward may come from different rungs.
- Backward gives each key/value head to one thread, which visits the query heads of its group in order. Sums over a
  group therefore have a fixed order. Rejected: one thread per query head with its own dk and dv, whose memory pays
  only when B x G is less than the number of threads.
- blocked computes the scores of a tile as sums over d with neighbouring keys side by side. These sums are independent,
  so the compiler may vectorise them. Rejected: a dot product per score, a single sum that must stay in order and is
  therefore scalar.
- simd computes scores only where some query of the same register sees the key, and sums only over keys that one of MR
  neighbouring queries sees. At T = 64 with 16 lanes this is a sixth more than the causal half; a square tile would be
  twice as much. Rejected: rows of scores, whose maxima and sums cross lanes; transposed outputs, which save copying the
  values but must be transposed back.
- simd multiplies later keys by the weight 0, and 0 times NaN is NaN. A tile whose output is not finite is therefore
  computed again query by query, where no later key is read. The gradients have no such check: a NaN may spread to the
  MR - 1 neighbouring rows.
- simd processes at most FEW queries one by one, with D along the register, because one step of decoding would leave all
  lanes but one empty. The path depends on the shape alone.
- weights, when requested, come from the same kernel. blocked first stores the scores there, and turns them into
  exp(score - lse) after the last tile.
"""
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, expf, logf
from libc.stdlib cimport free, malloc

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/attention_kernel.h" nogil:
    ctypedef struct AttentionHead:
        const float* q
        const float* k
        const float* v
        float* out
        float* lse
        float* weights
        Py_ssize_t q_row, k_row, v_row, out_row, T, S, D
        float scale
    ctypedef struct AttentionGradient:
        const float* dout
        const float* q
        const float* k
        const float* v
        const float* out
        const float* lse
        float* dq
        float* dk
        float* dv
        Py_ssize_t dout_row, q_row, k_row, v_row, out_row, dq_row, dk_row, dv_row, T, S, D
        float scale
    ctypedef struct AttentionKernels:
        int lanes
        void (*tile)(const AttentionHead* x, Py_ssize_t t0, Py_ssize_t n, float* memory) noexcept nogil
        void (*query)(const AttentionHead* x, Py_ssize_t t, float* memory) noexcept nogil
        void (*gradient)(const AttentionGradient* x, Py_ssize_t t0, Py_ssize_t n, bint add,
                         float* memory) noexcept nogil
    const AttentionKernels* attention_kernels(const char* isa)
    size_t attention_floats(size_t S, size_t D)
    size_t attention_gradient_floats(size_t D)
    int QUERIES, FEW

# Tile sizes: TQ queries meet TK keys. At D = 64 a tile of transposed keys, the outputs, the rows of q and those of v
# take 8 KB each: 32 KB in all, two thirds of a 48 KB L1 and all of a 32 KB one. Backward holds four tiles of 4 D TK =
# 8 KB (keys, values, dk, dv), again 32 KB, while the rows of q and dout stream past.
cdef enum:
    TQ = 32
    TK = 32


cdef inline float dot(const float* x, const float* y, Py_ssize_t n) noexcept nogil:
    """Return x . y, summed in order."""
    cdef Py_ssize_t i
    cdef float total = 0
    for i in range(n):
        total += x[i] * y[i]
    return total


cdef inline void add_scaled(float* y, float a, const float* x, Py_ssize_t n) noexcept nogil:
    """Compute y += a x."""
    cdef Py_ssize_t i
    for i in range(n):
        y[i] += a * x[i]


cdef inline void fill(float* y, float value, Py_ssize_t n) noexcept nogil:
    """Set n elements of y to value."""
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = value


cdef float* scratch(Py_ssize_t floats, int n_threads) except NULL:
    """Allocate `floats` floats for each thread, never zero bytes; the caller frees them."""
    cdef float* memory = <float*> malloc((floats * n_threads + 1) * sizeof(float))
    if memory == NULL:
        raise MemoryError("[attention] no memory for the scores of a tile")
    return memory


cdef void attend(const float[:, :, :, :] q, const float[:, :, :, :] k, const float[:, :, :, :] v,
                 float[:, :, :, :] out, float[:, :, ::1] lse, float[:, :, :, ::1] weights, float scale,
                 Py_ssize_t b, Py_ssize_t h, Py_ssize_t t, float* p) noexcept nogil:
    """Compute one query: scores, softmax, weighted sum of the values. p: (S,), scratch."""
    cdef Py_ssize_t j, D = q.shape[3], S = k.shape[1], g = h // (q.shape[2] // k.shape[2])
    cdef Py_ssize_t keys = S - q.shape[1] + t + 1                   # the causal mask: keys that this query sees
    cdef float largest = -INFINITY, total = 0
    # Scores, and the largest of them.
    for j in range(keys):
        p[j] = scale * dot(&q[b, t, h, 0], &k[b, j, g, 0], D)
        largest = max(largest, p[j])
    # Softmax without its division, which waits for the total.
    for j in range(keys):
        p[j] = expf(p[j] - largest)                                 # at most 1: no overflow
        total += p[j]
    lse[b, h, t] = largest + logf(total)
    # The weighted sum of the values.
    fill(&out[b, t, h, 0], 0, D)
    for j in range(keys):
        add_scaled(&out[b, t, h, 0], p[j] / total, &v[b, j, g, 0], D)
    if weights is not None:
        for j in range(S):
            weights[b, h, t, j] = p[j] / total if j < keys else 0


def attention_naive(const float[:, :, :, :] q, const float[:, :, :, :] k, const float[:, :, :, :] v,              # IN
                    float[:, :, :, :] out, float[:, :, ::1] lse, float[:, :, :, ::1] weights, float scale,        # OUT
                    int n_threads):
    """Apply the formulas to one query after the other, on one thread."""
    cdef Py_ssize_t b, h, t
    cdef float* p = scratch(k.shape[1], 1)
    with nogil:
        for b in range(q.shape[0]):
            for h in range(q.shape[2]):
                for t in range(q.shape[1]):
                    attend(q, k, v, out, lse, weights, scale, b, h, t, p)
    free(p)


def attention_parallel(const float[:, :, :, :] q, const float[:, :, :, :] k, const float[:, :, :, :] v,           # IN
                       float[:, :, :, :] out, float[:, :, ::1] lse, float[:, :, :, ::1] weights, float scale,     # OUT
                       int n_threads):
    """Add threads: queries are independent. Later queries see more keys, so idle threads fetch the next ones."""
    cdef Py_ssize_t i, T = q.shape[1], H = q.shape[2], S = k.shape[1]
    cdef float* p = scratch(S, n_threads)
    for i in prange(q.shape[0] * H * T, nogil=True, num_threads=n_threads, schedule="dynamic", chunksize=8):
        attend(q, k, v, out, lse, weights, scale, i // (H * T), i // T % H, i % T, p + threadid() * S)
    free(p)


cdef void transpose_rows(const float[:, :, :, :] x, Py_ssize_t b, Py_ssize_t g, Py_ssize_t s0, Py_ssize_t n,
                         float* tile) noexcept nogil:
    """Transpose n rows: tile[d, j] = x[b, s0 + j, g, d]. Columns n to TK are zero, so that loops need no edge case."""
    cdef Py_ssize_t d, j, D = x.shape[3]
    cdef const float* row
    for j in range(TK):
        row = &x[b, s0 + j, g, 0] if j < n else NULL
        for d in range(D):
            tile[d * TK + j] = row[d] if j < n else 0


cdef void tile_scores(const float* row, const float* tile, float scale, Py_ssize_t D, float* s) noexcept nogil:
    """Compute TK scores side by side: s[j] = scale sum_d row[d] tile[d, j]."""
    cdef Py_ssize_t d, j
    cdef float[TK] total
    for j in range(TK):
        total[j] = 0
    for d in range(D):
        for j in range(TK):
            total[j] = total[j] + row[d] * tile[d * TK + j]
    for j in range(TK):
        s[j] = scale * total[j]


cdef void attend_tile(const float[:, :, :, :] q, const float[:, :, :, :] k, const float[:, :, :, :] v,
                      float[:, :, :, :] out, float[:, :, ::1] lse, float[:, :, :, ::1] weights, float scale,
                      Py_ssize_t b, Py_ssize_t h, Py_ssize_t t0, float* memory) noexcept nogil:
    """Compute TQ queries from t0 on against all keys that they see, one tile of keys at a time.

    Online softmax (Milakov and Gimelshein, 2018): per query, m is the largest score so far, l = sum exp(s - m), and o
    is the output before division by l. When a tile brings a larger score m', l and o are first multiplied by exp(m -
    m').
    """
    cdef Py_ssize_t T = q.shape[1], D = q.shape[3], S = k.shape[1], g = h // (q.shape[2] // k.shape[2])
    cdef Py_ssize_t rows = min(TQ, T - t0), first = S - T + t0 + 1  # keys that the first query of the tile sees
    cdef Py_ssize_t i, j, s0, n, seen
    cdef float* keys = memory                                       # (D, TK)
    cdef float* o = memory + D * TK                                 # (TQ, D)
    cdef float[TQ] m
    cdef float[TQ] l
    cdef float[TK] s
    cdef float larger
    fill(o, 0, TQ * D)
    fill(m, -INFINITY, TQ)
    fill(l, 0, TQ)
    for s0 from 0 <= s0 < first + rows - 1 by TK:
        n = min(TK, S - s0)
        transpose_rows(k, b, g, s0, n, keys)
        for i in range(rows):
            seen = min(n, first + i - s0)                           # the causal mask: keys of this tile that i sees
            if seen <= 0:
                continue
            # The scores of this tile, and the largest so far.
            tile_scores(&q[b, t0 + i, h, 0], keys, scale, D, s)
            larger = m[i]
            for j in range(seen):
                larger = max(larger, s[j])
                if weights is not None:
                    weights[b, h, t0 + i, s0 + j] = s[j]
            # A larger maximum rescales what was summed under the old one.
            if larger > m[i]:
                l[i] *= expf(m[i] - larger)                         # exp(-inf) = 0 for the first tile
                for j in range(D):
                    o[i * D + j] *= expf(m[i] - larger)
                m[i] = larger
            # The weights of this tile, their sum, and the values that they weigh.
            for j in range(seen):
                s[j] = expf(s[j] - larger)
                l[i] += s[j]
            for j in range(seen):
                add_scaled(o + i * D, s[j], &v[b, s0 + j, g, 0], D)
    # After the last tile: lse, the division by l, and the stored scores become weights.
    for i in range(rows):
        lse[b, h, t0 + i] = m[i] + logf(l[i])
        for j in range(D):
            out[b, t0 + i, h, j] = o[i * D + j] / l[i]
        if weights is not None:
            for j in range(S):
                weights[b, h, t0 + i, j] = expf(weights[b, h, t0 + i, j] - lse[b, h, t0 + i]) if j < first + i else 0


def attention_blocked(const float[:, :, :, :] q, const float[:, :, :, :] k, const float[:, :, :, :] v,            # IN
                      float[:, :, :, :] out, float[:, :, ::1] lse, float[:, :, :, ::1] weights, float scale,      # OUT
                      int n_threads):
    """Add tiles: TQ queries share each tile of keys while it is in L1, and no row of S scores is needed."""
    cdef Py_ssize_t i, H = q.shape[2], tiles = (q.shape[1] + TQ - 1) // TQ, need = q.shape[3] * (TK + TQ)
    cdef float* memory = scratch(need, n_threads)
    for i in prange(q.shape[0] * H * tiles, nogil=True, num_threads=n_threads, schedule="dynamic"):
        attend_tile(q, k, v, out, lse, weights, scale, i // (H * tiles), i // tiles % H, i % tiles * TQ,
                    memory + threadid() * need)
    free(memory)


cdef const AttentionKernels* simd = attention_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const AttentionKernels* found = attention_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


cdef Py_ssize_t queries_per_tile(Py_ssize_t T) noexcept nogil:
    """Return the queries per tile: at most QUERIES, whole vectors, equal tiles (128 are 64 + 64, not 96 + 32)."""
    cdef Py_ssize_t tiles = max(1, (T + QUERIES - 1) // QUERIES)
    return max(1, (T + tiles * simd.lanes - 1) // (tiles * simd.lanes)) * simd.lanes


cdef void attend_simd(const float[:, :, :, :] q, const float[:, :, :, :] k, const float[:, :, :, :] v,
                      float[:, :, :, :] out, float[:, :, ::1] lse, float[:, :, :, ::1] weights, float scale,
                      Py_ssize_t b, Py_ssize_t h, Py_ssize_t t0, Py_ssize_t n, float* memory) noexcept nogil:
    """Compute n queries of a head from t0 on: as one tile, or one by one if the sequence has at most FEW."""
    cdef Py_ssize_t t, g = h // (q.shape[2] // k.shape[2])
    cdef AttentionHead x
    x.q, x.k, x.v, x.out, x.lse = &q[b, 0, h, 0], &k[b, 0, g, 0], &v[b, 0, g, 0], &out[b, 0, h, 0], &lse[b, h, 0]
    x.weights = NULL
    if weights is not None:
        x.weights = &weights[b, h, 0, 0]
    x.q_row, x.k_row = q.strides[1] // sizeof(float), k.strides[1] // sizeof(float)
    x.v_row, x.out_row = v.strides[1] // sizeof(float), out.strides[1] // sizeof(float)
    x.T, x.S, x.D, x.scale = q.shape[1], k.shape[1], q.shape[3], scale
    if x.T <= FEW:
        for t in range(t0, t0 + n):
            simd.query(&x, t, memory)
    else:
        simd.tile(&x, t0, n, memory)


cdef void tile_of_call(const float[:, :, :, :] q, const float[:, :, :, :] k, const float[:, :, :, :] v,
                       float[:, :, :, :] out, float[:, :, ::1] lse, float[:, :, :, ::1] weights, float scale,
                       Py_ssize_t i, float* memory) noexcept nogil:
    """Compute tile i of a call. The tiles of a head count from its last, which sees the most keys.

    Threads finish together if the longest tasks come first.
    """
    cdef Py_ssize_t T = q.shape[1], H = q.shape[2], step = queries_per_tile(T), tiles = (T + step - 1) // step
    cdef Py_ssize_t t0 = (tiles - 1 - i % tiles) * step
    attend_simd(q, k, v, out, lse, weights, scale, i // (H * tiles), i // tiles % H, t0, min(step, T - t0), memory)


def attention_simd(const float[:, :, :, :] q, const float[:, :, :, :] k, const float[:, :, :, :] v,               # IN
                   float[:, :, :, :] out, float[:, :, ::1] lse, float[:, :, :, ::1] weights, float scale,         # OUT
                   int n_threads):
    """Add vectors: queries are the lanes; with few queries, the D elements of a head are."""
    cdef Py_ssize_t i, T = q.shape[1], step = queries_per_tile(T)
    cdef Py_ssize_t tiles = q.shape[0] * q.shape[2] * ((T + step - 1) // step)
    cdef Py_ssize_t need = attention_floats(k.shape[1], q.shape[3])
    cdef float* memory = scratch_floats(need * n_threads)
    if memory == NULL:
        raise MemoryError("[attention] no memory for the scores of a tile")
    if n_threads == 1:                                                  # without a region, which would cost more
        with nogil:                                                     # than a small tile
            for i in range(tiles):
                tile_of_call(q, k, v, out, lse, weights, scale, i, memory)
        return
    for i in prange(tiles, nogil=True, num_threads=n_threads, schedule="dynamic"):
        tile_of_call(q, k, v, out, lse, weights, scale, i, memory + threadid() * need)


cdef void attend_backward(const float[:, :, :, :] dout, const float[:, :, :, :] q, const float[:, :, :, :] k,
                          const float[:, :, :, :] v, const float[:, :, :, :] out, const float[:, :, ::1] lse,
                          float[:, :, :, :] dq, float[:, :, :, :] dk, float[:, :, :, :] dv, float scale,
                          Py_ssize_t b, Py_ssize_t g) noexcept nogil:
    """Compute one key/value head: every query of every head of its group, in order, adds to dk and dv."""
    cdef Py_ssize_t T = q.shape[1], D = q.shape[3], S = k.shape[1], group = q.shape[2] // k.shape[2]
    cdef Py_ssize_t h, t, j
    cdef float p, ds, delta
    for j in range(S):
        fill(&dk[b, j, g, 0], 0, D)
        fill(&dv[b, j, g, 0], 0, D)
    for h in range(g * group, (g + 1) * group):
        for t in range(T):
            fill(&dq[b, t, h, 0], 0, D)
            delta = dot(&dout[b, t, h, 0], &out[b, t, h, 0], D)
            # Per key: p and ds from the saved lse, then one term of each of the three gradients.
            for j in range(S - T + t + 1):
                p = expf(scale * dot(&q[b, t, h, 0], &k[b, j, g, 0], D) - lse[b, h, t])
                ds = scale * p * (dot(&dout[b, t, h, 0], &v[b, j, g, 0], D) - delta)
                add_scaled(&dv[b, j, g, 0], p, &dout[b, t, h, 0], D)
                add_scaled(&dq[b, t, h, 0], ds, &k[b, j, g, 0], D)
                add_scaled(&dk[b, j, g, 0], ds, &q[b, t, h, 0], D)


def attention_backward_naive(const float[:, :, :, :] dout, const float[:, :, :, :] q, const float[:, :, :, :] k,  # IN
                             const float[:, :, :, :] v, const float[:, :, :, :] out, const float[:, :, ::1] lse,  # IN
                             float[:, :, :, :] dq, float[:, :, :, :] dk, float[:, :, :, :] dv, float scale,       # OUT
                             int n_threads):
    """Apply the formulas to one key/value head after the other, on one thread; p is recomputed from lse."""
    cdef Py_ssize_t b, g
    with nogil:
        for b in range(k.shape[0]):
            for g in range(k.shape[2]):
                attend_backward(dout, q, k, v, out, lse, dq, dk, dv, scale, b, g)


def attention_backward_parallel(const float[:, :, :, :] dout, const float[:, :, :, :] q,                          # IN
                                const float[:, :, :, :] k, const float[:, :, :, :] v,                             # IN
                                const float[:, :, :, :] out, const float[:, :, ::1] lse,                          # IN
                                float[:, :, :, :] dq, float[:, :, :, :] dk, float[:, :, :, :] dv, float scale,    # OUT
                                int n_threads):
    """Add threads: key/value heads are independent, and each query head belongs to one of them."""
    cdef Py_ssize_t i, G = k.shape[2]
    for i in prange(k.shape[0] * G, nogil=True, num_threads=n_threads, schedule="static"):
        attend_backward(dout, q, k, v, out, lse, dq, dk, dv, scale, i // G, i % G)


cdef void backward_tile(const float[:, :, :, :] dout, const float[:, :, :, :] q, const float[:, :, :, :] k,
                        const float[:, :, :, :] v, const float[:, :, :, :] out, const float[:, :, ::1] lse,
                        float[:, :, :, :] dq, float[:, :, :, :] dk, float[:, :, :, :] dv, float scale,
                        Py_ssize_t b, Py_ssize_t g, Py_ssize_t s0, float* memory) noexcept nogil:
    """Compute TK keys from s0 on against every query that sees one of them, with dk and dv of the tile in L1."""
    cdef Py_ssize_t T = q.shape[1], D = q.shape[3], S = k.shape[1], group = q.shape[2] // k.shape[2]
    cdef Py_ssize_t n = min(TK, S - s0), h, t, j, d, seen
    cdef float* keys = memory                                       # (D, TK), transposed
    cdef float* values = memory + D * TK                            # (D, TK), transposed
    cdef float* dkeys = memory + 2 * D * TK                         # (TK, D)
    cdef float* dvalues = memory + 3 * D * TK                       # (TK, D)
    cdef float[TK] s
    cdef float[TK] dp
    cdef float p, delta
    transpose_rows(k, b, g, s0, n, keys)
    transpose_rows(v, b, g, s0, n, values)
    fill(dkeys, 0, 2 * D * TK)
    for h in range(g * group, (g + 1) * group):
        for t in range(max(0, s0 - (S - T)), T):                    # earlier queries see none of these keys
            seen = min(n, S - T + t + 1 - s0)                       # the causal mask: keys of this tile that t sees
            tile_scores(&q[b, t, h, 0], keys, scale, D, s)
            tile_scores(&dout[b, t, h, 0], values, 1, D, dp)
            delta = dot(&dout[b, t, h, 0], &out[b, t, h, 0], D)
            # dk and dv of the tile are in L1, so they are updated key by key; dq of this query follows in one sweep.
            for j in range(seen):
                p = expf(s[j] - lse[b, h, t])
                dp[j] = scale * p * (dp[j] - delta)                 # ds from here on
                add_scaled(dvalues + j * D, p, &dout[b, t, h, 0], D)
                add_scaled(dkeys + j * D, dp[j], &q[b, t, h, 0], D)
            for j in range(seen):
                add_scaled(&dq[b, t, h, 0], dp[j], &k[b, s0 + j, g, 0], D)
    for j in range(n):
        for d in range(D):
            dk[b, s0 + j, g, d] = dkeys[j * D + d]
            dv[b, s0 + j, g, d] = dvalues[j * D + d]


def attention_backward_blocked(const float[:, :, :, :] dout, const float[:, :, :, :] q,                           # IN
                               const float[:, :, :, :] k, const float[:, :, :, :] v,                              # IN
                               const float[:, :, :, :] out, const float[:, :, ::1] lse,                           # IN
                               float[:, :, :, :] dq, float[:, :, :, :] dk, float[:, :, :, :] dv, float scale,     # OUT
                               int n_threads):
    """Add tiles: a tile of keys stays in L1 while the queries stream past. dq sums over tiles in ascending order."""
    cdef Py_ssize_t i, b, g, h, t, s0, G = k.shape[2], S = k.shape[1], T = q.shape[1], D = q.shape[3]
    cdef Py_ssize_t group = q.shape[2] // max(1, G)
    cdef float* memory = scratch(4 * D * TK, n_threads)
    for i in prange(k.shape[0] * G, nogil=True, num_threads=n_threads, schedule="static"):
        b = i // G
        g = i % G
        for h in range(g * group, (g + 1) * group):
            for t in range(T):
                fill(&dq[b, t, h, 0], 0, D)
        for s0 from 0 <= s0 < S by TK:
            backward_tile(dout, q, k, v, out, lse, dq, dk, dv, scale, b, g, s0, memory + threadid() * 4 * D * TK)
    free(memory)


cdef void gradient_simd(const float[:, :, :, :] dout, const float[:, :, :, :] q, const float[:, :, :, :] k,
                        const float[:, :, :, :] v, const float[:, :, :, :] out, const float[:, :, ::1] lse,
                        float[:, :, :, :] dq, float[:, :, :, :] dk, float[:, :, :, :] dv, float scale,
                        Py_ssize_t b, Py_ssize_t g, float* memory) noexcept nogil:
    """Compute one key/value head. The last tile of queries sees every key: it writes dk and dv, others add to them."""
    cdef Py_ssize_t T = q.shape[1], group = q.shape[2] // k.shape[2], step = queries_per_tile(T)
    cdef Py_ssize_t h, t0
    cdef AttentionGradient x
    x.k, x.v, x.dk, x.dv = &k[b, 0, g, 0], &v[b, 0, g, 0], &dk[b, 0, g, 0], &dv[b, 0, g, 0]
    x.dout_row, x.out_row = dout.strides[1] // sizeof(float), out.strides[1] // sizeof(float)
    x.q_row, x.dq_row = q.strides[1] // sizeof(float), dq.strides[1] // sizeof(float)
    x.k_row, x.dk_row = k.strides[1] // sizeof(float), dk.strides[1] // sizeof(float)
    x.v_row, x.dv_row = v.strides[1] // sizeof(float), dv.strides[1] // sizeof(float)
    x.T, x.S, x.D, x.scale = T, k.shape[1], q.shape[3], scale
    for h in range(g * group, (g + 1) * group):
        x.q, x.dout, x.out = &q[b, 0, h, 0], &dout[b, 0, h, 0], &out[b, 0, h, 0]
        x.lse, x.dq = &lse[b, h, 0], &dq[b, 0, h, 0]
        for t0 from (T - 1) // step * step >= t0 >= 0 by step:
            simd.gradient(&x, t0, min(step, T - t0), h > g * group or t0 + step < T, memory)


def attention_backward_simd(const float[:, :, :, :] dout, const float[:, :, :, :] q,                              # IN
                            const float[:, :, :, :] k, const float[:, :, :, :] v,                                 # IN
                            const float[:, :, :, :] out, const float[:, :, ::1] lse,                              # IN
                            float[:, :, :, :] dq, float[:, :, :, :] dk, float[:, :, :, :] dv, float scale,        # OUT
                            int n_threads):
    """Add vectors: all five products use the micro-kernel. dk and dv sum over tiles of queries, the last tile first."""
    cdef Py_ssize_t i, G = k.shape[2], need = attention_gradient_floats(q.shape[3])
    cdef float* memory = scratch_floats(need * n_threads)
    if memory == NULL:
        raise MemoryError("[attention] no memory for the scores of a tile")
    if q.shape[1] == 0:
        dk[...] = 0
        dv[...] = 0
        return
    if n_threads == 1:
        with nogil:
            for i in range(k.shape[0] * G):
                gradient_simd(dout, q, k, v, out, lse, dq, dk, dv, scale, i // G, i % G, memory)
        return
    for i in prange(k.shape[0] * G, nogil=True, num_threads=n_threads, schedule="static"):
        gradient_simd(dout, q, k, v, out, lse, dq, dk, dv, scale, i // G, i % G, memory + threadid() * need)


RUNGS = {
    "naive": {"attention": attention_naive, "attention_backward": attention_backward_naive},
    "parallel": {"attention": attention_parallel, "attention_backward": attention_backward_parallel},
    "blocked": {"attention": attention_blocked, "attention_backward": attention_backward_blocked},
    "simd": {"attention": attention_simd, "attention_backward": attention_backward_simd},
}
