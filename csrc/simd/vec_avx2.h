/* The vocabulary for AVX2 with FMA: 8 floats per register, 16 registers. vec_scalar.h explains the words. */
#define ISA avx2
#define LANES 8
#define REGISTERS 16

#ifndef TINYGPT_VEC_AVX2_H
#define TINYGPT_VEC_AVX2_H
/* A mask of the first n of 8 lanes: the window into eight ones and eight zeros that starts n before the zeros. */
static const int32_t WINDOW_AVX2[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
TEMPLATE __m256i first_avx2(int n) { return _mm256_loadu_si256((const __m256i *)(WINDOW_AVX2 + 8 - n)); }

TEMPLATE __m256 load_bf16_avx2(const uint16_t *p) {
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
TEMPLATE __m256 load_int8_avx2(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
/* 2^n from its bits, and x 2^n in two factors, because 2^128 and 2^-127 are no normal floats. */
TEMPLATE __m256 power_avx2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
TEMPLATE __m256 scale_avx2(__m256 x, __m256 n) {
    __m256i all = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(all, 1);
    return _mm256_mul_ps(_mm256_mul_ps(x, power_avx2(half)), power_avx2(_mm256_sub_epi32(all, half)));
}
TEMPLATE float sum_avx2(__m256 x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
TEMPLATE float largest_avx2(__m256 x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
TEMPLATE double dsum_avx2(__m256d x) {
    __m128d half = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}
/* Interleave pairs of rows to 2 x 2 blocks, those to 4 x 4 blocks within each half, then exchange the halves. */
TEMPLATE void transpose_avx2(__m256 *x) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        x[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        x[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        x[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        __m256 low = x[i], high = x[i + 4];
        x[i] = _mm256_permute2f128_ps(low, high, 0x20);
        x[i + 4] = _mm256_permute2f128_ps(low, high, 0x31);
    }
}
#endif

#define vec __m256
#define vset(x) _mm256_set1_ps(x)
#define vload(p) _mm256_loadu_ps(p)
#define vstore(p, x) _mm256_storeu_ps(p, x)
#define vload_part(p, n) _mm256_maskload_ps(p, first_avx2(n))
#define vstore_part(p, x, n) _mm256_maskstore_ps(p, first_avx2(n), x)
#define vload_bf16(p) load_bf16_avx2(p)
#define vload_int8(p) load_int8_avx2(p)
#define vadd(x, y) _mm256_add_ps(x, y)
#define vsub(x, y) _mm256_sub_ps(x, y)
#define vmul(x, y) _mm256_mul_ps(x, y)
#define vdiv(x, y) _mm256_div_ps(x, y)
#define vfma(x, y, z) _mm256_fmadd_ps(x, y, z)
#define vmax(x, y) _mm256_max_ps(x, y)
#define vmin(x, y) _mm256_min_ps(x, y)
#define vsqrt(x) _mm256_sqrt_ps(x)
#define vround(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vscale(x, n) scale_avx2(x, n)
#define vwhere_less(x, y, yes, no) _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, y, _CMP_LT_OQ))
#define vsum(x) sum_avx2(x)
#define vlargest(x) largest_avx2(x)
#define vtranspose(x) transpose_avx2(x)
#define dvec __m256d
#define dset(x) _mm256_set1_pd(x)
#define dadd(x, y) _mm256_add_pd(x, y)
#define dfma(x, y, z) _mm256_fmadd_pd(x, y, z)
#define dsum(x) dsum_avx2(x)
#define dlow(x) _mm256_cvtps_pd(_mm256_castps256_ps128(x))
#define dhigh(x) _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))
