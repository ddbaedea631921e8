/* Helpers of the row-wise kernels: sweeps over a row, sums and maxima, sums over chunks of rows.

   An addition or maximum waits for the result of the one before it, so all of them run in four vectors, joined in a
   fixed order. Included by softmax, cross-entropy and the norms, after their include guard. */
#include "simd/math.h"

#ifndef TINYGPT_ROWS_H
#define TINYGPT_ROWS_H
static const float LANE_NUMBERS[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Run `step` for all columns c of a row of C: on m = 4 vectors at a time, then on single ones, then on the last n <
   LANES columns. m and n are constants in all but the last. */
#define SWEEP(step)                                     \
    do {                                                \
        ptrdiff_t c = 0;                                \
        for (; c + 4 * LANES <= C; c += 4 * LANES) {    \
            const int m = 4, n = LANES;                 \
            step;                                       \
        }                                               \
        for (; c + LANES <= C; c += LANES) {            \
            const int m = 1, n = LANES;                 \
            step;                                       \
        }                                               \
        if (c < C) {                                    \
            const int m = 1, n = (int)(C - c);          \
            step;                                       \
        }                                               \
    } while (0)
#endif

/* The sum of all lanes of four vectors, in a fixed order. */
TEMPLATE float FOR_ISA(join)(const vec *sum) { return vsum(vadd(vadd(sum[0], sum[2]), vadd(sum[1], sum[3]))); }

/* x in lanes 0 to n - 1, and `fill` in the padding lanes. */
TEMPLATE vec FOR_ISA(first_lanes)(vec x, int n, vec fill) {
    return vwhere_less(vload(LANE_NUMBERS), vset((float)n), x, fill);
}

/* The first n >= 1 of LANES floats at p, and `fill` in the padding lanes. */
TEMPLATE vec FOR_ISA(load_or)(const float *p, ptrdiff_t n, vec fill) {
    if (n >= LANES) return vload(p);
    return FOR_ISA(first_lanes)(vload_part(p, (int)n), (int)n, fill);
}

/* The largest of n columns and `top`. NaN is skipped here; it reappears as its own exponential. */
TEMPLATE float FOR_ISA(row_maximum)(const float *x, ptrdiff_t n, float top) {
    const vec known = vset(top);
    vec most[4] = {known, known, known, known};
    ptrdiff_t c = 0;
    for (; c + 4 * LANES <= n; c += 4 * LANES) {
        UNROLL for (int i = 0; i < 4; i++) most[i] = vmax(vload(x + c + i * LANES), most[i]);
    }
    for (; c < n; c += LANES) most[0] = vmax(FOR_ISA(load_or)(x + c, n - c, known), most[0]);
    return vlargest(vmax(vmax(most[0], most[2]), vmax(most[1], most[3])));
}

/* out[:width] = sum over the chunks k, in order, of part[k * stride:][:width], as doubles. */
static inline void FOR_ISA(add_chunks)(const float *part, ptrdiff_t chunks, ptrdiff_t stride, float *out, int width,
                                       int accumulate) {
    for (int c = 0; c < width; c += LANES) {
        const int n = width - c < LANES ? width - c : LANES;
        dvec low = dset(0.0), high = dset(0.0);
        double total[LANES];
        for (ptrdiff_t k = 0; k < chunks; k++) {
            vec x = FOR_ISA(load_lanes)(part + k * stride + c, n);
            low = dadd(low, dlow(x));
            high = dadd(high, dhigh(x));
        }
        memcpy(total, &low, sizeof low);
        memcpy(total + LANES / 2, &high, sizeof high);
        for (int i = 0; i < n; i++) out[c + i] = (float)(accumulate ? out[c + i] + total[i] : total[i]);
    }
}
