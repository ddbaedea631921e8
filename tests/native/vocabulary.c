/* Checks of every word of the vocabulary (csrc/simd/vec_*.h) and of the functions in csrc/simd/math.h. */
#include "check.h"
#include "vocabulary_kernel.h"

#define CASES 40

/* The expected result of a word for one lane. */
typedef float Plain(float x, float y, float z);
static float plain_copy(float x, float y, float z) { (void)y, (void)z; return x; }
static float plain_add(float x, float y, float z) { (void)z; return x + y; }
static float plain_sub(float x, float y, float z) { (void)z; return x - y; }
static float plain_mul(float x, float y, float z) { (void)z; return x * y; }
static float plain_div(float x, float y, float z) { (void)z; return x / y; }
static float plain_fma(float x, float y, float z) { return fmaf(x, y, z); }
static float plain_two(float x, float y, float z) { return x * y + z; } /* -ffp-contract=off: two roundings */
static float plain_max(float x, float y, float z) { (void)z; return x > y ? x : y; }
static float plain_min(float x, float y, float z) { (void)z; return x < y ? x : y; }
static float plain_root(float x, float y, float z) { (void)y, (void)z; return sqrtf(fabsf(x)); }
static float plain_round(float x, float y, float z) { (void)y, (void)z; return rintf(x); }
static float plain_less(float x, float y, float z) { return x < y ? z : -1.0f; }

/* IEEE operations, which must give the same bits as plain C. */
static void check_exact(const char *isa, const char *name, int lanes, Word *word, Plain *plain, int positive) {
    begin(isa, name);
    for (int k = 0; k < CASES; k++) {
        const float far = k % 4 == 0 ? 1e18f : 4.0f;
        float *x = uniform(lanes, positive ? 0 : -far, far), *y = uniform(lanes, -far, far), *z = uniform(lanes, -1, 1);
        float *out = blank(lanes);
        if (k == 1) memcpy(y, x, lanes * sizeof(float)); /* equal operands */
        word(x, y, z, out);
        for (int i = 0; i < lanes; i++) {
            at("lane %d of %g, %g, %g", i, x[i], y[i], z[i]);
            expect(out[i], plain(x[i], y[i], z[i]), 0);
        }
        give_back();
    }
    finish();
}

/* The same value in every lane. */
static void check_set(const char *isa, const Vocabulary *v) {
    begin(isa, "vset");
    float *x = uniform(v->lanes, -1, 1), *out = blank(v->lanes);
    v->set(x, x, x, out);
    for (int i = 0; i < v->lanes; i++) expect(out[i], x[0], 0);
    finish();
}

/* Halves, ties and numbers up to 2^22, the limit of vround. */
static void check_round(const char *isa, const Vocabulary *v) {
    begin(isa, "vround");
    for (int k = -1000; k <= 1000; k++) {
        float *x = uniform(v->lanes, -4194303, 4194303), *out = blank(v->lanes);
        x[0] = k / 2.0f;
        x[1] = (float)(k * 4193) + 0.5f;
        x[2] = nextafterf(x[0], 1e9f);
        x[3] = nextafterf(x[0], -1e9f);
        v->round(x, x, x, out);
        for (int i = 0; i < v->lanes; i++) {
            at("lane %d of %.9g", i, x[i]);
            expect(out[i], plain_round(x[i], 0, 0), 0);
        }
        give_back();
    }
    finish();
}

/* All powers of two in range; a subnormal result may be rounded twice. */
static void check_scale(const char *isa, const Vocabulary *v) {
    begin(isa, "vscale");
    for (int n = -252; n <= 254; n++) {
        float *x = uniform(v->lanes, 0.5, 2), *y = uniform(v->lanes, 0, 0), *out = blank(v->lanes);
        for (int i = 0; i < v->lanes; i++) y[i] = (float)(n + i <= 254 ? n + i : n);
        v->scale(x, y, x, out);
        for (int i = 0; i < v->lanes; i++) {
            const float wanted = ldexpf(x[i], (int)y[i]);
            at("%.9g times 2^%g", x[i], y[i]);
            expect(out[i], wanted, wanted < TINY ? 0x1p-149 : 0);
        }
        give_back();
    }
    finish();
}

/* With a NaN, vmax and vmin return their second argument, or the NaN on NEON; vwhere_less takes NaN as not less. */
static void check_nan(const char *isa, const Vocabulary *v) {
    const int spreads = strcmp(isa, "neon") == 0;
    begin(isa, "vmax vmin vwhere_less of NaN");
    for (int lane = 0; lane < v->lanes; lane++) {
        float *x = uniform(v->lanes, -1, 1), *y = uniform(v->lanes, -1, 1), *z = uniform(v->lanes, 2, 3);
        float *one = blank(v->lanes), *two = blank(v->lanes);
        x[lane] = NAN;
        v->max(x, y, z, one);
        v->max(y, x, z, two);
        at("lane %d", lane);
        expect(one[lane], spreads ? NAN : y[lane], 0);
        expect(two[lane], NAN, 0);
        v->min(x, y, z, one);
        v->min(y, x, z, two);
        expect(one[lane], spreads ? NAN : y[lane], 0);
        expect(two[lane], NAN, 0);
        v->less(x, y, z, one);
        v->less(y, x, z, two);
        expect(one[lane], -1, 0);
        expect(two[lane], -1, 0);
        give_back();
    }
    finish();
}

/* Partial loads and stores: the memory of both arrays ends after n floats. */
static void check_part(const char *isa, const Vocabulary *v) {
    begin(isa, "vload_part vstore_part");
    for (int n = 0; n < v->lanes; n++) {
        float *x = uniform(n, -1, 1), *loaded = blank(v->lanes), *all = uniform(v->lanes, -1, 1), *stored = blank(n);
        at("%d of %d lanes", n, v->lanes);
        v->load_part(x, n, loaded);
        v->store_part(all, n, stored);
        for (int i = 0; i < v->lanes; i++) expect(loaded[i], i < n ? x[i] : 0, 0);
        for (int i = 0; i < n; i++) expect(stored[i], all[i], 0);
        give_back();
    }
    finish();
}

/* Every pattern of 16 and of 8 bits in every lane, including infinities and NaN of bfloat16. */
static void check_small(const char *isa, const Vocabulary *v) {
    const int n = v->lanes;
    begin(isa, "vload_bf16 vload_int8");
    for (int first = 0; first < 65536; first += n) {
        uint16_t *halves = halfwords(n);
        int8_t *bytes = octets(n);
        float *wide = blank(n), *narrow = blank(n);
        for (int i = 0; i < n; i++) halves[i] = (uint16_t)(first + i), bytes[i] = (int8_t)(first + i);
        v->load_bf16(halves, wide);
        v->load_int8(bytes, narrow);
        for (int i = 0; i < n; i++) {
            const uint32_t bits = (uint32_t)(first + i) << 16;
            float wanted;
            memcpy(&wanted, &bits, sizeof wanted);
            at("bits %04x, lane %d", first + i, i);
            expect(wide[i], wanted, 0);
            expect(narrow[i], bytes[i], 0);
        }
        give_back();
    }
    finish();
}

/* Words that combine lanes. The largest element moves through all lanes; dsum counts each lane three times. */
static void check_lanes(const char *isa, const Vocabulary *v) {
    const int n = v->lanes;
    for (int k = 0; k < 2; k++) {
        begin(isa, k ? "vsum dsum" : "vlargest vtranspose");
        for (int lane = 0; lane < n; lane++) {
            float *x = uniform(n, -1, 1), *y = uniform(n * n, -1, 1), *out = blank(n * n);
            double sum = 0, size = 0;
            if (k == 0) x[lane] = 2;
            for (int i = 0; i < n; i++) sum += x[i], size += fabs(x[i]);
            at("lane %d", lane);
            if (k == 0) {
                v->largest(x, x, x, out);
                expect(out[0], 2, 0);
                v->transpose(y, out);
                for (int i = 0; i < n * n; i++) expect(out[i], y[i % n * n + i / n], 0);
            } else {
                v->sum(x, x, x, out);
                expect(out[0], sum, sum_room(n, size));
                expect(v->dsum(x), 3 * sum, 0x1p-48 * size);
            }
            give_back();
        }
        finish();
    }
}

/* Both halves of a register as doubles: one rounding to float at the end. */
static void check_halves(const char *isa, const Vocabulary *v) {
    begin(isa, "dlow dhigh dfma");
    for (int k = 0; k < CASES; k++) {
        float *x = uniform(v->lanes, -1, 1), *y = uniform(v->lanes, -1, 1), *z = uniform(v->lanes, -1, 1);
        float *out = blank(v->lanes);
        v->halves(x, y, z, out);
        for (int i = 0; i < v->lanes; i++)
            expect(out[i], (double)x[i] * y[i] + z[i], ROUNDING * fabs((double)x[i] * y[i] + z[i]) + 0x1p-52);
        give_back();
    }
    finish();
}

/* From where exp is 0 to where it is infinite, in steps that are not a multiple of LANES. */
static void check_exp(const char *isa, const Vocabulary *v) {
    for (int k = 0; k < 2; k++) {
        begin(isa, k ? "sigmoid" : "exp");
        for (float start = -110; start < 110; start += 0.0371f * v->lanes) {
            float *x = uniform(v->lanes, start, start + 0.0371f * v->lanes), *out = blank(v->lanes);
            (k ? v->sigmoid : v->exp)(x, x, x, out);
            for (int i = 0; i < v->lanes; i++) {
                const double power = exp(k ? -(double)x[i] : x[i]), wanted = k ? 1 / (1 + power) : power;
                const double unit = ldexp(1, (int)floor(log2(wanted)) - 23);
                at("x = %.9g", x[i]);
                const double power_wanted = wanted < TINY ? 0 : (float)wanted == INFINITY ? INFINITY : wanted;
                if (k == 0) expect(out[i], power_wanted, 1.02 * unit);
                else expect(out[i], x[i] < -88.722f ? 0 : wanted, x[i] < -88.722f ? 0x1p-126 : 2.5 * unit);
            }
            give_back();
        }
        finish();
    }
}

/* All words of one instruction set. */
void check_vocabulary(const char *isa) {
    const Vocabulary *v = vocabulary(isa);
    const int n = v->lanes, once = strcmp(isa, "scalar") != 0; /* FMA rounds once where the machine has it */
    check_set(isa, v);
    check_exact(isa, "vload vstore", n, v->copy, plain_copy, 0);
    check_exact(isa, "vadd", n, v->add, plain_add, 0);
    check_exact(isa, "vsub", n, v->sub, plain_sub, 0);
    check_exact(isa, "vmul", n, v->mul, plain_mul, 0);
    check_exact(isa, "vdiv", n, v->div, plain_div, 0);
    check_exact(isa, "vfma", n, v->fma, once ? plain_fma : plain_two, 0);
    check_exact(isa, "vmax", n, v->max, plain_max, 0);
    check_exact(isa, "vmin", n, v->min, plain_min, 0);
    check_exact(isa, "vsqrt", n, v->root, plain_root, 1);
    check_exact(isa, "vwhere_less", n, v->less, plain_less, 0);
    check_round(isa, v);
    check_scale(isa, v);
    check_nan(isa, v);
    check_part(isa, v);
    check_small(isa, v);
    check_lanes(isa, v);
    check_halves(isa, v);
    check_exp(isa, v);
}
