/* The vocabulary for NEON on arm64: 4 floats per register, 32 registers. vec_scalar.h explains the words. */
#define ISA neon
#define LANES 4
#define REGISTERS 32

#ifndef TINYGPT_VEC_NEON_H
#define TINYGPT_VEC_NEON_H
TEMPLATE float32x4_t load_part_neon(const float *p, int n) {
    float x[4] = {0, 0, 0, 0};
    for (int i = 0; i < n; i++) x[i] = p[i];
    return vld1q_f32(x);
}
TEMPLATE void store_part_neon(float *p, float32x4_t lanes, int n) {
    float x[4];
    vst1q_f32(x, lanes);
    for (int i = 0; i < n; i++) p[i] = x[i];
}
TEMPLATE float32x4_t load_int8_neon(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}
/* 2^n from its bits, and x 2^n in two factors, because 2^128 and 2^-127 are no normal floats. */
TEMPLATE float32x4_t power_neon(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
TEMPLATE float32x4_t scale_neon(float32x4_t x, float32x4_t n) {
    int32x4_t all = vcvtq_s32_f32(n), half = vshrq_n_s32(all, 1);
    return vmulq_f32(vmulq_f32(x, power_neon(half)), power_neon(vsubq_s32(all, half)));
}
TEMPLATE float sum_neon(float32x4_t x) {
    float32x2_t half = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(half, 0) + vget_lane_f32(half, 1);
}
/* Interleave pairs of rows to 2 x 2 blocks, then exchange the halves. */
TEMPLATE void transpose_neon(float32x4_t *x) {
    float32x4x2_t a = vtrnq_f32(x[0], x[1]), b = vtrnq_f32(x[2], x[3]);
    x[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    x[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    x[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    x[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}
#endif

#define vec float32x4_t
#define vset(x) vdupq_n_f32(x)
#define vload(p) vld1q_f32(p)
#define vstore(p, x) vst1q_f32(p, x)
#define vload_part(p, n) load_part_neon(p, n)
#define vstore_part(p, x, n) store_part_neon(p, x, n)
#define vload_bf16(p) vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))
#define vload_int8(p) load_int8_neon(p)
#define vadd(x, y) vaddq_f32(x, y)
#define vsub(x, y) vsubq_f32(x, y)
#define vmul(x, y) vmulq_f32(x, y)
#define vdiv(x, y) vdivq_f32(x, y)
#define vfma(x, y, z) vfmaq_f32(z, x, y)
#define vmax(x, y) vmaxq_f32(x, y)
#define vmin(x, y) vminq_f32(x, y)
#define vsqrt(x) vsqrtq_f32(x)
#define vround(x) vrndnq_f32(x)
#define vscale(x, n) scale_neon(x, n)
#define vwhere_less(x, y, yes, no) vbslq_f32(vcltq_f32(x, y), yes, no)
#define vsum(x) sum_neon(x)
#define vlargest(x) vmaxvq_f32(x)
#define vtranspose(x) transpose_neon(x)
#define dvec float64x2_t
#define dset(x) vdupq_n_f64(x)
#define dadd(x, y) vaddq_f64(x, y)
#define dfma(x, y, z) vfmaq_f64(z, x, y)
#define dsum(x) vaddvq_f64(x)
#define dlow(x) vcvt_f64_f32(vget_low_f32(x))
#define dhigh(x) vcvt_high_f64_f32(x)
