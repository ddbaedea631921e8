/* The vocabulary for AVX-512 (F, BW, DQ, VL): 16 floats per register, 32 registers. vec_scalar.h explains the words. */
#define ISA avx512
#define LANES 16
#define REGISTERS 32

#ifndef TINYGPT_VEC_AVX512_H
#define TINYGPT_VEC_AVX512_H
TEMPLATE __mmask16 first_avx512(int n) { return (__mmask16)((1u << n) - 1); }

TEMPLATE __m512 load_bf16_avx512(const uint16_t *p) {
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
TEMPLATE __m512 load_int8_avx512(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
TEMPLATE float sum_avx512(__m512 x) {
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    __m128 eighth = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(eighth, _mm_shuffle_ps(eighth, eighth, 1)));
}
TEMPLATE float largest_avx512(__m512 x) {
    __m256 half = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    __m128 eighth = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(eighth, _mm_shuffle_ps(eighth, eighth, 1)));
}
TEMPLATE double dsum_avx512(__m512d x) {
    __m256d half = _mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
    __m128d quarter = _mm_add_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_add_sd(quarter, _mm_unpackhi_pd(quarter, quarter)));
}
/* Interleave pairs of rows to 2 x 2 blocks, and those to 4 x 4 blocks within each quarter of the registers. Two more
   steps exchange the quarters: they transpose the 4 x 4 matrix of blocks. */
TEMPLATE void transpose_avx512(__m512 *x) {
    __m512 t[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        x[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        x[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        x[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(x[i], x[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(x[i], x[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(x[i + 8], x[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(x[i + 8], x[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        x[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        x[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        x[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}
#endif

#define vec __m512
#define vset(x) _mm512_set1_ps(x)
#define vload(p) _mm512_loadu_ps(p)
#define vstore(p, x) _mm512_storeu_ps(p, x)
#define vload_part(p, n) _mm512_maskz_loadu_ps(first_avx512(n), p)
#define vstore_part(p, x, n) _mm512_mask_storeu_ps(p, first_avx512(n), x)
#define vload_bf16(p) load_bf16_avx512(p)
#define vload_int8(p) load_int8_avx512(p)
#define vadd(x, y) _mm512_add_ps(x, y)
#define vsub(x, y) _mm512_sub_ps(x, y)
#define vmul(x, y) _mm512_mul_ps(x, y)
#define vdiv(x, y) _mm512_div_ps(x, y)
#define vfma(x, y, z) _mm512_fmadd_ps(x, y, z)
#define vmax(x, y) _mm512_max_ps(x, y)
#define vmin(x, y) _mm512_min_ps(x, y)
#define vsqrt(x) _mm512_sqrt_ps(x)
#define vround(x) _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vscale(x, n) _mm512_scalef_ps(x, n)
#define vwhere_less(x, y, yes, no) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), no, yes)
#define vsum(x) sum_avx512(x)
#define vlargest(x) largest_avx512(x)
#define vtranspose(x) transpose_avx512(x)
#define dvec __m512d
#define dset(x) _mm512_set1_pd(x)
#define dadd(x, y) _mm512_add_pd(x, y)
#define dfma(x, y, z) _mm512_fmadd_pd(x, y, z)
#define dsum(x) dsum_avx512(x)
#define dlow(x) _mm512_cvtps_pd(_mm512_castps512_ps256(x))
#define dhigh(x) _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))
