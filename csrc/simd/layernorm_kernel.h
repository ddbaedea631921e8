/* The inner kernels of layer normalisation: rows, and their gradient. For csrc/layernorm.pyx.

   A pass over a row takes four vectors at a time. An addition waits for the result of the one before it, so every sum
   runs in four vectors, joined in a fixed order at the end. After the first pass the row is in L1. Rejected: four
   rows at once with one vector each. They share the loads of weight and bias, which helps in cache. From memory, as
   up to 16 streams at a time, they are slower. */
#ifndef TINYGPT_LAYERNORM_KERNEL_H
#define TINYGPT_LAYERNORM_KERNEL_H
#include "scalar.h"
#include "scratch.h"

#define LAYERNORM_TILE 64 /* columns per task of the sum over chunks: 4 cache lines */

typedef struct { /* arguments of the forward pass; NULL for an absent array */
    ptrdiff_t columns;
    const float *x, *residual, *weight, *bias;
    float *out, *total, *mean, *rstd;
    float eps;
} Layernorm;

typedef struct { /* arguments of the backward pass */
    ptrdiff_t columns;
    const float *dy, *x, *weight, *mean, *rstd, *dtotal;
    float *dx;
} LayernormGradient;

/* The table of an instruction set, for rows first to last - 1; part (2, columns) receives the sums of those rows. */
typedef struct {
    void (*rows)(const Layernorm *a, ptrdiff_t first, ptrdiff_t last);
    void (*gradient)(const LayernormGradient *a, ptrdiff_t first, ptrdiff_t last, float *part);
    void (*add_chunks)(const float *part, ptrdiff_t chunks, ptrdiff_t stride, float *out, int width, int accumulate);
} LayernormKernels;

#define SIMD_KERNEL "simd/layernorm_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const LayernormKernels *layernorm_kernels(const char *isa) { return TABLE_FOR(layernorm_table, isa); }

#elif defined(ISA)
#include "simd/rows.h"

/* First pass: total = x + residual, and its sum. Without a residual, x is the total. */
TEMPLATE void FOR_ISA(sum_total)(const int m, int n, const float *x, const float *residual, float *total, vec *sum) {
    UNROLL for (int i = 0; i < m; i++) {
        vec z = FOR_ISA(load_lanes)(x + i * LANES, n);
        if (residual) {
            z = vadd(z, FOR_ISA(load_lanes)(residual + i * LANES, n));
            FOR_ISA(store_lanes)(total + i * LANES, z, n);
        }
        sum[i] = vadd(sum[i], z);
    }
}

/* Second pass: deviations from a first mean. It adds them up, and their squares as doubles, which cannot overflow.
   Padding lanes have deviation 0. */
TEMPLATE void FOR_ISA(sum_deviations)(const int m, int n, const float *z, vec mean, vec *sum, dvec *squares) {
    UNROLL for (int i = 0; i < m; i++) {
        vec d = vsub(FOR_ISA(load_lanes)(z + i * LANES, n), mean);
        if (n < LANES) d = FOR_ISA(first_lanes)(d, n, vset(0.0f));
        sum[i] = vadd(sum[i], d);
        squares[i] = dfma(dlow(d), dlow(d), squares[i]);
        squares[i] = dfma(dhigh(d), dhigh(d), squares[i]);
    }
}

/* Third pass: out = (z - mean) rstd weight + bias. */
TEMPLATE void FOR_ISA(normalise)(const int m, int n, const float *z, vec mean, vec rstd, const float *weight,
                                 const float *bias, float *out) {
    UNROLL for (int i = 0; i < m; i++) {
        vec xhat = vmul(vsub(FOR_ISA(load_lanes)(z + i * LANES, n), mean), rstd);
        vec y = vmul(xhat, FOR_ISA(load_lanes)(weight + i * LANES, n));
        if (bias) y = vadd(y, FOR_ISA(load_lanes)(bias + i * LANES, n));
        FOR_ISA(store_lanes)(out + i * LANES, y, n);
    }
}

/* Rows first to last - 1. The first mean has the rounding error of a float sum of C terms. The deviations from it are
   small, so their own mean is nearly exact. It corrects the mean, and its square corrects the variance (Chan, Golub and
   LeVeque, 1983, eq. (1.7)). */
static void FOR_ISA(rows)(const Layernorm *a, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t C = a->columns;
    for (ptrdiff_t r = first; r < last; r++) {
        const float *x = a->x + r * C, *residual = a->residual ? a->residual + r * C : NULL, *z = x;
        float *total = a->residual ? a->total + r * C : NULL, *out = a->out + r * C;
        const vec zero = vset(0.0f);
        vec sum[4] = {zero, zero, zero, zero}, off[4] = {zero, zero, zero, zero};
        dvec squares[4] = {dset(0.0), dset(0.0), dset(0.0), dset(0.0)};
        /* First pass: the sum of the row. With a residual, total is written and read from then on. */
        if (residual) {
            SWEEP(FOR_ISA(sum_total)(m, n, x + c, residual + c, total + c, sum));
            z = total;
        } else SWEEP(FOR_ISA(sum_total)(m, n, x + c, NULL, NULL, sum));
        /* Second pass: `shift` is the mean of the deviations, by which the first mean was off. */
        const float mean = FOR_ISA(join)(sum) / (float)C;
        SWEEP(FOR_ISA(sum_deviations)(m, n, z + c, vset(mean), off, squares));
        const double shift = (double)FOR_ISA(join)(off) / (double)C;
        const double square = dsum(dadd(dadd(squares[0], squares[2]), dadd(squares[1], squares[3]))) / (double)C;
        /* Equal elements deviate only by rounding errors; in a very long row the difference may fall below zero. */
        const double variance = square < shift * shift ? 0 : square - shift * shift;
        a->mean[r] = (float)(mean + shift);
        a->rstd[r] = (float)(1 / sqrt(variance + a->eps));
        /* Third pass. A missing bias is a constant in each of the two loops, so neither tests for it. */
        const vec middle = vset(a->mean[r]), rstd = vset(a->rstd[r]);
        const float *weight = a->weight, *bias = a->bias;
        if (bias) SWEEP(FOR_ISA(normalise)(m, n, z + c, middle, rstd, weight + c, bias + c, out + c));
        else SWEEP(FOR_ISA(normalise)(m, n, z + c, middle, rstd, weight + c, NULL, out + c));
    }
}

/* First pass of backward: the sums of g = dy weight and of g xhat. In padding lanes dy and therefore g are 0. */
TEMPLATE void FOR_ISA(sum_gradient)(const int m, int n, const float *dy, const float *x, const float *weight, vec mean,
                                    vec rstd, vec *sum_g, vec *sum_g_xhat) {
    UNROLL for (int i = 0; i < m; i++) {
        vec g = vmul(FOR_ISA(load_lanes)(dy + i * LANES, n), FOR_ISA(load_lanes)(weight + i * LANES, n));
        vec xhat = vmul(vsub(FOR_ISA(load_lanes)(x + i * LANES, n), mean), rstd);
        sum_g[i] = vadd(sum_g[i], g);
        sum_g_xhat[i] = vfma(g, xhat, sum_g_xhat[i]);
    }
}

typedef struct { /* constants of a row, the same in every lane */
    vec mean, rstd, mean_g, mean_g_xhat;
} FOR_ISA(Row);

/* Second pass of backward: dx, and what the row adds to dweight (scaled) and dbias (shifted). */
TEMPLATE void FOR_ISA(write_gradient)(const int m, int n, const float *dy, const float *x, const float *weight,
                                      const float *dtotal, const FOR_ISA(Row) * row, float *dx, float *scaled,
                                      float *shifted) {
    UNROLL for (int i = 0; i < m; i++) {
        vec d = FOR_ISA(load_lanes)(dy + i * LANES, n), g = vmul(d, FOR_ISA(load_lanes)(weight + i * LANES, n));
        vec xhat = vmul(vsub(FOR_ISA(load_lanes)(x + i * LANES, n), row->mean), row->rstd);
        vec left = vsub(vsub(g, row->mean_g), vmul(xhat, row->mean_g_xhat));
        vec result = vmul(row->rstd, left);
        if (dtotal) result = vadd(result, FOR_ISA(load_lanes)(dtotal + i * LANES, n));
        FOR_ISA(store_lanes)(dx + i * LANES, result, n);
        FOR_ISA(store_lanes)(scaled + i * LANES, vfma(d, xhat, FOR_ISA(load_lanes)(scaled + i * LANES, n)), n);
        FOR_ISA(store_lanes)(shifted + i * LANES, vadd(d, FOR_ISA(load_lanes)(shifted + i * LANES, n)), n);
    }
}

/* Rows first to last - 1: dx, and in part (2, C) what they add to dweight and dbias, row after row. */
static void FOR_ISA(gradient)(const LayernormGradient *a, ptrdiff_t first, ptrdiff_t last, float *part) {
    const ptrdiff_t C = a->columns;
    const float *weight = a->weight;
    memset(part, 0, 2 * C * sizeof(float));
    for (ptrdiff_t r = first; r < last; r++) {
        const float *dy = a->dy + r * C, *x = a->x + r * C, *dtotal = a->dtotal ? a->dtotal + r * C : NULL;
        float *dx = a->dx + r * C;
        const vec zero = vset(0.0f), mean = vset(a->mean[r]), rstd = vset(a->rstd[r]);
        vec g[4] = {zero, zero, zero, zero}, g_xhat[4] = {zero, zero, zero, zero};
        /* First pass: two sums over the row. Second pass: everything that needs them, with dy and x in L1. */
        SWEEP(FOR_ISA(sum_gradient)(m, n, dy + c, x + c, weight + c, mean, rstd, g, g_xhat));
        const float mean_g = FOR_ISA(join)(g) / (float)C, mean_g_xhat = FOR_ISA(join)(g_xhat) / (float)C;
        const FOR_ISA(Row) row = {mean, rstd, vset(mean_g), vset(mean_g_xhat)};
        if (dtotal)
            SWEEP(FOR_ISA(write_gradient)(m, n, dy + c, x + c, weight + c, dtotal + c, &row, dx + c, part + c,
                                                    part + C + c));
        else
            SWEEP(FOR_ISA(write_gradient)(m, n, dy + c, x + c, weight + c, NULL, &row, dx + c, part + c,
                                                    part + C + c));
    }
}

static const LayernormKernels FOR_ISA(layernorm_table) = {FOR_ISA(rows), FOR_ISA(gradient), FOR_ISA(add_chunks)};
#endif
