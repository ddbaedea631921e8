/* Every word of the vocabulary (csrc/simd/vec_*.h) as a function on arrays, for vocabulary.c. */
#ifndef TINYGPT_VOCABULARY_KERNEL_H
#define TINYGPT_VOCABULARY_KERNEL_H
#include "scalar.h"

typedef void Word(const float *x, const float *y, const float *z, float *out); /* LANES floats each */

/* One function per word, for an instruction set. */
typedef struct {
    int lanes, registers;
    Word *set, *copy, *add, *sub, *mul, *div, *fma, *max, *min, *root, *round, *scale, *less, *exp, *sigmoid;
    Word *sum, *largest;   /* out[0] */
    Word *halves;          /* x y + z as doubles, on both halves of the lanes, rounded to floats */
    double (*dsum)(const float *x); /* over all lanes, each counted 3 times */
    void (*load_part)(const float *x, int n, float *out);  /* n floats to LANES */
    void (*store_part)(const float *x, int n, float *out); /* LANES floats to n */
    void (*transpose)(const float *x, float *out);
    void (*load_bf16)(const uint16_t *x, float *out);      /* LANES each */
    void (*load_int8)(const int8_t *x, float *out);
} Vocabulary;

#define SIMD_KERNEL "vocabulary_kernel.h"
#include "simd/foreach_isa.h"

/* The functions of an instruction set, or NULL if this build has none of that name. */
static const Vocabulary *vocabulary(const char *isa) { return TABLE_FOR(vocabulary_table, isa); }

#else
#include "simd/math.h"

/* A word of one to three vectors as a function. */
#define WORD(name, result)                                                                              \
    static void FOR_ISA(name)(const float *x, const float *y, const float *z, float *out) {             \
        const vec a = vload(x), b = vload(y), c = vload(z);                                             \
        (void)a, (void)b, (void)c;                                                                      \
        vstore(out, result);                                                                            \
    }
WORD(word_set, vset(x[0]))
WORD(word_copy, a)
WORD(word_add, vadd(a, b))
WORD(word_sub, vsub(a, b))
WORD(word_mul, vmul(a, b))
WORD(word_div, vdiv(a, b))
WORD(word_fma, vfma(a, b, c))
WORD(word_max, vmax(a, b))
WORD(word_min, vmin(a, b))
WORD(word_root, vsqrt(a))
WORD(word_round, vround(a))
WORD(word_scale, vscale(a, b))
WORD(word_less, vwhere_less(a, b, c, vset(-1.0f)))
WORD(word_exp, FOR_ISA(exp)(a))
WORD(word_sigmoid, FOR_ISA(sigmoid)(a))
#undef WORD

static void FOR_ISA(word_sum)(const float *x, const float *y, const float *z, float *out) {
    (void)y, (void)z;
    out[0] = vsum(vload(x));
}
static void FOR_ISA(word_largest)(const float *x, const float *y, const float *z, float *out) {
    (void)y, (void)z;
    out[0] = vlargest(vload(x));
}
static void FOR_ISA(word_halves)(const float *x, const float *y, const float *z, float *out) {
    const vec a = vload(x), b = vload(y), c = vload(z);
    double all[LANES];
    const dvec low = dfma(dlow(a), dlow(b), dlow(c)), high = dfma(dhigh(a), dhigh(b), dhigh(c));
    memcpy(all, &low, sizeof low);
    memcpy(all + LANES / 2, &high, sizeof high);
    for (int i = 0; i < LANES; i++) out[i] = (float)all[i];
}
static double FOR_ISA(word_dsum)(const float *x) {
    const vec a = vload(x);
    return dsum(dfma(dset(2.0), dadd(dlow(a), dhigh(a)), dadd(dlow(a), dhigh(a))));
}
static void FOR_ISA(word_load_part)(const float *x, int n, float *out) { vstore(out, vload_part(x, n)); }
static void FOR_ISA(word_store_part)(const float *x, int n, float *out) { vstore_part(out, vload(x), n); }
static void FOR_ISA(word_transpose)(const float *x, float *out) {
    vec a[LANES];
    for (int i = 0; i < LANES; i++) a[i] = vload(x + i * LANES);
    vtranspose(a);
    for (int i = 0; i < LANES; i++) vstore(out + i * LANES, a[i]);
}
static void FOR_ISA(word_load_bf16)(const uint16_t *x, float *out) { vstore(out, vload_bf16(x)); }
static void FOR_ISA(word_load_int8)(const int8_t *x, float *out) { vstore(out, vload_int8(x)); }

static const Vocabulary FOR_ISA(vocabulary_table) = {
    LANES, REGISTERS, FOR_ISA(word_set), FOR_ISA(word_copy), FOR_ISA(word_add), FOR_ISA(word_sub), FOR_ISA(word_mul),
    FOR_ISA(word_div), FOR_ISA(word_fma), FOR_ISA(word_max), FOR_ISA(word_min), FOR_ISA(word_root),
    FOR_ISA(word_round), FOR_ISA(word_scale), FOR_ISA(word_less), FOR_ISA(word_exp), FOR_ISA(word_sigmoid),
    FOR_ISA(word_sum), FOR_ISA(word_largest), FOR_ISA(word_halves), FOR_ISA(word_dsum), FOR_ISA(word_load_part),
    FOR_ISA(word_store_part), FOR_ISA(word_transpose), FOR_ISA(word_load_bf16), FOR_ISA(word_load_int8)};
#endif
