/* Products whose operands are rounded to bfloat16 while they are packed; sums stay float32. For csrc/matmul.pyx.

   bfloat16 is the upper half of a float32: 8 bits of exponent and 8 of precision, so that rounding changes an operand
   by at most 2^-8 of its value. Processors with AVX-512 BF16 multiply pairs of such numbers in one instruction. All
   others round to the nearest float whose lower 16 bits are zero, and use the float32 micro-kernel. Both compute the
   same products, but sum them in another order, and the instruction treats subnormal numbers as zero. */
#ifndef TINYGPT_MATMUL_BF16_KERNEL_H
#define TINYGPT_MATMUL_BF16_KERNEL_H
#include "simd/matmul_kernel.h"

/* The 16 bits of the nearest bfloat16, ties to even. A NaN stays one, even if only its lower bits made it a NaN. */
static inline uint32_t bf16_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

#define SIMD_KERNEL "simd/matmul_bf16_kernel.h"
#include "simd/foreach_isa.h"

#if defined(__x86_64__)
BEGIN_ISA(AVX512_BF16)
#include "simd/vec_bf16.h"
#include "simd/tile.h"

/* Interleave two rows of 16 floats into 16 words, the first row in the lower halves. The conversion instruction gives
   one row after the other, so a permutation follows. */
static const uint16_t PAIRED[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
TEMPLATE __m512 pair_rows_bf16(__m512 first, __m512 second) {
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(PAIRED), both));
}

/* Like pack of matmul_kernel.h, with steps 2 p and 2 p + 1 of the sum in one word: a sliver is (ceil(k / 2), NR). */
static void pack_bf16(const float *x, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k, float *slivers) {
    const ptrdiff_t words = (k + 1) / 2;
    if (across == 1) { /* rows of x lie along r: join two neighbouring steps */
        for (ptrdiff_t p = 0; p < k; p += 2, x += 2 * along, slivers += NR)
            for (ptrdiff_t r = 0; r < n; r += NR)
                UNROLL for (int j = 0; j < NR; j += LANES) {
                    __m512 second = p + 1 < k ? columns_avx512(x + along + r + j, n - r - j) : vset(0.0f);
                    vstore(slivers + r * words + j, pair_rows_bf16(columns_avx512(x + r + j, n - r - j), second));
                }
        return;
    }
    /* Rows of x lie along p: a word already joins two steps of one row, so a transposition of words is enough. */
    for (ptrdiff_t r = 0; r < (n + NR - 1) / NR * NR; r += LANES) {
        const ptrdiff_t part = n - r < LANES ? n - r : LANES;
        const float *from = x + r * across;
        float *to = slivers + r / NR * NR * words + r % NR;
        ptrdiff_t p = 0;
        for (; p + 2 * LANES <= k; p += 2 * LANES) {
            vec y[LANES];
            UNROLL for (int i = 0; i < LANES; i++) {
                const float *row = from + i * across + p;           /* 32 steps of one row are 16 words, in order */
                y[i] = i < part ? (__m512)_mm512_cvtne2ps_pbh(vload(row + LANES), vload(row)) : vset(0.0f);
            }
            vtranspose(y);
            UNROLL for (int i = 0; i < LANES; i++) vstore(to + (p / 2 + i) * NR, y[i]);
        }
        for (; p < k; p += 2) /* the remaining steps, one word at a time */
            for (int i = 0; i < LANES; i++) {
                const float *at = from + i * across + p * along;
                uint32_t word = i < part ? bf16_bits(at[0]) | (p + 1 < k ? bf16_bits(at[along]) << 16 : 0) : 0;
                memcpy(to + p / 2 * NR + i, &word, sizeof word);
            }
    }
}

/* Like pack_rows of matmul_kernel.h. A vector of 16 words holds one row of two slivers, MR = 8 words each; a sliver is
   (ceil(k / 2), MR). */
static void pack_rows_bf16(const float *a, ptrdiff_t step, int m, ptrdiff_t k, float *slivers) {
    for (int i = 0; i < m; i += LANES) {
        const int part = m - i < LANES ? m - i : LANES;
        const __mmask16 some = (__mmask16)((1u << part) - 1);
        float *low = slivers + i * ((k + 1) / 2), *high = low + MR * ((k + 1) / 2);
        for (ptrdiff_t p = 0; p < k; p += 2, low += MR, high += MR) {
            __m512 first = _mm512_maskz_loadu_ps(some, a + p * step + i);
            __m512 second = p + 1 < k ? _mm512_maskz_loadu_ps(some, a + (p + 1) * step + i) : vset(0.0f);
            __m512 words = pair_rows_bf16(first, second);
            _mm256_storeu_ps(low, _mm512_castps512_ps256(words));
            if (part > MR) _mm256_storeu_ps(high, _mm512_extractf32x8_ps(words, 1));
        }
    }
}

/* m rows of a as words of two neighbouring steps: block is (m, ceil(k / 2)). No transposition is needed, because the
   micro-kernel reads one word of each row per step, wherever the rows are. */
static void round_rows_bf16(const float *a, ptrdiff_t row, int m, ptrdiff_t k, float *block) {
    for (int i = 0; i < m; i++, a += row) {
        ptrdiff_t p = 0;
        for (; p + 2 * LANES <= k; p += 2 * LANES, block += LANES)
            vstore(block, (__m512)_mm512_cvtne2ps_pbh(vload(a + p + LANES), vload(a + p)));
        if (p < k) { /* up to 32 steps; the word that an odd k leaves half empty ends with zero */
            const int low = k - p < LANES ? (int)(k - p) : LANES, high = (int)(k - p) - low;
            const int words = (low + high + 1) / 2;
            __m512 second = high ? vload_part(a + p + LANES, high) : vset(0.0f);
            vstore_part(block, (__m512)_mm512_cvtne2ps_pbh(second, vload_part(a + p, low)), words);
            block += words;
        }
    }
}

static const MatmulKernels matmul_bf16_table_bf16 = {
    MR, NR, LANES, 1, 2, pack_bf16, pack_rows_bf16, round_rows_bf16, micro_kernel_bf16, NULL, NULL, epilogue_avx512};
#include "simd/vec_end.h"
END_ISA
static int has_bf16(void) { return __builtin_cpu_supports("avx512bf16"); }
#else
#define matmul_bf16_table_bf16 matmul_bf16_table_scalar
static int has_bf16(void) { return 0; }
#endif

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const MatmulKernels *matmul_bf16_kernels(const char *isa) {
    if (strcmp(isa, "avx512") == 0 && has_bf16()) return &matmul_bf16_table_bf16;
    return TABLE_FOR(matmul_bf16_table, isa);
}

#elif defined(ISA)
#include "simd/tile_size.h"

/* Round n floats to bfloat16 in place. */
static void FOR_ISA(round_floats)(float *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t bits = bf16_bits(x[i]) << 16;
        memcpy(x + i, &bits, sizeof bits);
    }
}

/* Pack as floats, then round what was packed. */
static void FOR_ISA(pack_rounded)(const float *x, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k,
                                  float *slivers) {
    FOR_ISA(pack)(x, across, along, n, k, slivers);
    FOR_ISA(round_floats)(slivers, (n + NR - 1) / NR * NR * k);
}

static void FOR_ISA(pack_rows_rounded)(const float *a, ptrdiff_t step, int m, ptrdiff_t k, float *slivers) {
    FOR_ISA(pack_rows)(a, step, m, k, slivers);
    for (int i = 0; i < m; i += MR) /* the last sliver may have fewer rows: the others of its MR are never read */
        for (ptrdiff_t p = 0; p < k; p++) FOR_ISA(round_floats)(slivers + i * k + p * MR, m - i < MR ? m - i : MR);
}

static void FOR_ISA(round_rows)(const float *a, ptrdiff_t row, int m, ptrdiff_t k, float *block) {
    for (int i = 0; i < m; i++) memcpy(block + i * k, a + i * row, k * sizeof(float));
    FOR_ISA(round_floats)(block, m * k);
}

static const MatmulKernels FOR_ISA(matmul_bf16_table) = {
    MR, NR, LANES, 1, 1, FOR_ISA(pack_rounded), FOR_ISA(pack_rows_rounded), FOR_ISA(round_rows),
    FOR_ISA(micro_kernel), NULL, NULL, FOR_ISA(epilogue)};
#endif
