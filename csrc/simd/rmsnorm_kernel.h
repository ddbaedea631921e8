/* The inner kernels of RMS normalisation: rows, and their gradient. For csrc/rmsnorm.pyx.

   A pass over a row takes four vectors at a time. An addition waits for the result of the one before it, so every sum
   runs in four vectors, joined in a fixed order at the end. After the first pass the row is in L1. */
#ifndef TINYGPT_RMSNORM_KERNEL_H
#define TINYGPT_RMSNORM_KERNEL_H
#include "scalar.h"
#include "scratch.h"

#define RMSNORM_TILE 64 /* columns per task of the sum over chunks: 4 cache lines */

typedef struct { /* arguments of the forward pass; NULL for an absent array */
    ptrdiff_t columns;
    const float *x, *residual, *weight;
    float *out, *total, *rstd;
    float eps;
} Rmsnorm;

typedef struct { /* arguments of the backward pass */
    ptrdiff_t columns;
    const float *dy, *x, *weight, *rstd, *dtotal;
    float *dx;
} RmsnormGradient;

/* The table of an instruction set, for rows first to last - 1; part (columns,) receives the sums of a chunk of rows. */
typedef struct {
    void (*rows)(const Rmsnorm *a, ptrdiff_t first, ptrdiff_t last);
    void (*gradient)(const RmsnormGradient *a, ptrdiff_t first, ptrdiff_t last, float *part);
    void (*add_chunks)(const float *part, ptrdiff_t chunks, ptrdiff_t stride, float *out, int width, int accumulate);
} RmsnormKernels;

#define SIMD_KERNEL "simd/rmsnorm_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const RmsnormKernels *rmsnorm_kernels(const char *isa) { return TABLE_FOR(rmsnorm_table, isa); }

#elif defined(ISA)
#include "simd/rows.h"

/* First pass: total = x + residual, and the sum of its squares as doubles, which cannot overflow. Without a residual, x
   is the total. */
TEMPLATE void FOR_ISA(sum_squares)(const int m, int n, const float *x, const float *residual, float *total,
                                   dvec *squares) {
    UNROLL for (int i = 0; i < m; i++) {
        vec z = FOR_ISA(load_lanes)(x + i * LANES, n);
        if (residual) {
            z = vadd(z, FOR_ISA(load_lanes)(residual + i * LANES, n));
            FOR_ISA(store_lanes)(total + i * LANES, z, n);
        }
        squares[i] = dfma(dlow(z), dlow(z), squares[i]);
        squares[i] = dfma(dhigh(z), dhigh(z), squares[i]);
    }
}

/* Second pass: out = z rstd weight. */
TEMPLATE void FOR_ISA(normalise)(const int m, int n, const float *z, vec rstd, const float *weight, float *out) {
    UNROLL for (int i = 0; i < m; i++) {
        vec xhat = vmul(FOR_ISA(load_lanes)(z + i * LANES, n), rstd);
        FOR_ISA(store_lanes)(out + i * LANES, vmul(xhat, FOR_ISA(load_lanes)(weight + i * LANES, n)), n);
    }
}

/* Rows first to last - 1. */
static void FOR_ISA(rows)(const Rmsnorm *a, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t C = a->columns;
    for (ptrdiff_t r = first; r < last; r++) {
        const float *x = a->x + r * C, *residual = a->residual ? a->residual + r * C : NULL, *z = x;
        float *total = a->residual ? a->total + r * C : NULL, *out = a->out + r * C;
        dvec squares[4] = {dset(0.0), dset(0.0), dset(0.0), dset(0.0)};
        /* First pass: the sum of squares. With a residual, total is written and read from then on. */
        if (residual) {
            SWEEP(FOR_ISA(sum_squares)(m, n, x + c, residual + c, total + c, squares));
            z = total;
        } else SWEEP(FOR_ISA(sum_squares)(m, n, x + c, NULL, NULL, squares));
        const double square = dsum(dadd(dadd(squares[0], squares[2]), dadd(squares[1], squares[3]))) / (double)C;
        a->rstd[r] = (float)(1 / sqrt(square + a->eps));
        SWEEP(FOR_ISA(normalise)(m, n, z + c, vset(a->rstd[r]), a->weight + c, out + c));
    }
}

/* First pass of backward: the sum of g xhat with g = dy weight. In padding lanes dy and therefore g are 0. */
TEMPLATE void FOR_ISA(sum_gradient)(const int m, int n, const float *dy, const float *x, const float *weight, vec rstd,
                                    vec *sum) {
    UNROLL for (int i = 0; i < m; i++) {
        vec g = vmul(FOR_ISA(load_lanes)(dy + i * LANES, n), FOR_ISA(load_lanes)(weight + i * LANES, n));
        sum[i] = vfma(g, vmul(FOR_ISA(load_lanes)(x + i * LANES, n), rstd), sum[i]);
    }
}

/* Second pass of backward: dx, and what the row adds to dweight. mean is the mean of g xhat. */
TEMPLATE void FOR_ISA(write_gradient)(const int m, int n, const float *dy, const float *x, const float *weight,
                                      const float *dtotal, vec rstd, vec mean, float *dx, float *dweight) {
    UNROLL for (int i = 0; i < m; i++) {
        vec d = FOR_ISA(load_lanes)(dy + i * LANES, n), g = vmul(d, FOR_ISA(load_lanes)(weight + i * LANES, n));
        vec xhat = vmul(FOR_ISA(load_lanes)(x + i * LANES, n), rstd);
        vec result = vmul(rstd, vsub(g, vmul(xhat, mean)));
        if (dtotal) result = vadd(result, FOR_ISA(load_lanes)(dtotal + i * LANES, n));
        FOR_ISA(store_lanes)(dx + i * LANES, result, n);
        FOR_ISA(store_lanes)(dweight + i * LANES, vfma(d, xhat, FOR_ISA(load_lanes)(dweight + i * LANES, n)), n);
    }
}

/* Rows first to last - 1: dx, and in part (C,) what they add to dweight, row after row. */
static void FOR_ISA(gradient)(const RmsnormGradient *a, ptrdiff_t first, ptrdiff_t last, float *part) {
    const ptrdiff_t C = a->columns;
    const float *weight = a->weight;
    memset(part, 0, C * sizeof(float));
    for (ptrdiff_t r = first; r < last; r++) {
        const float *dy = a->dy + r * C, *x = a->x + r * C, *dtotal = a->dtotal ? a->dtotal + r * C : NULL;
        float *dx = a->dx + r * C;
        const vec zero = vset(0.0f), rstd = vset(a->rstd[r]);
        vec sum[4] = {zero, zero, zero, zero};
        /* First pass: one sum over the row. Second pass: everything that needs it, with dy and x in L1. */
        SWEEP(FOR_ISA(sum_gradient)(m, n, dy + c, x + c, weight + c, rstd, sum));
        const vec mean = vset(FOR_ISA(join)(sum) / (float)C);
        if (dtotal)
            SWEEP(FOR_ISA(write_gradient)(m, n, dy + c, x + c, weight + c, dtotal + c, rstd, mean, dx + c,
                                                  part + c));
        else
            SWEEP(FOR_ISA(write_gradient)(m, n, dy + c, x + c, weight + c, NULL, rstd, mean, dx + c, part + c));
    }
}

static const RmsnormKernels FOR_ISA(rmsnorm_table) = {FOR_ISA(rows), FOR_ISA(gradient), FOR_ISA(add_chunks)};
#endif
