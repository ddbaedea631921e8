/* The inner kernel of rotary positions: rotate all heads of one token. For csrc/rope.pyx. */
#ifndef TINYGPT_ROPE_KERNEL_H
#define TINYGPT_ROPE_KERNEL_H
#include "scalar.h"
#include "simd/isa.h"

typedef struct {
    void (*rotate)(const float *x, ptrdiff_t x_head, float *out, ptrdiff_t out_head, ptrdiff_t heads, const float *cos,
                   const float *sin, ptrdiff_t E, int inverse);
} RopeKernels;

#define SIMD_KERNEL "simd/rope_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const RopeKernels *rope_kernels(const char *isa) { return TABLE_FOR(rope_table, isa); }

#elif defined(ISA)
#include "simd/math.h"

/* Rotate the pairs (j, j + E) for n values of j. Both elements are read before either is written, so out may be x. */
TEMPLATE void FOR_ISA(rotate_step)(const float *x, float *out, const float *cos, const float *sin, ptrdiff_t E,
                                   int inverse, int n) {
    vec first = FOR_ISA(load_lanes)(x, n), second = FOR_ISA(load_lanes)(x + E, n);
    vec c = FOR_ISA(load_lanes)(cos, n), s = FOR_ISA(load_lanes)(sin, n), minus = vsub(vset(0.0f), s);
    FOR_ISA(store_lanes)(out, vfma(second, inverse ? s : minus, vmul(first, c)), n);
    FOR_ISA(store_lanes)(out + E, vfma(first, inverse ? minus : s, vmul(second, c)), n);
}

/* One head after the other, as they lie in memory. The cosines and sines of the token are in L1 after the first head.
   */
TEMPLATE void FOR_ISA(rotate_heads)(const float *x, ptrdiff_t x_head, float *out, ptrdiff_t out_head, ptrdiff_t heads,
                                    const float *cos, const float *sin, ptrdiff_t E, int inverse) {
    for (ptrdiff_t h = 0; h < heads; h++, x += x_head, out += out_head) {
        ptrdiff_t j = 0;
        for (; j + LANES <= E; j += LANES)
            FOR_ISA(rotate_step)(x + j, out + j, cos + j, sin + j, E, inverse, LANES);
        if (j < E) FOR_ISA(rotate_step)(x + j, out + j, cos + j, sin + j, E, inverse, (int)(E - j));
    }
}

/* inverse becomes a constant here, so that the inner loop has no branch. */
static void FOR_ISA(rotate)(const float *x, ptrdiff_t x_head, float *out, ptrdiff_t out_head, ptrdiff_t heads,
                            const float *cos, const float *sin, ptrdiff_t E, int inverse) {
    if (inverse) FOR_ISA(rotate_heads)(x, x_head, out, out_head, heads, cos, sin, E, 1);
    else FOR_ISA(rotate_heads)(x, x_head, out, out_head, heads, cos, sin, E, 0);
}

static const RopeKernels FOR_ISA(rope_table) = {FOR_ISA(rotate)};
#endif
