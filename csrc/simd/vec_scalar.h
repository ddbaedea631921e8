/* The vocabulary of the vector kernels, and its portable form.

   Kernels use only these words; each vec_<isa>.h defines them for one instruction set. The portable form has 4 floats
   per register, in the vector types that gcc and clang offer on every machine. On x86-64 they compile to SSE2, which
   every such processor has.

   vec                           a register of LANES floats; the machine has REGISTERS of them
   vset(x)                       x in every lane
   vload(p), vstore(p, x)        LANES floats from or to any address
   vload_part(p, n)              lanes 0..n-1 from memory, zeros in the others; 0 <= n < LANES; nothing past p[n - 1]
                                 is touched
   vstore_part(p, x, n)          lanes 0..n-1 to memory; nothing past them is touched
   vload_bf16(p), vload_int8(p)  LANES numbers of 16 or 8 bits from any address, converted to floats: bfloat16 (the
   upper half of a float, in a uint16_t), int8_t
   vadd vsub vmul vdiv vsqrt     lane by lane
   vmax(x, y), vmin(x, y)        lane by lane; y where x or y is NaN (on NEON, the NaN)
   vfma(x, y, z)                 x y + z: rounded once where the machine has the instruction, twice in this file
   vround(x)                     the nearest whole number, ties to even, for |x| < 2^22
   vscale(x, n)                  x 2^n for whole numbers -252 <= n <= 254
   vwhere_less(x, y, yes, no)    x < y ? yes : no, lane by lane; NaN is not less
   vsum(x), vlargest(x)          over all lanes: halves are added first, then quarters, so the order is fixed
   vtranspose(x)                 transposes vec x[LANES], seen as a square, in place
   dvec                          a register of LANES / 2 doubles
   dset(x), dadd(x, y), dfma(x, y, z), dsum(x)
   dlow(x), dhigh(x)             the lower or upper half of the lanes of a vec, as doubles

   A vocabulary defines these words and nothing else; vec_end.h undefines them. */
#define ISA scalar
#define LANES 4
#define REGISTERS 16

#ifndef TINYGPT_VEC_SCALAR_H
#define TINYGPT_VEC_SCALAR_H
typedef float vec_scalar __attribute__((vector_size(16)));
typedef int32_t bits_scalar __attribute__((vector_size(16)));
typedef double dvec_scalar __attribute__((vector_size(16)));

TEMPLATE vec_scalar load_scalar(const float *p) {
    vec_scalar x;
    memcpy(&x, p, sizeof x);
    return x;
}
TEMPLATE void store_scalar(float *p, vec_scalar x) { memcpy(p, &x, sizeof x); }
TEMPLATE vec_scalar load_part_scalar(const float *p, int n) {
    vec_scalar x = {0, 0, 0, 0};
    for (int i = 0; i < n; i++) x[i] = p[i];
    return x;
}
TEMPLATE void store_part_scalar(float *p, vec_scalar x, int n) {
    for (int i = 0; i < n; i++) p[i] = x[i];
}
TEMPLATE vec_scalar load_bf16_scalar(const uint16_t *p) {
    bits_scalar x = {p[0], p[1], p[2], p[3]};
    return (vec_scalar)(x << 16);
}
TEMPLATE vec_scalar load_int8_scalar(const int8_t *p) {
    bits_scalar x = {p[0], p[1], p[2], p[3]};
    return __builtin_convertvector(x, vec_scalar);
}
TEMPLATE vec_scalar select_scalar(bits_scalar mask, vec_scalar yes, vec_scalar no) {
    return (vec_scalar)(((bits_scalar)yes & mask) | ((bits_scalar)no & ~mask));
}
TEMPLATE vec_scalar sqrt_scalar(vec_scalar x) {
    for (int i = 0; i < 4; i++) x[i] = sqrtf(x[i]);
    return x;
}
/* Adding 1.5 * 2^23 leaves no bits for a fraction, so the sum is rounded to a whole number; subtracting restores x. */
TEMPLATE vec_scalar round_scalar(vec_scalar x) {
    const vec_scalar big = {12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
    return (x + big) - big;
}
/* A float with exponent bits e (bits 23 to 30) is 2^(e - 127). Two factors, because 2^128 and 2^-127 have no such e. */
TEMPLATE vec_scalar scale_scalar(vec_scalar x, vec_scalar n) {
    bits_scalar e = __builtin_convertvector(n, bits_scalar), half = e >> 1;
    return x * (vec_scalar)((half + 127) << 23) * (vec_scalar)((e - half + 127) << 23);
}
TEMPLATE float sum_scalar(vec_scalar x) { return (x[0] + x[2]) + (x[1] + x[3]); }
TEMPLATE float largest_scalar(vec_scalar x) {
    float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
    return a > b ? a : b;
}
TEMPLATE double dsum_scalar(dvec_scalar x) { return x[0] + x[1]; }
TEMPLATE dvec_scalar dlow_scalar(vec_scalar x) { return (dvec_scalar){x[0], x[1]}; }
TEMPLATE dvec_scalar dhigh_scalar(vec_scalar x) { return (dvec_scalar){x[2], x[3]}; }
TEMPLATE void transpose_scalar(vec_scalar *x) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++) {
            float kept = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = kept;
        }
}
#endif

#define vec vec_scalar
#define vset(x) ((vec_scalar){0, 0, 0, 0} + (float)(x))
#define vload(p) load_scalar(p)
#define vstore(p, x) store_scalar(p, x)
#define vload_part(p, n) load_part_scalar(p, n)
#define vstore_part(p, x, n) store_part_scalar(p, x, n)
#define vload_bf16(p) load_bf16_scalar(p)
#define vload_int8(p) load_int8_scalar(p)
#define vadd(x, y) ((x) + (y))
#define vsub(x, y) ((x) - (y))
#define vmul(x, y) ((x) * (y))
#define vdiv(x, y) ((x) / (y))
#define vfma(x, y, z) ((x) * (y) + (z))
#define vmax(x, y) select_scalar((x) > (y), x, y)
#define vmin(x, y) select_scalar((x) < (y), x, y)
#define vsqrt(x) sqrt_scalar(x)
#define vround(x) round_scalar(x)
#define vscale(x, n) scale_scalar(x, n)
#define vwhere_less(x, y, yes, no) select_scalar((x) < (y), yes, no)
#define vsum(x) sum_scalar(x)
#define vlargest(x) largest_scalar(x)
#define vtranspose(x) transpose_scalar(x)
#define dvec dvec_scalar
#define dset(x) ((dvec_scalar){0, 0} + (double)(x))
#define dadd(x, y) ((x) + (y))
#define dfma(x, y, z) ((x) * (y) + (z))
#define dsum(x) dsum_scalar(x)
#define dlow(x) dlow_scalar(x)
#define dhigh(x) dhigh_scalar(x)
