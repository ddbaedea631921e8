/* The inner kernels of AdamW: one step, and a sum of squares, each on a chunk of an array. For csrc/adamw.pyx. */
#ifndef TINYGPT_ADAMW_KERNEL_H
#define TINYGPT_ADAMW_KERNEL_H
#include "scalar.h"
#include "simd/isa.h"

typedef struct {         /* constants of one step, shared by all elements */
    float beta1, rest1;  /* 1 - beta1 */
    float beta2, rest2;  /* 1 - beta2 */
    float rate;          /* lr / (1 - beta1^step) */
    float correction2;   /* 1 / (1 - beta2^step) */
    float eps;
    float decay;         /* lr weight_decay */
    float grad_scale;
} Scalars;

typedef struct {
    void (*update)(float *param, const float *grad, float *m, float *v, ptrdiff_t n, const Scalars *scalars);
    double (*sum_of_squares)(const float *x, ptrdiff_t n);
} AdamwKernels;

#define ROUND 4 /* vectors of x per step: 8 sums of doubles, enough that none waits for the 4 cycles of its own FMA */

#define SIMD_KERNEL "simd/adamw_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const AdamwKernels *adamw_kernels(const char *isa) { return TABLE_FOR(adamw_table, isa); }

#elif defined(ISA)
#include "simd/math.h"

/* One vector of each array: one square root, one quotient. Decay and step are subtracted from param together. */
TEMPLATE void FOR_ISA(update_step)(float *param, const float *grad, float *m, float *v, int n, Scalars s) {
    vec p = FOR_ISA(load_lanes)(param, n), g = vmul(vset(s.grad_scale), FOR_ISA(load_lanes)(grad, n));
    vec mean = vfma(vset(s.rest1), g, vmul(vset(s.beta1), FOR_ISA(load_lanes)(m, n)));
    vec square = vfma(vmul(vset(s.rest2), g), g, vmul(vset(s.beta2), FOR_ISA(load_lanes)(v, n)));
    vec root = vadd(vsqrt(vmul(square, vset(s.correction2))), vset(s.eps));
    vec step = vdiv(vmul(vset(s.rate), mean), root);
    FOR_ISA(store_lanes)(m, mean, n);
    FOR_ISA(store_lanes)(v, square, n);
    FOR_ISA(store_lanes)(param, vsub(p, vfma(vset(s.decay), p, step)), n);
}

/* A chunk of n elements. The remaining n % LANES use the same instructions under a mask. */
static void FOR_ISA(update)(float *param, const float *grad, float *m, float *v, ptrdiff_t n, const Scalars *scalars) {
    const Scalars s = *scalars; /* a copy, so that no store through a pointer can change it */
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) FOR_ISA(update_step)(param + i, grad + i, m + i, v + i, LANES, s);
    if (i < n) FOR_ISA(update_step)(param + i, grad + i, m + i, v + i, (int)(n - i), s);
}

/* sum_i x[i]^2 as doubles, where squares are exact. Only the place in the chunk decides which sum an element enters. */
static double FOR_ISA(sum_of_squares)(const float *x, ptrdiff_t n) {
    dvec low[ROUND], high[ROUND];
    ptrdiff_t i = 0;
    UNROLL for (int k = 0; k < ROUND; k++) low[k] = high[k] = dset(0.0);
    for (; i + ROUND * LANES <= n; i += ROUND * LANES) {
        UNROLL for (int k = 0; k < ROUND; k++) {
            vec y = vload(x + i + k * LANES);
            low[k] = dfma(dlow(y), dlow(y), low[k]);
            high[k] = dfma(dhigh(y), dhigh(y), high[k]);
        }
    }
    for (; i < n; i += LANES) {
        vec y = FOR_ISA(load_lanes)(x + i, n - i < LANES ? (int)(n - i) : LANES);
        low[0] = dfma(dlow(y), dlow(y), low[0]);
        high[0] = dfma(dhigh(y), dhigh(y), high[0]);
    }
    UNROLL for (int k = 1; k < ROUND; k++) {
        low[0] = dadd(low[0], low[k]);
        high[0] = dadd(high[0], high[k]);
    }
    return dsum(dadd(low[0], high[0]));
}

static const AdamwKernels FOR_ISA(adamw_table) = {FOR_ISA(update), FOR_ISA(sum_of_squares)};
#endif
