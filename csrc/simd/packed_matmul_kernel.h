/* The inner kernels of products with packed weights: dot products that read b as it is stored, and unpacking to float32
   for everything else. For csrc/packed_matmul.pyx.

   Rows of b are bfloat16, or int8 with one scale per BLOCK of them. A scale is stored as the bits of a half precision
   number (IEEE 754 binary16). It has 11 bits and an int8 has 7, so their product fits a float32 exactly. */
#ifndef TINYGPT_PACKED_MATMUL_KERNEL_H
#define TINYGPT_PACKED_MATMUL_KERNEL_H
#include "simd/matmul_kernel.h"

#define BLOCK 32
#define BFLOAT16 0
#define INT8 1

/* The float32 whose upper half is `bits`. */
static inline float bfloat16_value(uint16_t bits) {
    const uint32_t word = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

/* A half precision number >= 0. Its bits, moved to the place of a float32's exponent and mantissa, give a value that is
   too small by 2^112 (the difference of the two exponent biases), also for subnormal numbers. Infinities and NaN are
   not handled: scales have none. */
static inline float half_value(uint16_t bits) {
    const uint32_t word = (uint32_t)bits << 13;
    float x;
    memcpy(&x, &word, sizeof x);
    return x * 0x1p112f;
}

/* A matrix (rows, K) of packed numbers. `scales` has blocks = ceil(K / BLOCK) per row, and is NULL for bfloat16. */
typedef struct {
    int kind;
    ptrdiff_t K, blocks;
    const uint16_t *halves, *scales; /* halves: NULL for int8 */
    const int8_t *bytes;             /* NULL for bfloat16 */
} Packed;

/* Element (j, p) as a float. */
static inline float packed_value(const Packed *b, ptrdiff_t j, ptrdiff_t p) {
    if (b->kind == BFLOAT16) return bfloat16_value(b->halves[j * b->K + p]);
    return half_value(b->scales[j * b->blocks + p / BLOCK]) * (float)b->bytes[j * b->K + p];
}

/* The table of an instruction set. */
typedef struct {
    void (*dots)(int m, ptrdiff_t n, const float *a, const Packed *b, ptrdiff_t j, float *c, ptrdiff_t c_row);
    void (*unpack)(const Packed *b, ptrdiff_t j, ptrdiff_t p, ptrdiff_t n, float *out);
} PackedKernels;

#define SIMD_KERNEL "simd/packed_matmul_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const PackedKernels *packed_kernels(const char *isa) { return TABLE_FOR(packed_table, isa); }

#elif defined(ISA) /* load_lanes and store_lanes come with matmul_kernel.h, which this file includes */

/* Rows of b per pass, for m rows of a. With one row of a, 8 sums keep two FMA units busy for their 4 cycles of latency.
   With several rows of a there are sums enough. */
#define COLUMNS(m) ((m) == 1 ? 8 : REGISTERS / 8)

/* LANES numbers of a row of b as floats. With part < LANES the rest is zero, and nothing past them is read. */
TEMPLATE vec FOR_ISA(bf16_lanes)(const uint16_t *p, int part) {
    uint16_t some[LANES] = {0};
    if (part >= LANES) return vload_bf16(p);
    memcpy(some, p, part * sizeof *p);
    return vload_bf16(some);
}
TEMPLATE vec FOR_ISA(int8_lanes)(const int8_t *p, int part) {
    int8_t some[LANES] = {0};
    if (part >= LANES) return vload_int8(p);
    memcpy(some, p, part);
    return vload_int8(some);
}

/* One step of the sums: `part` numbers of m rows of a and n rows of b. A row of b is a page or less, too short for the
   processor to fetch the next ones by itself, so the same place in the n rows that follow is prefetched. */
TEMPLATE void FOR_ISA(step_bf16)(const int m, const int n, int part, const float *a, ptrdiff_t K, const uint16_t *b,
                                 vec (*sum)[8]) {
    vec x[DOT_ROWS], y;
    UNROLL for (int i = 0; i < m; i++) x[i] = FOR_ISA(load_lanes)(a + i * K, part);
    UNROLL for (int j = 0; j < n; j++) {
        __builtin_prefetch(b + (j + n) * K);
        y = FOR_ISA(bf16_lanes)(b + j * K, part);
        UNROLL for (int i = 0; i < m; i++) sum[i][j] = vfma(x[i], y, sum[i][j]);
    }
}

/* c[i, j] = a[i, :] . b[j, :] for m rows of a and n rows of bfloat16, LANES partial sums each. */
TEMPLATE void FOR_ISA(dots_bf16)(const int m, const int n, const float *a, const uint16_t *b, ptrdiff_t K, float *c,
                                 ptrdiff_t c_row) {
    vec sum[DOT_ROWS][8];
    ptrdiff_t p = 0;
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < n; j++) sum[i][j] = vset(0.0f);
    }
    for (; p + LANES <= K; p += LANES) FOR_ISA(step_bf16)(m, n, LANES, a + p, K, b + p, sum);
    if (p < K) FOR_ISA(step_bf16)(m, n, (int)(K - p), a + p, K, b + p, sum);
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < n; j++) c[i * c_row + j] = vsum(sum[i][j]);
    }
}

/* total[i] += a[i] y for one vector of a block, of which `part` lanes exist. */
TEMPLATE void FOR_ISA(step_int8)(const int m, int part, const float *a, ptrdiff_t K, const int8_t *b, vec *total) {
    const vec y = FOR_ISA(int8_lanes)(b, part);
    UNROLL for (int i = 0; i < m; i++) total[i] = vfma(FOR_ISA(load_lanes)(a + i * K, part), y, total[i]);
}

/* One block of the sums: its int8 are multiplied without the scale, and the sum of the block by the scale, once. */
TEMPLATE void FOR_ISA(block_int8)(const int m, const int n, const int size, const float *a, ptrdiff_t K,
                                  const int8_t *b, const uint16_t *scales, ptrdiff_t blocks, vec (*sum)[8]) {
    UNROLL for (int j = 0; j < n; j++) {
        const vec scale = vset(half_value(scales[j * blocks]));
        const int8_t *row = b + j * K;
        vec total[DOT_ROWS];
        __builtin_prefetch(row + n * K);
        UNROLL for (int i = 0; i < m; i++) total[i] = vset(0.0f);
        if (size == BLOCK) { /* a constant length, so that the loop is unrolled */
            UNROLL for (int p = 0; p < BLOCK; p += LANES) FOR_ISA(step_int8)(m, LANES, a + p, K, row + p, total);
        } else {
            for (int p = 0; p < size; p += LANES) FOR_ISA(step_int8)(m, size - p, a + p, K, row + p, total);
        }
        UNROLL for (int i = 0; i < m; i++) sum[i][j] = vfma(scale, total[i], sum[i][j]);
    }
}

/* c[i, j] = a[i, :] . b[j, :] for m rows of a and n rows of int8, LANES partial sums each. */
TEMPLATE void FOR_ISA(dots_int8)(const int m, const int n, const float *a, const int8_t *b, const uint16_t *scales,
                                 ptrdiff_t K, ptrdiff_t blocks, float *c, ptrdiff_t c_row) {
    vec sum[DOT_ROWS][8];
    ptrdiff_t p = 0;
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < n; j++) sum[i][j] = vset(0.0f);
    }
    for (; p + BLOCK <= K; p += BLOCK)
        FOR_ISA(block_int8)(m, n, BLOCK, a + p, K, b + p, scales + p / BLOCK, blocks, sum);
    if (p < K) FOR_ISA(block_int8)(m, n, (int)(K - p), a + p, K, b + p, scales + p / BLOCK, blocks, sum);
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < n; j++) c[i * c_row + j] = vsum(sum[i][j]);
    }
}

#define DOTS(m, n)                                                                                           \
    if (b->kind == BFLOAT16) FOR_ISA(dots_bf16)(m, n, a, b->halves + j * b->K, b->K, c, c_row);              \
    else                                                                                                     \
        FOR_ISA(dots_int8)(m, n, a, b->bytes + j * b->K, b->scales + j * b->blocks, b->K, b->blocks, c, c_row);
#define ROWS(m)                                                         \
    case m:                                                             \
        for (; j + COLUMNS(m) <= end; j += COLUMNS(m), c += COLUMNS(m)) { DOTS(m, COLUMNS(m)) } \
        for (; j < end; j++, c++) { DOTS(m, 1) }                        \
        break;

/* c[i, 0..n-1] = a[i, :] . b[j + 0..n-1, :] for m <= DOT_ROWS rows of a, K apart. Each row of b is read once. */
static void FOR_ISA(packed_dots)(int m, ptrdiff_t n, const float *a, const Packed *b, ptrdiff_t j, float *c,
                                 ptrdiff_t c_row) {
    const ptrdiff_t end = j + n;
    switch (m) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) }
}
#undef DOTS
#undef ROWS
#undef COLUMNS

/* Unpack elements p to p + n - 1 of row j to floats; p is a multiple of BLOCK. */
static void FOR_ISA(unpack)(const Packed *b, ptrdiff_t j, ptrdiff_t p, ptrdiff_t n, float *out) {
    for (ptrdiff_t i = 0; i < n; i += BLOCK) {
        const int size = n - i < BLOCK ? (int)(n - i) : BLOCK;
        const ptrdiff_t at = j * b->K + p + i;
        const vec scale = vset(b->kind == INT8 ? half_value(b->scales[j * b->blocks + (p + i) / BLOCK]) : 1.0f);
        for (int s = 0; s < size; s += LANES) {
            vec x = b->kind == INT8 ? vmul(scale, FOR_ISA(int8_lanes)(b->bytes + at + s, size - s))
                                    : FOR_ISA(bf16_lanes)(b->halves + at + s, size - s);
            FOR_ISA(store_lanes)(out + i + s, x, size - s);
        }
    }
}

static const PackedKernels FOR_ISA(packed_table) = {FOR_ISA(packed_dots), FOR_ISA(unpack)};
#endif
