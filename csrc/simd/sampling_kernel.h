/* The inner loops of sampling over all tokens, written so that compilers vectorise them by themselves. For
   csrc/sampling.pyx.

   They use doubles and integers, for which the vocabulary has no words. Running values are kept in arrays whose size
   does not depend on the instruction set, and nothing is fused, so that all instruction sets give the same bits. */
#ifndef TINYGPT_SAMPLING_KERNEL_H
#define TINYGPT_SAMPLING_KERNEL_H
#include "simd/isa.h"

#define PARTS 8      /* partial sums, added in a fixed order at the end */
#define COLUMNS 1024 /* maxima per row: 4 KB, which stay in L1 */
#define BLOCK 16     /* floats that are tested together: one cache line */

#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42feep-1 /* ln 2 in two parts; n times the first, of 32 bits, is exact */
#define LN2_LOW 0x1.a39ef35793c76p-33
#define ROUND 0x1.8p52    /* x + ROUND holds the whole number nearest to x in its low bits */
#define SMALLEST (-708.0) /* exp(-708) is about the smallest normal double; below that, exp is taken as 0 */

typedef struct {
    void (*weights)(const float *x, double top, double temperature, double *restrict e, ptrdiff_t n);
    double (*sum)(const double *a, ptrdiff_t n);
    int (*column_maxima)(const float *x, ptrdiff_t n, float *restrict columns);
    float (*largest)(const float *x, ptrdiff_t n);
    ptrdiff_t (*at_least)(const float *x, ptrdiff_t n, float low, int *restrict ids);
} SamplingKernels;

/* Partition a[0:n] at a pivot: values above it move to the front of a, values below it to the front of `low`. */
static void partition(double *a, double *restrict low, ptrdiff_t n, double pivot, ptrdiff_t *above, ptrdiff_t *below) {
    ptrdiff_t up = 0, down = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const double v = a[i];
        a[up] = v; /* up <= i, so only values that were already read are overwritten */
        low[down] = v;
        up += v > pivot;
        down += v < pivot;
    }
    *above = up;
    *below = down;
}

#define SIMD_KERNEL "simd/sampling_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const SamplingKernels *sampling_kernels(const char *isa) { return TABLE_FOR(sampling_table, isa); }

#elif defined(ISA)

/* exp(x) for x <= 0, including -inf. x = n ln 2 + r with |r| <= ln(2) / 2, and exp(x) = 2^n exp(r). The Taylor series
   up to r^13 leaves an error of r^14 / 14! < 5e-18. Its terms are added in pairs, then pairs of pairs, which do not
   wait for each other. exp(0) is exactly 1. Rejected: exp of the C library, one call per token, whose last bit
   differs between libraries, so that a seed would not give the same text everywhere. */
TEMPLATE double FOR_ISA(exp_of_negative)(double x) {
    const double shifted = x * LOG2_E + ROUND, n = shifted - ROUND;
    const double r = (x - n * LN2_HIGH) - n * LN2_LOW, r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    const double low = (1 + r) + r2 * (1 / 2.0 + r * (1 / 6.0));
    const double middle = (1 / 24.0 + r * (1 / 120.0)) + r2 * (1 / 720.0 + r * (1 / 5040.0));
    const double high = (1 / 40320.0 + r * (1 / 362880.0)) + r2 * (1 / 3628800.0 + r * (1 / 39916800.0));
    const double last = 1 / 479001600.0 + r * (1 / 6227020800.0);
    const double room = x - SMALLEST;
    double p = low + r4 * middle + r8 * (high + r4 * last);
    uint64_t bits, power, sign;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&power, &shifted, sizeof power);
    memcpy(&sign, &room, sizeof sign);
    bits += power << 52;        /* adds n to the exponent */
    bits &= (sign >> 63) - 1;   /* 0 below SMALLEST; a branch would keep the loop from being vectorised */
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* e[i] = exp((x[i] - top) / temperature) with x[i] <= top. With a tiny temperature the quotient may be -inf. */
static void FOR_ISA(weights)(const float *x, double top, double temperature, double *restrict e, ptrdiff_t n) {
    if (temperature == 1) { /* skip the division, which costs as much as the rest of the line */
        for (ptrdiff_t i = 0; i < n; i++) e[i] = FOR_ISA(exp_of_negative)((double)x[i] - top);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) e[i] = FOR_ISA(exp_of_negative)(((double)x[i] - top) / temperature);
}

/* The sum of a[0:n], in which element i belongs to partial sum i % PARTS. */
static double FOR_ISA(sum_of)(const double *a, ptrdiff_t n) {
    double part[PARTS] = {0};
    ptrdiff_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (int l = 0; l < PARTS; l++) part[l] += a[i + l];
    for (int l = 0; i + l < n; l++) part[l] += a[i + l];
    return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

/* columns[j] = the largest of x[j], x[j + COLUMNS], ... Returns whether x has a NaN, which the maxima skip. */
static int FOR_ISA(column_maxima)(const float *x, ptrdiff_t n, float *restrict columns) {
    int nan = 0;
    for (ptrdiff_t j = 0; j < n && j < COLUMNS; j++) {
        columns[j] = x[j];
        nan |= x[j] != x[j];
    }
    for (ptrdiff_t start = COLUMNS; start < n; start += COLUMNS) {
        const float *row = x + start;
        const ptrdiff_t width = n - start < COLUMNS ? n - start : COLUMNS;
        for (ptrdiff_t j = 0; j < width; j++) {
            columns[j] = row[j] > columns[j] ? row[j] : columns[j];
            nan |= row[j] != row[j];
        }
    }
    return nan;
}

/* The largest of x[0:n], or -inf if n is 0. */
static float FOR_ISA(largest_of)(const float *x, ptrdiff_t n) {
    float part[BLOCK], most = -INFINITY;
    ptrdiff_t i = 0;
    for (int l = 0; l < BLOCK; l++) part[l] = -INFINITY;
    for (; i + BLOCK <= n; i += BLOCK)
        for (int l = 0; l < BLOCK; l++) part[l] = x[i + l] > part[l] ? x[i + l] : part[l];
    for (int l = 0; i + l < n; l++) part[l] = x[i + l] > part[l] ? x[i + l] : part[l];
    for (int l = 0; l < BLOCK; l++) most = part[l] > most ? part[l] : most;
    return most;
}

/* ids = the i in order with x[i] >= low; returns how many there are. Most blocks of a row have none. */
static ptrdiff_t FOR_ISA(at_least)(const float *x, ptrdiff_t n, float low, int *restrict ids) {
    ptrdiff_t found = 0, i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        int any = 0;
        for (int l = 0; l < BLOCK; l++) any |= x[i + l] >= low;
        for (int l = 0; any && l < BLOCK; l++) {
            ids[found] = (int)(i + l); /* always written, because a branch would be mispredicted too often */
            found += x[i + l] >= low;
        }
    }
    for (; i < n; i++) {
        ids[found] = (int)i;
        found += x[i] >= low;
    }
    return found;
}

static const SamplingKernels FOR_ISA(sampling_table) = {
    FOR_ISA(weights), FOR_ISA(sum_of), FOR_ISA(column_maxima), FOR_ISA(largest_of), FOR_ISA(at_least),
};
#endif
