/* The inner kernels of attention: a tile of queries against all keys, one query alone, and the gradient of a tile of
   queries. All products use the micro-kernel of tile.h. For csrc/attention.pyx.

   Scores are stored transposed, s (KEYS, width): a row per key, a lane per query. Maximum, exponential and sum of a
   softmax then run down the rows, and no lane needs another one.

   The causal mask: `first` is the last key of a tile, counted from its first key, that query 0 of the tile sees.
   Query i sees keys up to first + i. Keys that no query sees are skipped, in steps of LANES queries for scores and of
   MR rows for what is computed from them. */
#ifndef TINYGPT_ATTENTION_KERNEL_H
#define TINYGPT_ATTENTION_KERNEL_H
#include "scalar.h"

/* Tile sizes. At D = 64 the transposed queries, the scores and the outputs take 24 KB each, a tile of values 16 KB. The
   gradient needs 160 KB of such arrays, 272 KB at D = 128. A product needs one column of micro-tiles of its second
   operand in a 48 KB L1 (12 KB; 24 KB at D = 128) while the first one streams. Everything else may be in a 1 MB L2.
   */
#define QUERIES 96
#define KEYS 64
#define FEW 4 /* up to this many queries, vectors along D waste fewer lanes than vectors along the queries */

typedef struct { /* one head of one sequence: its first rows, and the floats from row to row */
    const float *q, *k, *v;
    float *out, *lse, *weights; /* lse (T,); weights (T, S), or NULL */
    ptrdiff_t q_row, k_row, v_row, out_row, T, S, D;
    float scale; /* of the scores, 1 / sqrt(D) as a rule */
} AttentionHead;

typedef struct { /* the same for the backward pass */
    const float *dout, *q, *k, *v, *out, *lse;
    float *dq, *dk, *dv;
    ptrdiff_t dout_row, q_row, k_row, v_row, out_row, dq_row, dk_row, dv_row, T, S, D;
    float scale;
} AttentionGradient;

/* The table of an instruction set: n queries from t0 on forward, query t alone, n queries from t0 on backward. */
typedef struct {
    int lanes;
    void (*tile)(const AttentionHead *x, ptrdiff_t t0, ptrdiff_t n, float *memory);
    void (*query)(const AttentionHead *x, ptrdiff_t t, float *memory);
    void (*gradient)(const AttentionGradient *x, ptrdiff_t t0, ptrdiff_t n, int add, float *memory);
} AttentionKernels;

/* Floats of memory that the kernels need, in whole cache lines: one row of scores, or the arrays of a tile. */
static inline size_t attention_floats(size_t S, size_t D) {
    const size_t row = (S + 15) / 16 * 16, wide = (D + 15) / 16 * 16;
    const size_t tile = D * QUERIES + KEYS * QUERIES + (QUERIES + KEYS) * wide + 3 * QUERIES;
    return tile > row ? tile : row;
}
static inline size_t attention_gradient_floats(size_t D) {
    const size_t wide = (D + 15) / 16 * 16;
    return 2 * D * QUERIES + 2 * KEYS * QUERIES + (2 * QUERIES + KEYS) * wide + 2 * QUERIES;
}

static const float LANE[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

#define SIMD_KERNEL "simd/attention_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const AttentionKernels *attention_kernels(const char *isa) { return TABLE_FOR(attention_table, isa); }

#elif defined(ISA)
#include "simd/math.h"
#include "simd/tile.h"

/* The smaller and the larger of two numbers, and n rounded up to whole vectors. */
TEMPLATE ptrdiff_t FOR_ISA(least)(ptrdiff_t x, ptrdiff_t y) { return x < y ? x : y; }
TEMPLATE ptrdiff_t FOR_ISA(most)(ptrdiff_t x, ptrdiff_t y) { return x > y ? x : y; }
TEMPLATE ptrdiff_t FOR_ISA(whole)(ptrdiff_t n) { return (n + LANES - 1) / LANES * LANES; }

/* Columns of n that one micro-tile takes, so that all of them are about as wide: 64 are 32 + 32, not 48 + 16. */
static ptrdiff_t FOR_ISA(columns)(ptrdiff_t n) {
    ptrdiff_t vectors = (n + LANES - 1) / LANES, tiles = (vectors + NV - 1) / NV;
    return (vectors + tiles - 1) / tiles * LANES;
}

/* panel[d, i] = scale x[i, d]: n rows of x become `width` lanes, zero from n on, in squares of LANES x LANES. */
static void FOR_ISA(transpose_rows)(const float *x, ptrdiff_t row, ptrdiff_t n, ptrdiff_t D, float scale, float *panel,
                                    ptrdiff_t width) {
    for (ptrdiff_t i = 0; i < width; i += LANES, x += LANES * row) {
        for (ptrdiff_t d = 0; d < D; d += LANES) {
            const ptrdiff_t rest = FOR_ISA(least)(LANES, D - d);
            vec y[LANES];
            if (i + LANES <= n && rest == LANES) { /* a whole square */
                UNROLL for (int j = 0; j < LANES; j++) y[j] = vload(x + j * row + d);
            } else { /* an edge: zeros for rows and columns that do not exist */
                UNROLL for (int j = 0; j < LANES; j++)
                    y[j] = i + j < n ? FOR_ISA(load_lanes)(x + j * row + d, rest) : vset(0.0f);
            }
            vtranspose(y);
            UNROLL for (int j = 0; j < LANES; j++)
                if (j < rest) vstore(panel + (d + j) * width + i, vmul(vset(scale), y[j]));
        }
    }
}

/* packed (n, wide): rows of x, padded with zeros to whole vectors, because the micro-kernel needs whole vectors. */
static void FOR_ISA(pack)(const float *x, ptrdiff_t row, ptrdiff_t n, ptrdiff_t D, float *packed) {
    const ptrdiff_t wide = FOR_ISA(whole)(D);
    for (ptrdiff_t i = 0; i < n; i++, x += row, packed += wide)
        for (ptrdiff_t d = 0; d < D; d += LANES) vstore(packed + d, FOR_ISA(load_lanes)(x + d, D - d));
}

/* s[r, i] = sum_d x[r, d] panel[d, i] for n keys x, wherever query i or one in the same vector sees key r. */
static void FOR_ISA(scores)(const float *x, ptrdiff_t row, ptrdiff_t n, ptrdiff_t D, const float *panel,
                            ptrdiff_t width, ptrdiff_t first, float *s) {
    const ptrdiff_t step = FOR_ISA(columns)(width);
    for (ptrdiff_t c = 0; c < width; c += step) {
        const ptrdiff_t end = FOR_ISA(least)(c + step, width);
        for (ptrdiff_t r = 0; r < n; r += MR) {
            /* Query r - first is the first that sees key r: start with its vector. */
            const ptrdiff_t from = FOR_ISA(most)(c, FOR_ISA(most)(0, r - first) / LANES * LANES);
            if (from >= end) break;
            FOR_ISA(micro_kernel)((int)FOR_ISA(least)(MR, n - r), (int)(end - from), D, x + r * row, row, 1,
                                  panel + from, width, s + r * width + from, width, NULL, NULL);
        }
    }
}

/* y[i, :] += sum_r s[r, i] x[r, :] over the keys that query i sees, for n keys and m queries. x: (n, wide). */
static void FOR_ISA(over_keys)(const float *s, ptrdiff_t width, ptrdiff_t n, const float *x, ptrdiff_t m, ptrdiff_t D,
                               ptrdiff_t first, float *y, ptrdiff_t row, int add) {
    const ptrdiff_t step = FOR_ISA(columns)(D), wide = FOR_ISA(whole)(D);
    for (ptrdiff_t c = 0; c < D; c += step) {
        for (ptrdiff_t i = 0; i < m; i += MR) {
            const ptrdiff_t seen = FOR_ISA(least)(n, first + i + MR); /* keys of the last of MR queries */
            if (seen > 0)
                FOR_ISA(micro_kernel)((int)FOR_ISA(least)(MR, m - i), (int)FOR_ISA(least)(step, D - c), seen, s + i, 1,
                                      width, x + c, wide, y + i * row + c, row, add ? y + i * row + c : NULL, NULL);
        }
    }
}

/* y[r, :] += sum_i s[r, i] x[i, :] over the queries that see key r, for n keys and m queries. x: (m, wide). */
static void FOR_ISA(over_queries)(const float *s, ptrdiff_t width, ptrdiff_t n, const float *x, ptrdiff_t m,
                                  ptrdiff_t D, ptrdiff_t first, float *y, ptrdiff_t row, int add) {
    const ptrdiff_t step = FOR_ISA(columns)(D), wide = FOR_ISA(whole)(D);
    for (ptrdiff_t c = 0; c < D; c += step) {
        for (ptrdiff_t r = 0; r < n; r += MR) {
            const ptrdiff_t from = FOR_ISA(most)(0, r - first); /* the first query that sees key r */
            FOR_ISA(micro_kernel)((int)FOR_ISA(least)(MR, n - r), (int)FOR_ISA(least)(step, D - c), m - from,
                                  s + r * width + from, width, 1, x + from * wide + c, wide, y + r * row + c, row,
                                  add ? y + r * row + c : NULL, NULL);
        }
    }
}

/* Returns the number of keys of a tile that any of LANES queries from i on sees. The MR rows after them are set to
   zero, because a micro-tile of MR rows reads past what its first row needs. */
TEMPLATE ptrdiff_t FOR_ISA(seen_by)(float *s, ptrdiff_t n, ptrdiff_t width, ptrdiff_t first, ptrdiff_t i) {
    const ptrdiff_t seen = FOR_ISA(most)(0, FOR_ISA(least)(n, first + i + LANES));
    const ptrdiff_t end = FOR_ISA(least)(n, first + i + LANES + MR);
    for (ptrdiff_t r = seen; r < end; r++) vstore(s + r * width + i, vset(0.0f));
    return seen;
}

/* One tile of online softmax (Milakov and Gimelshein, 2018): s becomes exp(s - m) with the new maxima m, l
   accumulates the sums, factor = exp(old m - m). Returns whether any maximum rose. */
static int FOR_ISA(online_softmax)(float *s, ptrdiff_t n, ptrdiff_t width, ptrdiff_t first, float *m, float *l,
                                   float *factor) {
    const vec lane = vload(LANE);
    int rose = 0;
    for (ptrdiff_t i = 0; i < width; i += LANES) {
        const ptrdiff_t seen = FOR_ISA(seen_by)(s, n, width, first, i);
        const vec before = vload(m + i);
        vec largest = before, sum = vset(0.0f);
        float *column = s + i;
        ptrdiff_t r = 0;
        /* The new maximum: keys that all lanes see, then keys that some lanes do not see. */
        for (; r < seen && r <= first + i; r++) largest = vmax(vload(column + r * width), largest);
        for (; r < seen; r++) { /* the causal mask: lanes before r - first - i do not see key r */
            vec x = vwhere_less(lane, vset((float)(r - first - i)), vset(-INFINITY), vload(column + r * width));
            vstore(column + r * width, x);
            largest = vmax(x, largest);
        }
        /* The weights under that maximum, and their sum. */
        for (r = 0; r < seen; r++) {
            vec x = FOR_ISA(exp)(vsub(vload(column + r * width), largest));
            vstore(column + r * width, x);
            sum = vadd(sum, x);
        }
        vec scaled = FOR_ISA(exp)(vsub(before, largest)); /* rescales everything summed so far; 1 if nothing rose */
        rose |= vlargest(vsub(largest, before)) > 0;
        vstore(factor + i, scaled);
        vstore(m + i, largest);
        vstore(l + i, vfma(vload(l + i), scaled, sum));
    }
    return rose;
}

/* x[LANES] -> the sums over each of them, side by side in one vector. */
TEMPLATE vec FOR_ISA(sums)(vec *x) {
    vtranspose(x);
    UNROLL for (int half = LANES / 2; half > 0; half /= 2) {
        UNROLL for (int i = 0; i < half; i++) x[i] = vadd(x[i], x[i + half]);
    }
    return x[0];
}

/* x[i, :] . y[i, :] for n <= LANES rows, one per lane; lanes from n on repeat the last row. x_row may be 0. */
TEMPLATE vec FOR_ISA(row_dots)(const float *x, const ptrdiff_t x_row, const float *y, ptrdiff_t y_row, const int n,
                               ptrdiff_t D) {
    vec sum[LANES];
    ptrdiff_t d = 0;
    UNROLL for (int i = 0; i < LANES; i++) sum[i] = vset(0.0f);
    for (; d + LANES <= D; d += LANES)
        UNROLL for (int i = 0; i < LANES; i++) {
            const ptrdiff_t row = i < n ? i : n - 1;
            sum[i] = vfma(vload(x + row * x_row + d), vload(y + row * y_row + d), sum[i]);
        }
    if (d < D)
        UNROLL for (int i = 0; i < LANES; i++) {
            const ptrdiff_t row = i < n ? i : n - 1;
            sum[i] = vfma(vload_part(x + row * x_row + d, (int)(D - d)), vload_part(y + row * y_row + d, (int)(D - d)),
                          sum[i]);
        }
    return FOR_ISA(sums)(sum);
}

/* out[0..] = factor sum_j p[j] x[j, :] for v vectors of columns, the last one with `last` lanes. Even and odd keys have
   separate sums, because an FMA waits 4 cycles for the one before it. */
TEMPLATE void FOR_ISA(weighted_sum)(const int v, const float *p, ptrdiff_t n, const float *x, ptrdiff_t row, int last,
                                    float factor, float *out) {
    vec even[4], odd[4];
    ptrdiff_t j = 0;
    UNROLL for (int c = 0; c < v; c++) even[c] = odd[c] = vset(0.0f);
    for (; j < n; j++) {
        const float *y = x + j * row;
        UNROLL for (int c = 0; c < v; c++) {
            vec z = c + 1 < v || last == LANES ? vload(y + c * LANES) : vload_part(y + c * LANES, last);
            even[c] = vfma(vset(p[j]), z, even[c]);
        }
        if (++j == n) break;
        y += row;
        UNROLL for (int c = 0; c < v; c++) {
            vec z = c + 1 < v || last == LANES ? vload(y + c * LANES) : vload_part(y + c * LANES, last);
            odd[c] = vfma(vset(p[j]), z, odd[c]);
        }
    }
    UNROLL for (int c = 0; c < v; c++)
        FOR_ISA(store_lanes)(out + c * LANES, vmul(vset(factor), vadd(even[c], odd[c])), c + 1 < v ? LANES : last);
}

/* Query t alone: dot products with the keys that it sees; no other key is read. p: (whole(S),). */
static void FOR_ISA(query)(const AttentionHead *x, ptrdiff_t t, float *p) {
    const ptrdiff_t n = x->S - x->T + t + 1, D = x->D;
    const float *q = x->q + t * x->q_row;
    vec largest = vset(-INFINITY), sum = vset(0.0f), s;
    ptrdiff_t j = 0;
    /* Scores of LANES keys at a time, and their maximum. */
    for (; j + LANES <= n; j += LANES) {
        s = vmul(vset(x->scale), FOR_ISA(row_dots)(q, 0, x->k + j * x->k_row, x->k_row, LANES, D));
        vstore(p + j, s);
        largest = vmax(s, largest);
    }
    if (j < n) {
        s = vmul(vset(x->scale), FOR_ISA(row_dots)(q, 0, x->k + j * x->k_row, x->k_row, (int)(n - j), D));
        s = vwhere_less(vload(LANE), vset((float)(n - j)), s, vset(-INFINITY));
        vstore(p + j, s);
        largest = vmax(s, largest);
    }
    /* Weights under the maximum, and their sum. */
    const float m = vlargest(largest);
    for (j = 0; j < n; j += LANES) {
        s = FOR_ISA(exp)(vsub(vload(p + j), vset(m)));
        vstore(p + j, s);
        sum = vadd(sum, s);
    }
    const float l = vsum(sum), factor = 1.0f / l;
    float *out = x->out + t * x->out_row;
    x->lse[t] = m + logf(l);
    /* The weighted sum of the values, up to 4 vectors of D at a time, which read the weights once for all four. */
    for (ptrdiff_t d = 0; d < D; d += 4 * LANES) {
        const ptrdiff_t rest = FOR_ISA(least)(4 * LANES, D - d);
        const int v = (int)((rest + LANES - 1) / LANES), last = (int)(rest - (v - 1) * LANES);
        switch (v) {
            case 1: FOR_ISA(weighted_sum)(1, p, n, x->v + d, x->v_row, last, factor, out + d); break;
            case 2: FOR_ISA(weighted_sum)(2, p, n, x->v + d, x->v_row, last, factor, out + d); break;
            case 3: FOR_ISA(weighted_sum)(3, p, n, x->v + d, x->v_row, last, factor, out + d); break;
            default: FOR_ISA(weighted_sum)(4, p, n, x->v + d, x->v_row, last, factor, out + d);
        }
    }
    if (x->weights)
        for (j = 0; j < x->S; j++) x->weights[t * x->S + j] = j < n ? p[j] * factor : 0.0f;
}

/* weights[t0 + i, s0 + r] = s[r, i]: keep the scores of a tile until lse is known. */
static void FOR_ISA(keep_scores)(const AttentionHead *x, const float *s, ptrdiff_t width, ptrdiff_t t0, ptrdiff_t m,
                                 ptrdiff_t s0, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t r = 0; r < n; r++) x->weights[(t0 + i) * x->S + s0 + r] = s[r * width + i];
}

/* Turn the scores of n queries into exp(score - lse), and into 0 for keys that a query does not see. */
static void FOR_ISA(finish_weights)(const AttentionHead *x, ptrdiff_t t0, ptrdiff_t n) {
    for (ptrdiff_t t = t0; t < t0 + n; t++) {
        const ptrdiff_t seen = x->S - x->T + t + 1;
        float *row = x->weights + t * x->S;
        for (ptrdiff_t j = 0; j < seen; j += LANES) {
            vec y = FOR_ISA(exp)(vsub(FOR_ISA(load_lanes)(row + j, seen - j), vset(x->lse[t])));
            FOR_ISA(store_lanes)(row + j, y, seen - j);
        }
        for (ptrdiff_t j = seen; j < x->S; j++) row[j] = 0.0f;
    }
}

/* out = o / l and lse = m + log l for n queries. Returns 0 if all of out is finite, otherwise NaN. */
static float FOR_ISA(finish_tile)(const AttentionHead *x, ptrdiff_t t0, ptrdiff_t n, const float *o, const float *m,
                                  const float *l) {
    const ptrdiff_t wide = FOR_ISA(whole)(x->D);
    vec odd = vset(0.0f);
    for (ptrdiff_t i = 0; i < n; i++, o += wide) {
        const vec factor = vset(1.0f / l[i]);
        float *out = x->out + (t0 + i) * x->out_row;
        for (ptrdiff_t d = 0; d < x->D; d += LANES) {
            vec y = vmul(factor, FOR_ISA(load_lanes)(o + d, x->D - d));
            FOR_ISA(store_lanes)(out + d, y, x->D - d);
            odd = vadd(odd, vsub(y, y)); /* 0 for a number, NaN for infinity and NaN */
        }
        x->lse[t0 + i] = m[i] + logf(l[i]);
    }
    return vsum(odd);
}

/* n queries from t0 on against all keys that they see, KEYS of them at a time. */
static void FOR_ISA(attend)(const AttentionHead *x, ptrdiff_t t0, ptrdiff_t n, float *memory) {
    const ptrdiff_t width = FOR_ISA(whole)(n), D = x->D, wide = FOR_ISA(whole)(D), earlier = x->S - x->T + t0;
    float *queries = memory, *s = queries + D * QUERIES, *o = s + KEYS * QUERIES, *values = o + QUERIES * wide;
    float *m = values + KEYS * wide, *l = m + QUERIES, *factor = l + QUERIES;
    /* `earlier` keys are seen by query t0 before its own. The scale goes into the transposed queries, once. */
    FOR_ISA(transpose_rows)(x->q + t0 * x->q_row, x->q_row, n, D, x->scale, queries, width);
    for (ptrdiff_t i = 0; i < width; i += LANES) {
        vstore(m + i, vset(-INFINITY));
        vstore(l + i, vset(0.0f));
    }
    for (ptrdiff_t s0 = 0; s0 < earlier + n; s0 += KEYS) {
        const ptrdiff_t keys = FOR_ISA(least)(KEYS, earlier + n - s0), first = earlier - s0;
        FOR_ISA(scores)(x->k + s0 * x->k_row, x->k_row, keys, D, queries, width, first, s);
        if (x->weights) FOR_ISA(keep_scores)(x, s, width, t0, n, s0, keys);
        int rose = FOR_ISA(online_softmax)(s, keys, width, first, m, l, factor);
        /* Rescale the outputs so far, only where a maximum rose: after a few tiles that is rare. */
        for (ptrdiff_t i = 0; rose && s0 > 0 && i < n; i++)
            for (ptrdiff_t d = 0; factor[i] != 1.0f && d < D; d += LANES)
                vstore(o + i * wide + d, vmul(vset(factor[i]), vload(o + i * wide + d)));
        /* o (+)= p v. The first tile writes o, all others add to it. */
        FOR_ISA(pack)(x->v + s0 * x->v_row, x->v_row, keys, D, values);
        FOR_ISA(over_keys)(s, width, keys, values, n, D, first, o, wide, s0 > 0);
    }
    const float finite = FOR_ISA(finish_tile)(x, t0, n, o, m, l);
    if (x->weights) FOR_ISA(finish_weights)(x, t0, n);
    if (finite != 0.0f) /* NaN, perhaps from weight 0 times a later key's value: compute again without later keys */
        for (ptrdiff_t t = t0; t < t0 + n; t++) FOR_ISA(query)(x, t, memory);
}

/* p = exp(s - lse) over s, and ds = scale p (dp - delta) over dp, both 0 where a query does not see a key. */
static void FOR_ISA(score_gradients)(float *s, float *dp, ptrdiff_t n, ptrdiff_t width, ptrdiff_t first,
                                     const float *lse, const float *delta, float scale) {
    const vec lane = vload(LANE);
    for (ptrdiff_t i = 0; i < width; i += LANES) {
        const ptrdiff_t seen = FOR_ISA(seen_by)(s, n, width, first, i);
        const vec less = vload(lse + i), mean = vload(delta + i);
        (void)FOR_ISA(seen_by)(dp, n, width, first, i);
        for (ptrdiff_t r = 0; r < seen; r++) {
            float *x = s + r * width + i, *y = dp + r * width + i;
            vec p = FOR_ISA(exp)(vsub(vload(x), less));
            vec ds = vmul(vmul(vset(scale), p), vsub(vload(y), mean));
            if (r > first + i) { /* the causal mask: lanes before r - first - i do not see key r */
                const vec early = vset((float)(r - first - i));
                p = vwhere_less(lane, early, vset(0.0f), p);
                ds = vwhere_less(lane, early, vset(0.0f), ds);
            }
            vstore(x, p);
            vstore(y, ds);
        }
    }
}

/* n queries of one head from t0 on: dq is written; dk and dv of the keys that they see are written, or added to if
   `add`. */
static void FOR_ISA(gradient)(const AttentionGradient *x, ptrdiff_t t0, ptrdiff_t n, int add, float *memory) {
    const ptrdiff_t width = FOR_ISA(whole)(n), D = x->D, wide = FOR_ISA(whole)(D), earlier = x->S - x->T + t0;
    const float *q = x->q + t0 * x->q_row, *dout = x->dout + t0 * x->dout_row, *out = x->out + t0 * x->out_row;
    float *queries = memory, *douts = queries + D * QUERIES, *s = douts + D * QUERIES, *dp = s + KEYS * QUERIES;
    float *q_rows = dp + KEYS * QUERIES, *dout_rows = q_rows + QUERIES * wide, *keys = dout_rows + QUERIES * wide;
    float *lse = keys + KEYS * wide, *delta = lse + QUERIES;
    /* q and dout are needed twice: transposed as the second operand of scores and dp, by rows for dk and dv. */
    FOR_ISA(transpose_rows)(q, x->q_row, n, D, x->scale, queries, width);
    FOR_ISA(transpose_rows)(dout, x->dout_row, n, D, 1.0f, douts, width);
    FOR_ISA(pack)(q, x->q_row, n, D, q_rows);
    FOR_ISA(pack)(dout, x->dout_row, n, D, dout_rows);
    /* delta[t] = dout[t] . out[t], LANES queries at a time. */
    for (ptrdiff_t i = 0; i < width; i += LANES) {
        const int rows = (int)FOR_ISA(least)(LANES, n - i);
        vstore(lse + i, FOR_ISA(load_lanes)(x->lse + t0 + i, n - i));
        if (rows == LANES)
            vstore(delta + i, FOR_ISA(row_dots)(dout + i * x->dout_row, x->dout_row, out + i * x->out_row, x->out_row,
                                                LANES, D));
        else
            vstore(delta + i, FOR_ISA(row_dots)(dout + i * x->dout_row, x->dout_row, out + i * x->out_row, x->out_row,
                                                rows, D));
    }
    for (ptrdiff_t s0 = 0; s0 < earlier + n; s0 += KEYS) {
        const ptrdiff_t m = FOR_ISA(least)(KEYS, earlier + n - s0), first = earlier - s0;
        /* s = scale q k^T and dp = dout v^T, both transposed; then p over s and ds over dp. */
        FOR_ISA(scores)(x->k + s0 * x->k_row, x->k_row, m, D, queries, width, first, s);
        FOR_ISA(scores)(x->v + s0 * x->v_row, x->v_row, m, D, douts, width, first, dp);
        FOR_ISA(score_gradients)(s, dp, m, width, first, lse, delta, x->scale);
        /* dv (+)= p^T dout, dk (+)= ds^T q, dq (+)= ds k. */
        FOR_ISA(pack)(x->k + s0 * x->k_row, x->k_row, m, D, keys);
        FOR_ISA(over_queries)(s, width, m, dout_rows, n, D, first, x->dv + s0 * x->dv_row, x->dv_row, add);
        FOR_ISA(over_queries)(dp, width, m, q_rows, n, D, first, x->dk + s0 * x->dk_row, x->dk_row, add);
        FOR_ISA(over_keys)(dp, width, m, keys, n, D, first, x->dq + t0 * x->dq_row, x->dq_row, s0 > 0);
    }
}

static const AttentionKernels FOR_ISA(attention_table) = {LANES, FOR_ISA(attend), FOR_ISA(query), FOR_ISA(gradient)};
#endif
