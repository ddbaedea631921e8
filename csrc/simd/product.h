/* One call of matmul as its micro-tiles see it, and the path for products of few rows. For csrc/matmul.pyx.

   With M rows, every number of b is used M times. When M is small, packing b would cost more than the product, and the
   time is that of reading b once. Which of three ways reads it best depends on the layout:

   rows and layout                              way
   M <= DOT_ROWS, both contiguous along p       dot products of rows of a and columns of b
   M = 1, rows of b contiguous                  rows of b, scaled and added to the one row of out
   otherwise, M <= SKINNY                       micro-tiles that read b in place, or from one packed sliver

   SKINNY, like every choice here, depends on the shape alone, so that the bits do not depend on the threads. */
#ifndef TINYGPT_PRODUCT_H
#define TINYGPT_PRODUCT_H
#include "simd/matmul_kernel.h"

#define SKINNY 16      /* rows up to which b is read once; from there on packed panels are faster */
#define SIMD_KC 384    /* words of the sum between two visits to out: see the block sizes in csrc/matmul.pyx */
#define ROW 4096       /* sums of a single row that stay in L1 while rows of b are added to them: 16 KB */
#define STREAM 32      /* rows of b read side by side when memory is the limit, so that each page is read to its end */
#define IN_PLACE 65536 /* floats = 256 KB: a smaller part of b stays in L2, and packing it would only copy it there */

/* Element (r, c) of op(x) is data[r * row + c * col]. */
typedef struct {
    const float *data;
    ptrdiff_t row, col;
} Operand;

/* out (M, N) (+)= op(a) (M, K) op(b) (K, N), then the epilogue. The micro-kernel adds the bias, and the residual if
   nothing comes before it. `deferred` is the rest, applied after the store of a micro-tile: activation, pre and
   residual if there is an activation or pre, otherwise nothing. */
typedef struct {
    const MatmulKernels *simd;
    Operand a, b;
    float *out;
    ptrdiff_t M, N, K;
    int accumulate;
    Epilogue epilogue, deferred;
} Product;

static inline ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Number of 32-bit words that hold kc steps of the sum in a sliver. */
static inline ptrdiff_t words_of(const Product *x, ptrdiff_t kc) { return (kc + x->simd->pair - 1) / x->simd->pair; }

/* The array that the micro-tile at (i, j) adds to part pc of its sums: out itself, the residual, or none. */
static inline const float *addend_of(const Product *x, ptrdiff_t i, ptrdiff_t j, ptrdiff_t pc) {
    if (x->accumulate || pc > 0) return x->out + i * x->N + j;
    if (x->epilogue.residual && !x->deferred.residual) return x->epilogue.residual + i * x->N + j;
    return NULL;
}

/* The bias from column j on, which the last part of the sum adds. */
static inline const float *bias_of(const Product *x, ptrdiff_t j, int last) {
    return last && x->epilogue.bias ? x->epilogue.bias + j : NULL;
}

/* True if micro-tiles may read n columns and kc steps of b in place: whole vectors side by side, and small enough for
   L2. Otherwise every step would touch another page, and a partial vector would read past the end. */
static inline int reads_in_place(const Product *x, ptrdiff_t n, ptrdiff_t kc) {
    return x->b.col == 1 && n % x->simd->lanes == 0 && x->b.row * kc <= IN_PLACE && !x->simd->rounds;
}

/* Both operands are contiguous along the sum: dot products. */
static void skinny_dots(const Product *x, ptrdiff_t first, ptrdiff_t last) {
    x->simd->dots((int)x->M, (int)(last - first), x->K, x->a.data, x->a.row, x->b.data + first * x->b.col, x->b.col,
                  x->out + first, x->N, x->accumulate);
    apply_epilogue(x->simd, &x->epilogue, x->out, 0, first, x->N, (int)x->M, (int)(last - first));
}

/* One row of a: rows of b are scaled and added to ROW sums at a time. */
static void skinny_row(const Product *x, ptrdiff_t first, ptrdiff_t last) {
    for (ptrdiff_t j = first; j < last; j += ROW) {
        const int n = (int)smaller(ROW, last - j);
        x->simd->rows(n, x->K, x->a.data, x->a.col, x->b.data + j, x->b.row, x->out + j, x->accumulate);
        apply_epilogue(x->simd, &x->epilogue, x->out, 0, j, x->N, 1, n);
    }
}

/* Micro-tiles that read b in place where it has whole vectors side by side, and from a packed sliver elsewhere. A
   part of the sum has STREAM steps when b is read in place by so few rows that memory is the limit. */
static void skinny_tiles(const Product *x, ptrdiff_t first, ptrdiff_t last, float *sliver) {
    const MatmulKernels *simd = x->simd;
    const ptrdiff_t part = x->M <= DOT_ROWS && x->b.col == 1 ? STREAM : SIMD_KC;
    ptrdiff_t a_row = x->a.row, a_step = x->a.col, pc = 0;
    float *a_block = sliver + simd->nr * SIMD_KC;
    do {                                                                /* once even if K = 0, so that out is written */
        const ptrdiff_t kc = smaller(part, x->K - pc), words = words_of(x, kc);
        const int is_last = pc + part >= x->K;
        for (ptrdiff_t j = first; j < last; j += simd->nr) {
            const int n = (int)smaller(simd->nr, last - j);
            const float *b = x->b.data + pc * x->b.row + j * x->b.col;
            ptrdiff_t b_step = x->b.row;
            if (x->b.col != 1 || n % simd->lanes || simd->rounds) {
                simd->pack(b, x->b.col, x->b.row, n, kc, sliver);
                b = sliver;
                b_step = simd->nr;
            }
            for (ptrdiff_t i = 0; i < x->M; i += simd->mr) {
                const int m = (int)smaller(simd->mr, x->M - i);
                const float *a = x->a.data + i * x->a.row + pc * x->a.col;
                if (simd->rounds) {
                    if (x->a.col == 1) simd->round_rows(a, x->a.row, m, kc, a_block);
                    else simd->pack_rows(a, x->a.col, m, kc, a_block);
                    a = a_block;
                    a_row = x->a.col == 1 ? words : 1;
                    a_step = x->a.col == 1 ? 1 : simd->mr;
                }
                simd->micro_kernel(m, n, words, a, a_row, a_step, b, b_step, x->out + i * x->N + j, x->N,
                                   addend_of(x, i, j, pc), bias_of(x, j, is_last));
            }
            if (is_last) apply_epilogue(simd, &x->deferred, x->out, 0, j, x->N, (int)x->M, n);
        }
        pc += part;
    } while (pc < x->K);
}

/* Columns first to last - 1 of a product with M <= SKINNY rows. `buffer` has room for a sliver of b and one of a. */
static void skinny(const Product *x, ptrdiff_t first, ptrdiff_t last, float *buffer) {
    const int few = x->M <= DOT_ROWS && !x->simd->rounds;
    if (few && x->a.col == 1 && x->b.row == 1) skinny_dots(x, first, last);
    else if (few && x->b.col == 1 && x->M == 1) skinny_row(x, first, last);
    else skinny_tiles(x, first, last, buffer);
}

#endif
