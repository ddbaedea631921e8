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

/* Like pack of matmul_kernel.h, with steps 2 p and 2 p + 1 of the sum in one word: a sliver is (ceil(k / 2), width). */
static void pack_bf16(const float *x, ptrdiff_t across, ptrdiff_t along, int n, ptrdiff_t k, int width, float *sliver) {
    for (int r = 0; r < n; r += LANES) {
        const int part = n - r < LANES ? n - r : LANES, room = width - r < LANES ? width - r : LANES;
        const __mmask16 some = (__mmask16)((1u << part) - 1), fit = (__mmask16)((1u << room) - 1);
        const float *from = x + r * across;
        float *to = sliver + r;
        ptrdiff_t p = 0;
        if (across == 1) { /* rows of x lie along r: join two neighbouring steps */
            for (; p < k; p += 2, to += width) {
                __m512 first = _mm512_maskz_loadu_ps(some, from + p * along);
                __m512 second = p + 1 < k ? _mm512_maskz_loadu_ps(some, from + (p + 1) * along) : vset(0.0f);
                _mm512_mask_storeu_ps(to, fit, pair_rows_bf16(first, second));
            }
            continue;
        }
        /* Rows of x lie along p: a word already joins two steps of one row, so a transposition of words is enough. */
        for (; p + 2 * LANES <= k; p += 2 * LANES) {
            vec y[LANES];
            UNROLL for (int i = 0; i < LANES; i++) {
                const float *row = from + i * across + p;           /* 32 steps of one row are 16 words, in order */
                y[i] = i < part ? (__m512)_mm512_cvtne2ps_pbh(vload(row + LANES), vload(row)) : vset(0.0f);
            }
            vtranspose(y);
            UNROLL for (int i = 0; i < LANES; i++) _mm512_mask_storeu_ps(to + (p / 2 + i) * width, fit, y[i]);
        }
        for (; p < k; p += 2) /* the remaining steps, one word at a time */
            for (int i = 0; i < room; i++) {
                const float *at = from + i * across + p * along;
                uint32_t word = i < part ? bf16_bits(at[0]) | (p + 1 < k ? bf16_bits(at[along]) << 16 : 0) : 0;
                memcpy(to + p / 2 * width + i, &word, sizeof word);
            }
    }
}

/* Like pack_rows of matmul_kernel.h. A vector of 16 words holds one row of two slivers, MR = 8 words each. */
static void pack_rows_bf16(const float *a, ptrdiff_t step, int m, ptrdiff_t k, float *slivers) {
    for (int i = 0; i < m; i += LANES) {
        const int part = m - i < LANES ? m - i : LANES;
        const __mmask16 some = (__mmask16)((1u << part) - 1);
        float *low = slivers + i * k, *high = low + MR * k;
        for (ptrdiff_t p = 0; p < k; p += 2, low += MR, high += MR) {
            __m512 first = _mm512_maskz_loadu_ps(some, a + p * step + i);
            __m512 second = p + 1 < k ? _mm512_maskz_loadu_ps(some, a + (p + 1) * step + i) : vset(0.0f);
            __m512 words = pair_rows_bf16(first, second);
            _mm256_storeu_ps(low, _mm512_castps512_ps256(words));
            if (part > MR) _mm256_storeu_ps(high, _mm512_extractf32x8_ps(words, 1));
        }
    }
}

static const MatmulKernels matmul_bf16_table_bf16 = {
    MR, NV * LANES, LANES, 1, 2, pack_bf16, pack_rows_bf16, micro_kernel_bf16, NULL, NULL, epilogue_avx512};
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

/* Pack one sliver as floats, then round every float in place. */
static void FOR_ISA(pack_rounded)(const float *x, ptrdiff_t across, ptrdiff_t along, int n, ptrdiff_t k, int width,
                                  float *sliver) {
    FOR_ISA(pack)(x, across, along, n, k, width, sliver);
    for (ptrdiff_t p = 0; p < k; p++)
        for (int r = 0; r < n; r++) {
            uint32_t bits = bf16_bits(sliver[p * width + r]) << 16;
            memcpy(sliver + p * width + r, &bits, sizeof bits);
        }
}

static void FOR_ISA(pack_rows_rounded)(const float *a, ptrdiff_t step, int m, ptrdiff_t k, float *slivers) {
    for (int i = 0; i < m; i += MR)
        FOR_ISA(pack_rounded)(a + i, 1, step, m - i < MR ? m - i : MR, k, MR, slivers + i * k);
}

static const MatmulKernels FOR_ISA(matmul_bf16_table) = {
    MR, NV * LANES, LANES, 1, 1, FOR_ISA(pack_rounded), FOR_ISA(pack_rows_rounded), FOR_ISA(micro_kernel), NULL, NULL,
    FOR_ISA(epilogue)};
#endif
