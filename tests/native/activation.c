/* Checks of csrc/simd/activation_kernel.h: the element-wise ops. */
#include "check.h"
#include "simd/activation_kernel.h"

static const int sizes[] = SIZES;

/* A sigmoid: its value, and its error bound in roundings of 1. */
typedef struct {
    double value, room;
} Rounded;

/* The sigmoid of z, if z itself may be off by `off` roundings. The error of exp(-z) enters with the weight 1 -
   sigmoid; the sum and the quotient are rounded once each. */
static Rounded sigmoid_of(double z, double off) {
    const double s = 1 / (1 + exp(-z));
    return (Rounded){s, s * ((1 - s) * (off * fabs(z) + EXP) + 2) + TINY / ROUNDING};
}

/* 2 sqrt(2/pi) (x + 0.044715 x^3): six products and sums of equal sign, so six roundings. */
static double gelu_argument(double x) { return 2 * GELU_SCALE * (x + GELU_CUBIC * x * x * x); }

/* Values and slopes for |x| up to 1, 4, 7 and 200, where the slope is 0 or 1. */
static void check_gelu(const char *isa) {
    begin(isa, "gelu, gelu_backward");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int k = 0; k < 4; k++) {
            const int n = sizes[t];
            const float far = k == 3 ? 200 : 3 * k + 1;
            float *x = uniform(n, -far, far), *dy = uniform(n, -1, 1), *out = blank(n), *dx = blank(n);
            activation_kernels(isa)->gelu(x, out, n);
            activation_kernels(isa)->gelu_backward(dy, x, dx, n);
            for (int i = 0; i < n; i++) {
                const double z = gelu_argument(x[i]);
                const Rounded s = sigmoid_of(z, 6);
                const double w = fabs(x[i]) < 100 ? 2 * GELU_SCALE * (1 + 3 * GELU_CUBIC * (double)x[i] * x[i]) : 0;
                const double slope = s.value + x[i] * s.value * (1 - s.value) * w;
                /* x s (1 - s) w has the error of s, the error of 1 - s, and five roundings. */
                const double loss = s.room + fabs(x[i]) * w * ((1 - s.value) * s.room + s.value * (s.room + 1) +
                                                             5 * s.value * (1 - s.value)) + 2 * fabs(slope);
                at("x = %.9g, n %d", x[i], n);
                expect(out[i], x[i] * s.value, ROUNDING * (fabs(x[i]) * s.room + fabs(x[i] * s.value)));
                expect(dx[i], dy[i] * slope, ROUNDING * fabs(dy[i]) * loss + TINY);
            }
            give_back();
        }
    finish();
}

/* out = g s h, and its gradients dg = dy h s (1 + g (1 - s)) and dh = dy g s: the error of s times its factor, and one
   rounding per product or sum. */
static void check_swiglu(const char *isa) {
    begin(isa, "swiglu, swiglu_backward");
    for (int t = 0; t < COUNT(sizes); t++) {
        const int F = sizes[t];
        float *x = uniform(2 * F, -6, 6), *dy = uniform(F, -1, 1), *out = blank(F), *dx = blank(2 * F);
        activation_kernels(isa)->swiglu(x, out, F);
        activation_kernels(isa)->swiglu_backward(dy, x, dx, F);
        for (int i = 0; i < F; i++) {
            const double g = x[i], h = x[F + i], d = dy[i];
            const Rounded s = sigmoid_of(g, 0);
            const double rest = 1 + g * (1 - s.value), slope = d * h * s.value * rest;
            at("gate %.9g, F %d", g, F);
            expect(out[i], g * s.value * h, ROUNDING * fabs(g * h) * (s.room + 2 * s.value));
            expect(dx[F + i], d * g * s.value, ROUNDING * fabs(d * g) * (s.room + 2 * s.value));
            expect(dx[i], slope,
                   ROUNDING * (fabs(d * h) * (s.room * fabs(rest) + s.value * (fabs(g) * (s.room + 2) + fabs(rest))) +
                               4 * fabs(slope)) + TINY);
        }
        give_back();
    }
    finish();
}

/* One addition per element, so the result must be exact. */
static void check_add(const char *isa) {
    begin(isa, "add");
    for (int t = 0; t < COUNT(sizes); t++) {
        const int n = sizes[t];
        float *a = uniform(n, -1, 1), *b = uniform(n, -1, 1), *out = blank(n);
        activation_kernels(isa)->add(a, b, out, n);
        at("n %d", n);
        for (int i = 0; i < n; i++) expect(out[i], a[i] + b[i], 0);
        give_back();
    }
    finish();
}

/* The upper half of number k of the stream that starts at row: SplitMix64 (Steele, Lea and Flood, 2014). */
static uint64_t number(uint64_t row, uint64_t k) {
    uint64_t z = row + (k + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (z ^ z >> 31) >> 32;
}

/* Rates of 0, 1/4, 3/4 and nearly 1, each with and without a residual. */
static void check_dropout(const char *isa) {
    const uint64_t limits[] = {0, (uint64_t)1 << 30, (uint64_t)3 << 30, ((uint64_t)1 << 32) - 1};
    begin(isa, "dropout");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int k = 0; k < 8; k++) {
            const int n = 2 * sizes[t];
            const uint64_t row = 0x0123456789ABCDEFu * (uint64_t)(7 * t + k), limit = limits[k / 2];
            float *x = uniform(n, -1, 1), *residual = k % 2 ? uniform(n, -1, 1) : NULL, *out = blank(n);
            x[0] = number(row, 0) < limit ? INFINITY : 1; /* a dropped element must not be multiplied by 0 */
            activation_kernels(isa)->dropout(x, residual, out, n, row, limit, 1.25f);
            for (int i = 0; i < n; i++) {
                const double value = number(row, (uint64_t)i) < limit ? 0 : 1.25 * x[i];
                const double wanted = value + (residual ? residual[i] : 0);
                at("column %d of %d, limit %d, residual %d", i, n, k / 2, k % 2);
                expect(out[i], wanted, ROUNDING * (fabs(value) + fabs(wanted)));
            }
            give_back();
        }
    finish();
}

void check_activation(const char *isa) {
    check_gelu(isa);
    check_swiglu(isa);
    check_add(isa);
    check_dropout(isa);
}
