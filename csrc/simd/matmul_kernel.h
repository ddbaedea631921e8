/* The inner kernels of matmul: packing, micro-kernel, dot products, scaled rows, epilogue. For csrc/matmul.pyx.

   Layout of a sliver: (k, width) floats. Step p of the sum is a row of `width` lanes, so that the micro-kernel reads it
   with stride one. A sliver of b is NR = NV LANES columns wide, padded with zeros to whole vectors. One of a is MR
   wide.

   Which kernel serves which shape is decided in csrc/matmul.pyx and product.h. */
#ifndef TINYGPT_MATMUL_KERNEL_H
#define TINYGPT_MATMUL_KERNEL_H
#include "scalar.h"

#define DOT_ROWS 4     /* 4 x 4 sums + 4 vectors of b + 1 of a = 21 registers; with only 16, sums are spilled to L1 */
#define DOT_COLUMNS 4  /* columns of b at once; with one, each sum would wait 4 cycles for its previous FMA */
#define ROWS_AT_ONCE 8 /* rows of b added to one row of c at once: their factors fill 8 registers */

/* The table of an instruction set. Kernels that round their operands to bfloat16 (matmul_bf16_kernel.h) fill one of the
   same form.
   mr, nr, lanes   size of the micro-tile in floats, and floats per vector
   rounds          1 if packing rounds, so that no operand may be read in place
   pair            steps of the sum per 32-bit word of a sliver: 2 where an instruction multiplies pairs of bfloat16
   pack            slivers of b; pack_rows: slivers of a transposed a
   round_rows      rounded rows of an a that is not transposed, one after the other; NULL unless `rounds`
   micro_kernel    one micro-tile (tile.h)
   dots, rows      products of few rows: dot products, scaled rows (product.h); NULL if `rounds`
   epilogue        bias, activation and residual of elements in L1 */
typedef struct {
    int mr, nr, lanes, rounds, pair;
    void (*pack)(const float *x, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k, float *slivers);
    void (*pack_rows)(const float *a, ptrdiff_t step, int m, ptrdiff_t k, float *slivers);
    void (*round_rows)(const float *a, ptrdiff_t row, int m, ptrdiff_t k, float *block);
    void (*micro_kernel)(int m, int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, ptrdiff_t a_step, const float *b,
                         ptrdiff_t b_step, float *c, ptrdiff_t c_row, const float *addend, const float *bias);
    void (*dots)(int m, int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, const float *b, ptrdiff_t b_column,
                 float *c, ptrdiff_t c_row, int add);
    void (*rows)(ptrdiff_t n, ptrdiff_t k, const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_row, float *c,
                 int add);
    void (*epilogue)(int m, int n, float *c, float *pre, const float *residual, ptrdiff_t row, const float *bias,
                     int activation);
} MatmulKernels;

/* Everything that a layer adds to a product; NULL for an array that is absent. pre receives the input of the
   activation, which the backward pass needs. */
typedef struct {
    const float *bias, *residual;
    float *pre;
    int activation;
} Epilogue;

/* Apply an epilogue to the m x n elements of out (., N) from (i, j) on, while they are still in L1. */
static inline void apply_epilogue(const MatmulKernels *simd, const Epilogue *e, float *out, ptrdiff_t i, ptrdiff_t j,
                                  ptrdiff_t N, int m, int n) {
    const ptrdiff_t at = i * N + j;
    if (!e->bias && !e->residual && !e->pre && e->activation == 0) return;
    simd->epilogue(m, n, out + at, e->pre ? e->pre + at : NULL, e->residual ? e->residual + at : NULL, N,
                   e->bias ? e->bias + j : NULL, e->activation);
}

#define SIMD_KERNEL "simd/matmul_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const MatmulKernels *matmul_kernels(const char *isa) { return TABLE_FOR(matmul_table, isa); }

#elif defined(ISA)
#include "simd/math.h"
#include "simd/tile.h"

/* One vector of a row that has n more columns: zero where there are none. */
TEMPLATE vec FOR_ISA(columns)(const float *x, ptrdiff_t n) {
    return n >= LANES ? vload(x) : n > 0 ? vload_part(x, (int)n) : vset(0.0f);
}

/* Pack n columns of b into slivers of NR columns: slivers[q][p, r] = x[(q NR + r) * across + p * along]. One of the two
   strides is 1. Rows along r are copied, each from its first column to its last, so that memory is read in order. Rows
   along p are transposed, in squares of LANES x LANES registers. Columns from n to the end of the last sliver are
   zero. */
static void FOR_ISA(pack)(const float *x, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k, float *slivers) {
    if (across == 1) { /* rows along r: copy them */
        for (ptrdiff_t p = 0; p < k; p++, x += along, slivers += NR)
            for (ptrdiff_t r = 0; r < n; r += NR)
                UNROLL for (int j = 0; j < NR; j += LANES)
                    vstore(slivers + r * k + j, FOR_ISA(columns)(x + r + j, n - r - j));
        return;
    }
    for (ptrdiff_t r = 0; r < (n + NR - 1) / NR * NR; r += LANES) {
        const ptrdiff_t part = n - r < LANES ? n - r : LANES; /* columns that exist; 0 or less in whole padding */
        const float *from = x + r * across;
        float *to = slivers + r / NR * NR * k + r % NR;
        ptrdiff_t p = 0;
        for (; p + LANES <= k; p += LANES) { /* rows along p: transpose a square in registers */
            vec y[LANES];
            UNROLL for (int i = 0; i < LANES; i++) y[i] = i < part ? vload(from + i * across + p) : vset(0.0f);
            vtranspose(y);
            UNROLL for (int i = 0; i < LANES; i++) vstore(to + (p + i) * NR, y[i]);
        }
        for (; p < k; p++) /* the remaining steps, element by element */
            for (int i = 0; i < LANES; i++) to[p * NR + i] = i < part ? from[i * across + p * along] : 0.0f;
    }
}

/* Pack all slivers of m rows of a transposed a: slivers[q][p, i] = a[p * step + q * MR + i]. Each step reads m
   neighbours at once. Rows of an a that is not transposed need no packing: the micro-kernel reads them in place. */
static void FOR_ISA(pack_rows)(const float *a, ptrdiff_t step, int m, ptrdiff_t k, float *slivers) {
    for (ptrdiff_t p = 0; p < k; p++, a += step, slivers += MR) {
        int i = 0;
        for (; i + MR <= m; i += MR) memcpy(slivers + i * k, a + i, MR * sizeof(float));
        for (int rest = i; rest < m; rest++) slivers[i * k + rest - i] = a[rest];
    }
}

/* c[i, j] = a[i, :] . b[:, j] for m rows of a and n columns of b, both contiguous along the sum. Every sum has LANES
   partial sums, added in the order of vsum. Each column of b is read once for all m rows. */
TEMPLATE void FOR_ISA(dots_tile)(const int m, const int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, const float *b,
                               ptrdiff_t b_column, float *c, ptrdiff_t c_row, int add) {
    vec sum[DOT_ROWS][DOT_COLUMNS], x, y[DOT_COLUMNS];
    ptrdiff_t p = 0;
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < n; j++) sum[i][j] = vset(0.0f);
    }
    for (; p + LANES <= k; p += LANES) {
        UNROLL for (int j = 0; j < n; j++) y[j] = vload(b + j * b_column + p);
        UNROLL for (int i = 0; i < m; i++) {
            x = vload(a + i * a_row + p);
            UNROLL for (int j = 0; j < n; j++) sum[i][j] = vfma(x, y[j], sum[i][j]);
        }
    }
    if (p < k) { /* the last steps, with zeros in the padding lanes of both operands */
        const int rest = (int)(k - p);
        UNROLL for (int j = 0; j < n; j++) y[j] = vload_part(b + j * b_column + p, rest);
        UNROLL for (int i = 0; i < m; i++) {
            x = vload_part(a + i * a_row + p, rest);
            UNROLL for (int j = 0; j < n; j++) sum[i][j] = vfma(x, y[j], sum[i][j]);
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < n; j++) {
            float total = vsum(sum[i][j]);
            c[i * c_row + j] = add ? c[i * c_row + j] + total : total;
        }
    }
}

#define DOTS(m)                                                                                                  \
    case m:                                                                                                      \
        for (j = 0; j + DOT_COLUMNS <= n; j += DOT_COLUMNS)                                                      \
            FOR_ISA(dots_tile)(m, DOT_COLUMNS, k, a, a_row, b + j * b_column, b_column, c + j, c_row, add);      \
        for (; j < n; j++) FOR_ISA(dots_tile)(m, 1, k, a, a_row, b + j * b_column, b_column, c + j, c_row, add); \
        break;

/* The same for 1 <= m <= DOT_ROWS and any n. */
static void FOR_ISA(dots)(int m, int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, const float *b,
                          ptrdiff_t b_column, float *c, ptrdiff_t c_row, int add) {
    int j;
    switch (m) { DOTS(1) DOTS(2) DOTS(3) DOTS(4) }
}
#undef DOTS

/* c[j] (+)= sum_p a[p] b[p, j] for `count` rows of b, read side by side from the first column to the last. Four vectors
   of c at a time are loaded and stored once for all `count` rows. */
TEMPLATE void FOR_ISA(add_rows)(const int count, ptrdiff_t n, const float *a, ptrdiff_t a_step, const float *b,
                                 ptrdiff_t b_row, float *c, int add) {
    vec factor[ROWS_AT_ONCE];
    ptrdiff_t j = 0;
    UNROLL for (int p = 0; p < count; p++) factor[p] = vset(a[p * a_step]);
    for (; j + 4 * LANES <= n; j += 4 * LANES) {
        vec x[4];
        UNROLL for (int i = 0; i < 4; i++) x[i] = add ? vload(c + j + i * LANES) : vset(0.0f);
        UNROLL for (int p = 0; p < count; p++) {
            UNROLL for (int i = 0; i < 4; i++) x[i] = vfma(factor[p], vload(b + p * b_row + j + i * LANES), x[i]);
        }
        UNROLL for (int i = 0; i < 4; i++) vstore(c + j + i * LANES, x[i]);
    }
    for (; j < n; j += LANES) {
        vec x = add ? FOR_ISA(load_lanes)(c + j, n - j) : vset(0.0f);
        UNROLL for (int p = 0; p < count; p++) x = vfma(factor[p], FOR_ISA(load_lanes)(b + p * b_row + j, n - j), x);
        FOR_ISA(store_lanes)(c + j, x, n - j);
    }
}

/* One row times a matrix with contiguous rows: c (n,) (+)= a (k,) b (k, n). c stays in L1, and b is read once, in
   order. Each sum runs over p in ascending order, as in the micro-kernel. */
static void FOR_ISA(rows)(ptrdiff_t n, ptrdiff_t k, const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_row,
                          float *c, int add) {
    ptrdiff_t p = 0;
    for (; p + ROWS_AT_ONCE <= k; p += ROWS_AT_ONCE)
        FOR_ISA(add_rows)(ROWS_AT_ONCE, n, a + p * a_step, a_step, b + p * b_row, b_row, c, add || p > 0);
    for (; p < k; p++) FOR_ISA(add_rows)(1, n, a + p * a_step, a_step, b + p * b_row, b_row, c, add || p > 0);
    if (k == 0 && !add) memset(c, 0, n * sizeof *c);
}

/* The epilogue of one vector of c, of which the first `part` lanes exist. */
TEMPLATE void FOR_ISA(epilogue_vector)(const int part, float *c, float *pre, const float *residual, const float *bias,
                                       const int activation) {
    vec x = FOR_ISA(load_lanes)(c, part);
    if (bias) x = vadd(x, FOR_ISA(load_lanes)(bias, part));
    if (pre) FOR_ISA(store_lanes)(pre, x, part);
    if (activation == 1) x = FOR_ISA(gelu)(x);
    if (residual) x = vadd(x, FOR_ISA(load_lanes)(residual, part));
    FOR_ISA(store_lanes)(c, x, part);
}

/* The epilogue of m x n elements. Which arrays exist is constant where this is inlined, so that the loop has no
   tests. */
TEMPLATE void FOR_ISA(epilogue_tile)(int m, int n, float *c, float *pre, const float *residual, ptrdiff_t row,
                                     const float *bias, const int activation) {
    for (int i = 0; i < m; i++) {
        const ptrdiff_t r = i * row;
        int j = 0;
        for (; j + LANES <= n; j += LANES)
            FOR_ISA(epilogue_vector)(LANES, c + r + j, pre ? pre + r + j : NULL, residual ? residual + r + j : NULL,
                                     bias ? bias + j : NULL, activation);
        if (j < n)
            FOR_ISA(epilogue_vector)(n - j, c + r + j, pre ? pre + r + j : NULL, residual ? residual + r + j : NULL,
                                     bias ? bias + j : NULL, activation);
    }
}

/* c = activation(c + bias) + residual for m x n elements in L1; pre receives the input of the activation. Rows of c,
   pre and residual are `row` apart; pre, residual and bias may be NULL. The micro-kernel has added the bias itself,
   so its tiles come here only for a GELU: these two cases have loops of their own. Dot products come with everything.
   */
static void FOR_ISA(epilogue)(int m, int n, float *c, float *pre, const float *residual, ptrdiff_t row,
                              const float *bias, int activation) {
    if (!bias && pre && !residual && activation == 1) FOR_ISA(epilogue_tile)(m, n, c, pre, NULL, row, NULL, 1);
    else if (!bias && !pre && !residual && activation == 1) FOR_ISA(epilogue_tile)(m, n, c, NULL, NULL, row, NULL, 1);
    else FOR_ISA(epilogue_tile)(m, n, c, pre, residual, row, bias, activation);
}

static const MatmulKernels FOR_ISA(matmul_table) = {
    MR, NR, LANES, 0, 1, FOR_ISA(pack), FOR_ISA(pack_rows), NULL, FOR_ISA(micro_kernel),
    FOR_ISA(dots), FOR_ISA(rows), FOR_ISA(epilogue)};
#endif
