/* The inner kernels of softmax: rows of probabilities, and their gradient. For csrc/softmax.pyx.

   An addition waits for the result of the one before it, so every sum and maximum runs in four vectors. They are
   joined in a fixed order at the end of a block, and blocks are added as doubles. */
#ifndef TINYGPT_SOFTMAX_KERNEL_H
#define TINYGPT_SOFTMAX_KERNEL_H
#include <float.h>
#include "scalar.h"
#include "scratch.h"

#define SOFTMAX_BLOCK 1024 /* columns: 4 KB of x, 4 KB of out and the next 4 KB of x fit L1 */

/* The table of an instruction set. known (columns / SOFTMAX_BLOCK, rounded up) is scratch for the maxima of blocks. */
typedef struct {
    void (*rows)(ptrdiff_t rows, ptrdiff_t columns, const float *x, float *out, float *known);
    void (*gradient)(ptrdiff_t rows, ptrdiff_t columns, const float *dy, const float *y, float *dx);
} SoftmaxKernels;

#define SIMD_KERNEL "simd/softmax_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const SoftmaxKernels *softmax_kernels(const char *isa) { return TABLE_FOR(softmax_table, isa); }

#elif defined(ISA)
#include "simd/rows.h"

/* out = exp(x - top) for n columns; returns their sum. A padding lane contributes exp(-infinity) = 0. The exponentials
   leave the memory bus idle, so the next block of x is prefetched meanwhile. A prefetch past the end of x has no
   effect. */
TEMPLATE float FOR_ISA(exponentials)(const float *x, float *out, ptrdiff_t n, float top) {
    const vec off = vset(top), none = vset(-INFINITY);
    vec sum[4] = {vset(0.0f), vset(0.0f), vset(0.0f), vset(0.0f)};
    ptrdiff_t c = 0;
    for (; c + 4 * LANES <= n; c += 4 * LANES) {
        UNROLL for (int i = 0; i < 4 * LANES; i += 16) __builtin_prefetch(x + c + SOFTMAX_BLOCK + i);
        UNROLL for (int i = 0; i < 4; i++) {
            vec y = FOR_ISA(exp)(vsub(vload(x + c + i * LANES), off));
            vstore(out + c + i * LANES, y);
            sum[i] = vadd(sum[i], y);
        }
    }
    for (; c < n; c += LANES) {
        const int part = n - c < LANES ? (int)(n - c) : LANES;
        vec y = FOR_ISA(exp)(vsub(FOR_ISA(load_or)(x + c, part, none), off));
        FOR_ISA(store_lanes)(out + c, y, part);
        sum[0] = vadd(sum[0], y);
    }
    return FOR_ISA(join)(sum);
}

/* x *= factor for n columns. */
TEMPLATE void FOR_ISA(multiply)(float *x, ptrdiff_t n, float factor) {
    const vec by = vset(factor);
    ptrdiff_t c = 0;
    for (; c + LANES <= n; c += LANES) vstore(x + c, vmul(vload(x + c), by));
    if (c < n) vstore_part(x + c, vmul(vload_part(x + c, (int)(n - c)), by), (int)(n - c));
}

/* known[b] is the maximum under which the exponentials of block b were taken. As in the blocked rung, -FLT_MAX means
   "no maximum yet", and the last pass corrects each block by one factor. Where the maximum did not change, that
   factor is exp(0) = 1 and exp is not called. */
static void FOR_ISA(rows)(ptrdiff_t rows, ptrdiff_t columns, const float *x, float *out, float *known) {
    for (ptrdiff_t r = 0; r < rows; r++, x += columns, out += columns) {
        float top = -FLT_MAX;
        double total = 0;
        /* Each block is read from memory once: its maximum, then its exponentials while it is in L1. */
        for (ptrdiff_t c = 0, b = 0; c < columns; c += SOFTMAX_BLOCK, b++) {
            const ptrdiff_t n = columns - c < SOFTMAX_BLOCK ? columns - c : SOFTMAX_BLOCK;
            const float before = top;
            top = FOR_ISA(row_maximum)(x + c, n, top);
            if (total != 0 && top != before) total *= exp((double)before - top); /* rescale to the new maximum */
            total += FOR_ISA(exponentials)(x + c, out + c, n, top);
            known[b] = top;
        }
        /* One factor per block moves it to the final maximum and divides it by the sum. */
        for (ptrdiff_t c = 0, b = 0; c < columns; c += SOFTMAX_BLOCK, b++) {
            const ptrdiff_t n = columns - c < SOFTMAX_BLOCK ? columns - c : SOFTMAX_BLOCK;
            const double moved = known[b] == top ? 1 : exp((double)known[b] - top);
            FOR_ISA(multiply)(out + c, n, (float)(moved / total));
        }
    }
}

/* Returns sum y dy over n columns. */
TEMPLATE float FOR_ISA(dot)(const float *dy, const float *y, ptrdiff_t n) {
    vec sum[4] = {vset(0.0f), vset(0.0f), vset(0.0f), vset(0.0f)};
    ptrdiff_t c = 0;
    for (; c + 4 * LANES <= n; c += 4 * LANES) {
        UNROLL for (int i = 0; i < 4; i++) {
            sum[i] = vfma(vload(y + c + i * LANES), vload(dy + c + i * LANES), sum[i]);
        }
    }
    for (; c + LANES <= n; c += LANES) sum[0] = vfma(vload(y + c), vload(dy + c), sum[0]);
    if (c < n) sum[1] = vfma(vload_part(y + c, (int)(n - c)), vload_part(dy + c, (int)(n - c)), sum[1]);
    return FOR_ISA(join)(sum);
}

/* dx = y (dy - sum y dy) for every row. */
static void FOR_ISA(gradient)(ptrdiff_t rows, ptrdiff_t columns, const float *dy, const float *y, float *dx) {
    for (ptrdiff_t r = 0; r < rows; r++, dy += columns, y += columns, dx += columns) {
        double total = 0;
        for (ptrdiff_t c = 0; c < columns; c += SOFTMAX_BLOCK)
            total += FOR_ISA(dot)(dy + c, y + c, columns - c < SOFTMAX_BLOCK ? columns - c : SOFTMAX_BLOCK);
        const vec mean = vset((float)total); /* the mean of dy, weighted by the probabilities */
        ptrdiff_t c = 0;
        for (; c + LANES <= columns; c += LANES)
            vstore(dx + c, vmul(vload(y + c), vsub(vload(dy + c), mean)));
        if (c < columns) {
            const int n = (int)(columns - c);
            vstore_part(dx + c, vmul(vload_part(y + c, n), vsub(vload_part(dy + c, n), mean)), n);
        }
    }
}

static const SoftmaxKernels FOR_ISA(softmax_table) = {FOR_ISA(rows), FOR_ISA(gradient)};
#endif
