/* Checks of csrc/simd/cross_entropy_kernel.h: the loss and its gradient, also in place. */
#include "check.h"
#include "simd/cross_entropy_kernel.h"

#define ROWS 3
static const int sizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 101, 1023, 1024, 1025, 2051};

/* Case 0: logits around 0. Case 1: around 100, where exp overflows without the maximum. Case 2: one logit of 60 above
   all others. Row 1 has no target and must give loss 0. */
static void check_loss(const char *isa) {
    begin(isa, "cross_entropy loss");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int k = 0; k < 3; k++) {
            const int n = sizes[t];
            float *x = uniform(ROWS * n, k == 1 ? 90 : -5, k == 1 ? 110 : 5), *losses = blank(ROWS), *lse = blank(ROWS);
            int *targets = whole(ROWS, 0, n);
            targets[1] = -1;
            x[n - 1] = k == 2 ? 60 : x[n - 1];
            cross_entropy_kernels(isa)->loss(ROWS, n, x, targets, losses, lse);
            for (int r = 0; r < ROWS; r++) {
                double total = 0, range = 0;
                for (int c = 0; c < n; c++) {
                    total += exp(x[r * n + c]);
                    range = fmax(range, fabs((double)x[r * n + c] - x[r * n]));
                }
                const double wanted = log(total), loss = targets[r] < 0 ? 0 : wanted - x[r * n + targets[r]];
                /* The relative error of the sum is the absolute error of its logarithm. */
                const double room = ROUNDING * (n + 2 * range + EXP + 2);
                at("row %d of %d columns, case %d", r, n, k);
                expect(lse[r], wanted, room + ROUNDING * fabs(wanted));
                expect(losses[r], loss, targets[r] < 0 ? 0 : room + ROUNDING * fabs(loss));
            }
            give_back();
        }
    finish();
}

/* dlogits in an array of its own and over the logits. The difference is rounded once, exp and the factor once each. */
static void check_gradient(const char *isa) {
    begin(isa, "cross_entropy gradient");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int in_place = 0; in_place < 2; in_place++) {
            const int n = sizes[t];
            const float scale = 0.125f;
            float *x = uniform(ROWS * n, -20, 0), *before = copy(x, ROWS * n), *lse = uniform(ROWS, 0, 3);
            float *dx = in_place ? x : blank(ROWS * n);
            int *targets = whole(ROWS, 0, n);
            targets[1] = -1;
            cross_entropy_kernels(isa)->gradient(ROWS, n, x, targets, lse, dx, scale);
            for (int i = 0; i < ROWS * n; i++) {
                const int r = i / n, hit = targets[r] == i % n;
                const double less = (double)before[i] - lse[r], power = exp(less) * scale;
                at("row %d, column %d of %d, in place %d", r, i % n, n, in_place);
                if (r == 1) expect(dx[i], 0, 0);
                else expect(dx[i], power - hit * scale,
                            ROUNDING * (power * (fabs(less) + EXP + 1) + hit * scale) + TINY);
            }
            give_back();
        }
    finish();
}

void check_cross_entropy(const char *isa) {
    check_loss(isa);
    check_gradient(isa);
}
