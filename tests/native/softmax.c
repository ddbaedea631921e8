/* Checks of csrc/simd/softmax_kernel.h: rows and their gradient. */
#include "check.h"
#include "simd/softmax_kernel.h"

#define ROWS 3
static const int sizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 101, 1023, 1024, 1025, 2051};

/* The largest element of a row, its distance to the smallest finite one, and the sum of exp(x - largest). */
static void scan(const float *x, int n, double *top, double *range, double *total) {
    double low = INFINITY;
    *top = -INFINITY;
    *total = 0;
    for (int c = 0; c < n; c++) {
        if (x[c] > *top) *top = x[c];
        if (x[c] < low && x[c] > -INFINITY) low = x[c];
    }
    *range = *top - low;
    for (int c = 0; c < n; c++) *total += exp(x[c] - *top);
}

/* Case 0: x around 0. Case 1: around 100, where exp overflows without the maximum. Cases 2 and 3: see below. */
static void check_rows(const char *isa) {
    begin(isa, "softmax rows");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int k = 0; k < 4; k++) {
            const int n = sizes[t];
            float *x = uniform(ROWS * n, k == 1 ? 90 : -5, k == 1 ? 110 : 5), *out = blank(ROWS * n);
            float *known = blank(n / SOFTMAX_BLOCK + 1);
            x[n / 2] = k == 2 ? 60 : x[n / 2];                                      /* nearly all of row 0 */
            if (k == 3) for (int c = 0; c < n / 2; c++) x[n + c] = -INFINITY;      /* half of row 1 is masked */
            softmax_kernels(isa)->rows(ROWS, n, x, out, known);
            for (int r = 0; r < ROWS; r++) {
                double top, range, total;
                scan(x + r * n, n, &top, &range, &total);
                for (int c = 0; c < n; c++) {
                    const double wanted = exp(x[r * n + c] - top) / total;
                    at("row %d, column %d of %d, case %d", r, c, n, k);
                    /* The difference and exp are rounded twice: in this block and in the sum. */
                    expect(out[r * n + c], wanted, ROUNDING * wanted * (n + 2 * range + 2 * EXP + 3) + TINY);
                }
            }
            give_back();
        }
    finish();
}

/* The weighted mean of dy is a sum of n products; difference and product add a rounding each. */
static void check_gradient(const char *isa) {
    begin(isa, "softmax gradient");
    for (int t = 0; t < COUNT(sizes); t++) {
        const int n = sizes[t];
        float *dy = uniform(ROWS * n, -1, 1), *y = uniform(ROWS * n, 0, 1), *dx = blank(ROWS * n);
        softmax_kernels(isa)->gradient(ROWS, n, dy, y, dx);
        for (int r = 0; r < ROWS; r++) {
            double mean = 0, size = 0;
            for (int c = r * n; c < (r + 1) * n; c++) mean += (double)y[c] * dy[c], size += fabs((double)y[c] * dy[c]);
            for (int c = r * n; c < (r + 1) * n; c++) {
                const double wanted = y[c] * (dy[c] - mean);
                at("row %d, column %d of %d", r, c - r * n, n);
                expect(dx[c], wanted, y[c] * sum_room(n, size) + 2 * ROUNDING * fabs(wanted));
            }
        }
        give_back();
    }
    finish();
}

void check_softmax(const char *isa) {
    check_rows(isa);
    check_gradient(isa);
}
