/* The inner kernels of the product, for csrc/matmul.pyx: a register tile, packing, dot products, and what comes after.

   A panel is (k, width) floats: step p of the sum is a row of `width` lanes, so that the tile reads it with stride one.
   Columns of b come in panels of NR = NV LANES, padded with zeros to whole vectors; rows of a in panels of MR. */
#ifndef TINYGPT_MATMUL_KERNEL_H
#define TINYGPT_MATMUL_KERNEL_H
#include "scalar.h"

#define DOT_ROWS 4    /* 4 x 4 sums, 4 vectors of b and one of a are 21 registers; with 16, rows of sums are spilled */
#define ROWS_AT_ONCE 8 /* streams of b for one row of a: as many numbers of a wait in registers */
#define DOT_COLUMNS 4 /* four streams of b at a time: one sum would wait 4 cycles for itself */

/* Kernels that round their operands (matmul_bf16_kernel.h) have a table of the same form: `rounds` says that operands
   must be packed even where they could be read in place, `pair` how many steps of the sum lie in a word of a panel. */
typedef struct {
    int mr, nr, lanes, rounds, pair;
    void (*pack)(const float *x, ptrdiff_t across, ptrdiff_t along, int n, ptrdiff_t k, int width, float *panel);
    void (*pack_rows)(const float *a, ptrdiff_t step, int m, ptrdiff_t k, float *panel);
    void (*tile)(int m, int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, ptrdiff_t a_step, const float *b,
                 ptrdiff_t b_step, float *c, ptrdiff_t c_row, const float *plus, const float *bias);
    void (*dots)(int m, int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, const float *b, ptrdiff_t b_column,
                 float *c, ptrdiff_t c_row, int add);
    void (*rows)(ptrdiff_t n, ptrdiff_t k, const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_row, float *c,
                 int add);
    void (*finish)(int m, int n, float *c, float *pre, const float *residual, ptrdiff_t row, const float *bias,
                   int activation);
} MatmulKernels;

#define SIMD_KERNEL "simd/matmul_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels for an instruction set, NULL if there are none of that name. */
static const MatmulKernels *matmul_kernels(const char *isa) { return TABLE_FOR(matmul_table, isa); }

#elif defined(ISA)
#include "simd/math.h"
#include "simd/tile.h"

/* panel[p, r] = x[r * across + p * along], r < n <= width. One of the strides is 1: rows along r are copied, rows along p
   are turned in squares of LANES x LANES registers. Lanes from n to the next whole vector are zero, as far as the width
   goes. */
static void FOR_ISA(pack)(const float *x, ptrdiff_t across, ptrdiff_t along, int n, ptrdiff_t k, int width,
                          float *panel) {
    for (int r = 0; r < n; r += LANES) {
        const int part = n - r < LANES ? n - r : LANES, room = width - r < LANES ? width - r : LANES;
        const float *from = x + r * across;
        float *to = panel + r;
        ptrdiff_t p = 0;
        if (across == 1) {
            for (; p < k; p++, from += along, to += width) {
                vec y = part == LANES ? vload(from) : vload_part(from, part);
                if (room == LANES) vstore(to, y);
                else vstore_part(to, y, room);
            }
            continue;
        }
        for (; p + LANES <= k; p += LANES) {
            vec y[LANES];
            UNROLL for (int i = 0; i < LANES; i++) y[i] = i < part ? vload(from + i * across + p) : vset(0.0f);
            vtranspose(y);
            UNROLL for (int i = 0; i < LANES; i++) {
                if (room == LANES) vstore(to + (p + i) * width, y[i]);
                else vstore_part(to + (p + i) * width, y[i], room);
            }
        }
        for (; p < k; p++)
            for (int i = 0; i < room; i++) to[p * width + i] = i < part ? from[i * across + p * along] : 0.0f;
    }
}

/* Panels of MR rows one after the other: panel[q][p, i] = a[p * step + q * MR + i] for all m rows. They are the rows of
   a that are not contiguous, because a is read as its transpose; what is contiguous is read in that order. */
static void FOR_ISA(pack_rows)(const float *a, ptrdiff_t step, int m, ptrdiff_t k, float *panel) {
    for (ptrdiff_t p = 0; p < k; p++, a += step, panel += MR) {
        int i = 0;
        for (; i + MR <= m; i += MR) memcpy(panel + i * k, a + i, MR * sizeof(float));
        for (int rest = i; rest < m; rest++) panel[i * k + rest - i] = a[rest];
    }
}

/* c[i, j] = a[i, :] . b[:, j] for m rows of a and n columns of b, both contiguous along the sum. LANES partial sums for
   each, added in the order of vsum: what b's columns cost is to read them once. */
TEMPLATE void FOR_ISA(dots_of)(const int m, const int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, const float *b,
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
    if (p < k) {
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

#define DOTS(m)                                                                                                 \
    case m:                                                                                                     \
        for (j = 0; j + DOT_COLUMNS <= n; j += DOT_COLUMNS)                                                     \
            FOR_ISA(dots_of)(m, DOT_COLUMNS, k, a, a_row, b + j * b_column, b_column, c + j, c_row, add);       \
        for (; j < n; j++) FOR_ISA(dots_of)(m, 1, k, a, a_row, b + j * b_column, b_column, c + j, c_row, add);  \
        break;

/* The same for any m <= DOT_ROWS and any n. */
static void FOR_ISA(dots)(int m, int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, const float *b,
                          ptrdiff_t b_column, float *c, ptrdiff_t c_row, int add) {
    int j;
    switch (m) { DOTS(1) DOTS(2) DOTS(3) DOTS(4) }
}
#undef DOTS

/* c[j] (+)= sum_p a[p] b[p, j] for `count` rows of b, which are read side by side from the first column to the last. */
TEMPLATE void FOR_ISA(some_rows)(const int count, ptrdiff_t n, const float *a, ptrdiff_t a_step, const float *b,
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

/* One row times a matrix whose rows are contiguous: c (n,) (+)= a (k,) b (k, n). c stays in L1, b is read once and in
   order. Each sum is taken over p in ascending order, as in a tile. */
static void FOR_ISA(rows)(ptrdiff_t n, ptrdiff_t k, const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_row,
                          float *c, int add) {
    ptrdiff_t p = 0;
    for (; p + ROWS_AT_ONCE <= k; p += ROWS_AT_ONCE)
        FOR_ISA(some_rows)(ROWS_AT_ONCE, n, a + p * a_step, a_step, b + p * b_row, b_row, c, add || p > 0);
    for (; p < k; p++) FOR_ISA(some_rows)(1, n, a + p * a_step, a_step, b + p * b_row, b_row, c, add || p > 0);
    if (k == 0 && !add) memset(c, 0, n * sizeof *c);
}

/* What comes after the product for one vector at c[at], `part` lanes of which are there. */
TEMPLATE void FOR_ISA(finish_vector)(const int part, float *c, float *pre, const float *residual, const float *bias,
                                     const int activation) {
    vec x = FOR_ISA(load_lanes)(c, part);
    if (bias) x = vadd(x, FOR_ISA(load_lanes)(bias, part));
    if (pre) FOR_ISA(store_lanes)(pre, x, part);
    if (activation == 1) x = FOR_ISA(gelu)(x);
    if (residual) x = vadd(x, FOR_ISA(load_lanes)(residual, part));
    FOR_ISA(store_lanes)(c, x, part);
}

/* All m x n of them. What there is to do is constant where this is inlined, so the loop has no questions in it. */
TEMPLATE void FOR_ISA(finish_of)(int m, int n, float *c, float *pre, const float *residual, ptrdiff_t row,
                                 const float *bias, const int activation) {
    for (int i = 0; i < m; i++) {
        const ptrdiff_t r = i * row;
        int j = 0;
        for (; j + LANES <= n; j += LANES)
            FOR_ISA(finish_vector)(LANES, c + r + j, pre ? pre + r + j : NULL, residual ? residual + r + j : NULL,
                                   bias ? bias + j : NULL, activation);
        if (j < n)
            FOR_ISA(finish_vector)(n - j, c + r + j, pre ? pre + r + j : NULL, residual ? residual + r + j : NULL,
                                   bias ? bias + j : NULL, activation);
    }
}

/* c = activation(c + bias) + residual while the m x n elements are in L1; pre keeps what went into the activation. The
   rows of c, pre and residual are `row` apart; pre, residual and bias may be NULL. A tile has added the bias itself, so
   that of a layer's tiles only those before a GELU come here; dot products come with all there is. */
static void FOR_ISA(finish)(int m, int n, float *c, float *pre, const float *residual, ptrdiff_t row,
                            const float *bias, int activation) {
    if (!bias && pre && !residual && activation == 1) FOR_ISA(finish_of)(m, n, c, pre, NULL, row, NULL, 1);
    else if (!bias && !pre && !residual && activation == 1) FOR_ISA(finish_of)(m, n, c, NULL, NULL, row, NULL, 1);
    else FOR_ISA(finish_of)(m, n, c, pre, residual, row, bias, activation);
}

static const MatmulKernels FOR_ISA(matmul_table) = {
    MR, NV * LANES, LANES, 0, 1, FOR_ISA(pack), FOR_ISA(pack_rows), FOR_ISA(tile),
    FOR_ISA(dots), FOR_ISA(rows), FOR_ISA(finish)};
#endif
