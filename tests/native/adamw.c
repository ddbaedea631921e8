/* Checks of csrc/simd/adamw_kernel.h: one step, and the sum of squares. */
#include "check.h"
#include "simd/adamw_kernel.h"

/* One step against the formulas of csrc/adamw.pyx, evaluated as doubles on the values before the step. */
static void check_update(const char *isa) {
    static const int sizes[] = SIZES;
    const Scalars s = {0.9f, 0.1f, 0.99f, 0.01f, 1e-2f, 1.5f, 1e-6f, 1e-3f, 0.5f};
    begin(isa, "adamw update");
    for (int t = 0; t < COUNT(sizes); t++) {
        const int n = sizes[t];
        float *p = uniform(n, -1, 1), *g = uniform(n, -1, 1), *m = uniform(n, -1, 1), *v = uniform(n, 0, 1);
        float *p0 = copy(p, n), *m0 = copy(m, n), *v0 = copy(v, n);
        adamw_kernels(isa)->update(p, g, m, v, n, &s);
        for (int i = 0; i < n; i++) {
            const double grad = (double)g[i] * s.grad_scale, mean = s.beta1 * (double)m0[i] + s.rest1 * grad;
            const double square = s.beta2 * (double)v0[i] + s.rest2 * grad * grad;
            const double root = sqrt(square * s.correction2) + s.eps, step = s.rate * mean / root;
            const double wanted = p0[i] - s.decay * (double)p0[i] - step;
            const double mean_room = 3 * ROUNDING * (fabs(s.beta1 * m0[i]) + fabs(s.rest1 * grad));
            at("element %d of %d", i, n);
            expect(m[i], mean, mean_room);
            expect(v[i], square, 5 * ROUNDING * square);
            /* The error of the mean, 2.5 + 2 roundings in the root, two in the quotient, one in each sum. */
            expect(p[i], wanted, s.rate / root * mean_room + ROUNDING * (8 * fabs(step) + fabs(wanted) + s.decay));
        }
        give_back();
    }
    finish();
}

/* Squares are exact as doubles, so only their sum is rounded, at 2^-53 per addition. */
static void check_squares(const char *isa) {
    begin(isa, "adamw sum_of_squares");
    for (int n = 0; n < 300; n += 1 + n / 20) {
        float *x = uniform(n, -1, 1);
        double wanted = 0;
        for (int i = 0; i < n; i++) wanted += (double)x[i] * x[i];
        at("n %d", n);
        expect(adamw_kernels(isa)->sum_of_squares(x, n), wanted, 2 * n * 0x1p-53 * wanted);
        give_back();
    }
    finish();
}

void check_adamw(const char *isa) {
    check_update(isa);
    check_squares(isa);
}
