/* The inner kernels of the element-wise ops, on n contiguous elements: a whole array or one row. For
   csrc/activation.pyx.

   Each kernel is a step on one vector. It is taken for all whole vectors, and once more for the n % LANES elements that
   remain. These use the same instructions, so the result of an element does not depend on its place. */
#ifndef TINYGPT_ACTIVATION_KERNEL_H
#define TINYGPT_ACTIVATION_KERNEL_H
#include "scalar.h"
#include "simd/isa.h"

typedef unsigned long long Bits64; /* the type in which Cython passes a Python int */

/* The table of an instruction set: whole arrays of n elements, or one row of F gates and F values of up. */
typedef struct {
    void (*gelu)(const float *x, float *out, ptrdiff_t n);
    void (*gelu_backward)(const float *dy, const float *x, float *dx, ptrdiff_t n);
    void (*swiglu)(const float *x, float *out, ptrdiff_t F);
    void (*swiglu_backward)(const float *dy, const float *x, float *dx, ptrdiff_t F);
    void (*add)(const float *a, const float *b, float *out, ptrdiff_t n);
    void (*dropout)(const float *x, const float *residual, float *out, ptrdiff_t n, Bits64 row, Bits64 limit,
                    float scale);
} ActivationKernels;

/* The output function of SplitMix64: each bit of z affects all bits of the result, and it maps no two z to one
   result. */
TEMPLATE Bits64 mix(Bits64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

#define STREAM_STEP 0x9E3779B97F4A7C15ULL /* 2^64 divided by the golden ratio, made odd */

/* Number n of the stream that starts at seed. */
TEMPLATE Bits64 draw(Bits64 seed, Bits64 n) { return mix(seed + (n + 1) * STREAM_STEP); }

#define DRAWS 64 /* numbers drawn at a time: 4 vectors of 16 lanes, 256 bytes on the stack */

#define SIMD_KERNEL "simd/activation_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const ActivationKernels *activation_kernels(const char *isa) { return TABLE_FOR(activation_table, isa); }

#elif defined(ISA)
#include "simd/math.h"

/* One vector of out = gelu(x), or the first n lanes of it. */
TEMPLATE void FOR_ISA(gelu_step)(const float *x, float *out, int n) {
    FOR_ISA(store_lanes)(out, FOR_ISA(gelu)(FOR_ISA(load_lanes)(x, n)), n);
}

static void FOR_ISA(gelu_all)(const float *x, float *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) FOR_ISA(gelu_step)(x + i, out + i, LANES);
    if (i < n) FOR_ISA(gelu_step)(x + i, out + i, (int)(n - i));
}

/* One vector of dx = dy gelu'(x). */
TEMPLATE void FOR_ISA(gelu_backward_step)(const float *dy, const float *x, float *dx, int n) {
    FOR_ISA(store_lanes)(dx, vmul(FOR_ISA(load_lanes)(dy, n), FOR_ISA(gelu_slope)(FOR_ISA(load_lanes)(x, n))), n);
}

static void FOR_ISA(gelu_backward)(const float *dy, const float *x, float *dx, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) FOR_ISA(gelu_backward_step)(dy + i, x + i, dx + i, LANES);
    if (i < n) FOR_ISA(gelu_backward_step)(dy + i, x + i, dx + i, (int)(n - i));
}

/* Prefetch gate and up of the next row, 2F elements further on. Both are streams that break off after F elements, and
   the hardware prefetcher has to find each again. After the last row the prefetch has no effect. */
TEMPLATE void FOR_ISA(prefetch_next_row)(const float *x, ptrdiff_t F) {
    __builtin_prefetch(x + 2 * F);
    __builtin_prefetch(x + 3 * F);
}

/* One vector of out = g sigmoid(g) h. */
TEMPLATE void FOR_ISA(swiglu_step)(const float *x, float *out, ptrdiff_t F, int n) {
    vec g = FOR_ISA(load_lanes)(x, n), h = FOR_ISA(load_lanes)(x + F, n);
    FOR_ISA(prefetch_next_row)(x, F);
    FOR_ISA(store_lanes)(out, vmul(vmul(g, FOR_ISA(sigmoid)(g)), h), n);
}

/* One row: x holds F gates, then F values of up. */
static void FOR_ISA(swiglu)(const float *x, float *out, ptrdiff_t F) {
    ptrdiff_t f = 0;
    for (; f + LANES <= F; f += LANES) FOR_ISA(swiglu_step)(x + f, out + f, F, LANES);
    if (f < F) FOR_ISA(swiglu_step)(x + f, out + f, F, (int)(F - f));
}

/* One vector of dg = dy h s (1 + g (1 - s)) and dh = dy g s. */
TEMPLATE void FOR_ISA(swiglu_backward_step)(const float *dy, const float *x, float *dx, ptrdiff_t F, int n) {
    const vec one = vset(1.0f);
    vec d = FOR_ISA(load_lanes)(dy, n), g = FOR_ISA(load_lanes)(x, n), h = FOR_ISA(load_lanes)(x + F, n);
    vec s = FOR_ISA(sigmoid)(g);
    FOR_ISA(prefetch_next_row)(x, F);
    FOR_ISA(store_lanes)(dx, vmul(vmul(vmul(d, h), s), vfma(g, vsub(one, s), one)), n);
    FOR_ISA(store_lanes)(dx + F, vmul(vmul(d, g), s), n);
}

static void FOR_ISA(swiglu_backward)(const float *dy, const float *x, float *dx, ptrdiff_t F) {
    ptrdiff_t f = 0;
    for (; f + LANES <= F; f += LANES) FOR_ISA(swiglu_backward_step)(dy + f, x + f, dx + f, F, LANES);
    if (f < F) FOR_ISA(swiglu_backward_step)(dy + f, x + f, dx + f, F, (int)(F - f));
}

/* One vector of out = a + b. */
TEMPLATE void FOR_ISA(add_step)(const float *a, const float *b, float *out, int n) {
    FOR_ISA(store_lanes)(out, vadd(FOR_ISA(load_lanes)(a, n), FOR_ISA(load_lanes)(b, n)), n);
}

static void FOR_ISA(add)(const float *a, const float *b, float *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) FOR_ISA(add_step)(a + i, b + i, out + i, LANES);
    if (i < n) FOR_ISA(add_step)(a + i, b + i, out + i, (int)(n - i));
}

/* dropped[k] = 1 if number k after `state` is below the limit, else 0, for k < n. With integers only and no branch, the
   compiler can vectorise the loop. Both sides are below 2^33, so a negative difference shows in its highest bit. */
TEMPLATE void FOR_ISA(draws)(Bits64 state, Bits64 limit, float *dropped, int n) {
    for (int k = 0; k < n; k++) {
        state += STREAM_STEP;
        dropped[k] = (float)(int32_t)(((mix(state) >> 32) - limit) >> 63);
    }
}

/* A dropped element is 0 whatever x is, because it is selected and not multiplied by 0. */
TEMPLATE void FOR_ISA(dropout_step)(const float *x, const float *dropped, const float *residual, float *out, vec scale,
                                    int n) {
    vec value = vmul(FOR_ISA(load_lanes)(x, n), scale);
    value = vwhere_less(vset(0.5f), FOR_ISA(load_lanes)(dropped, n), vset(0.0f), value);
    FOR_ISA(store_lanes)(out, residual ? vadd(FOR_ISA(load_lanes)(residual, n), value) : value, n);
}

/* One row, with the stream of numbers that starts at `row`. residual may be NULL. */
static void FOR_ISA(dropout)(const float *x, const float *residual, float *out, ptrdiff_t n, Bits64 row, Bits64 limit,
                             float scale) {
    float dropped[DRAWS];
    const vec scales = vset(scale);
    for (; n > 0; n -= DRAWS, x += DRAWS, out += DRAWS, row += DRAWS * STREAM_STEP) {
        const int m = n < DRAWS ? (int)n : DRAWS;
        int j = 0;
        /* The whole block is a call of its own, because a constant number of draws can be unrolled. */
        if (m == DRAWS) FOR_ISA(draws)(row, limit, dropped, DRAWS);
        else FOR_ISA(draws)(row, limit, dropped, m);
        for (; j + LANES <= m; j += LANES)
            FOR_ISA(dropout_step)(x + j, dropped + j, residual ? residual + j : NULL, out + j, scales, LANES);
        if (j < m) FOR_ISA(dropout_step)(x + j, dropped + j, residual ? residual + j : NULL, out + j, scales, m - j);
        if (residual) residual += DRAWS;
    }
}

static const ActivationKernels FOR_ISA(activation_table) = {
    FOR_ISA(gelu_all), FOR_ISA(gelu_backward), FOR_ISA(swiglu), FOR_ISA(swiglu_backward), FOR_ISA(add),
    FOR_ISA(dropout)};
#endif
