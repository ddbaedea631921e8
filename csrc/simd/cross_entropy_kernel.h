/* The inner kernels of cross-entropy: the loss of rows of logits, and its gradient. For csrc/cross_entropy.pyx.

   An addition waits for the result of the one before it, so sums and maxima run in four vectors. They are joined in a
   fixed order at the end of a block, and blocks are added as doubles. */
#ifndef TINYGPT_CROSS_ENTROPY_KERNEL_H
#define TINYGPT_CROSS_ENTROPY_KERNEL_H
#include <float.h>
#include "scalar.h"

#define LOSS_BLOCK 1024 /* columns: 4 KB of logits and the next 4 KB fit L1 */

/* The table of an instruction set; rows of logits are contiguous. */
typedef struct {
    void (*loss)(ptrdiff_t rows, ptrdiff_t columns, const float *logits, const int *targets, float *losses, float *lse);
    void (*gradient)(ptrdiff_t rows, ptrdiff_t columns, const float *logits, const int *targets, const float *lse,
                     float *dlogits, float scale);
} CrossEntropyKernels;

#define SIMD_KERNEL "simd/cross_entropy_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const CrossEntropyKernels *cross_entropy_kernels(const char *isa) {
    return TABLE_FOR(cross_entropy_table, isa);
}

#elif defined(ISA)
#include "simd/rows.h"

/* The sum of exp(x - top) over n columns. A padding lane contributes exp(-infinity) = 0. The exponentials leave the
   memory bus idle, so the next block of x is prefetched meanwhile. A prefetch past the end of x has no effect. */
TEMPLATE float FOR_ISA(exponentials)(const float *x, ptrdiff_t n, float top) {
    const vec off = vset(top), none = vset(-INFINITY);
    vec sum[4] = {vset(0.0f), vset(0.0f), vset(0.0f), vset(0.0f)};
    ptrdiff_t c = 0;
    for (; c + 4 * LANES <= n; c += 4 * LANES) {
        UNROLL for (int i = 0; i < 4 * LANES; i += 16) __builtin_prefetch(x + c + LOSS_BLOCK + i);
        UNROLL for (int i = 0; i < 4; i++) {
            sum[i] = vadd(sum[i], FOR_ISA(exp)(vsub(vload(x + c + i * LANES), off)));
        }
    }
    for (; c < n; c += LANES)
        sum[0] = vadd(sum[0], FOR_ISA(exp)(vsub(FOR_ISA(load_or)(x + c, n - c, none), off)));
    return FOR_ISA(join)(sum);
}

/* Loss and lse of rows. A row is read from memory once: each block gives its maximum, then its exponentials while it
   is in L1. As in the blocked rung, -FLT_MAX means "no maximum yet". */
static void FOR_ISA(loss)(ptrdiff_t rows, ptrdiff_t columns, const float *logits, const int *targets, float *losses,
                          float *lse) {
    for (ptrdiff_t r = 0; r < rows; r++, logits += columns) {
        float top = -FLT_MAX;
        double total = 0;
        for (ptrdiff_t c = 0; c < columns; c += LOSS_BLOCK) {
            const ptrdiff_t n = columns - c < LOSS_BLOCK ? columns - c : LOSS_BLOCK;
            const float before = top;
            top = FOR_ISA(row_maximum)(logits + c, n, top);
            if (total != 0 && top != before) total *= exp((double)before - top); /* rescale to the new maximum */
            total += FOR_ISA(exponentials)(logits + c, n, top);
        }
        total = top + log(total); /* lse as a double; both results are rounded once */
        lse[r] = (float)total;
        losses[r] = targets[r] < 0 ? 0.0f : (float)(total - logits[targets[r]]);
    }
}

/* dlogits = exp(logits - lse) scale, then subtract scale at the target. A row without a target gets zeros. */
static void FOR_ISA(gradient)(ptrdiff_t rows, ptrdiff_t columns, const float *logits, const int *targets,
                              const float *lse, float *dlogits, float scale) {
    const vec by = vset(scale);
    for (ptrdiff_t r = 0; r < rows; r++, logits += columns, dlogits += columns) {
        const vec off = vset(lse[r]);
        ptrdiff_t c = 0;
        if (targets[r] < 0) {
            memset(dlogits, 0, columns * sizeof(float));
            continue;
        }
        for (; c + LANES <= columns; c += LANES)
            vstore(dlogits + c, vmul(FOR_ISA(exp)(vsub(vload(logits + c), off)), by));
        if (c < columns) {
            const int n = (int)(columns - c);
            vstore_part(dlogits + c, vmul(FOR_ISA(exp)(vsub(vload_part(logits + c, n), off)), by), n);
        }
        dlogits[targets[r]] -= scale; /* the only element that differs, so no lane has to test for it */
    }
}

static const CrossEntropyKernels FOR_ISA(cross_entropy_table) = {FOR_ISA(loss), FOR_ISA(gradient)};
#endif
