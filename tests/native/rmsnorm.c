/* Checks of csrc/simd/rmsnorm_kernel.h: rows, their gradient, and sums over chunks. */
#include "check.h"
#include "simd/rmsnorm_kernel.h"

#define ROWS 4
static const int sizes[] = SIZES;

/* Each output is compared with its formula, evaluated on the outputs before it, which were compared in the same way. */
static void check_row(const Rmsnorm *a, int r) {
    const int n = (int)a->columns;
    const float *z = a->residual ? a->total + r * n : a->x + r * n;
    double square = 0;
    for (int c = 0; c < n; c++) {
        if (a->residual) expect(z[c], a->x[r * n + c] + a->residual[r * n + c], 0);
        square += (double)z[c] * z[c] / n;
    }
    const double rstd = 1 / sqrt(square + a->eps);
    expect(a->rstd[r], rstd, ROUNDING * rstd * 1.001); /* squares and sums are doubles, so only the result is rounded */
    for (int c = 0; c < n; c++) {
        const double y = (double)z[c] * a->rstd[r] * a->weight[c];
        expect(a->out[r * n + c], y, 2 * ROUNDING * fabs(y) + TINY);
    }
}

/* Rows with and without a residual, in two calls as from two threads. */
static void check_rows(const char *isa) {
    begin(isa, "rmsnorm rows");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int what = 0; what < 2; what++) {
            const int n = sizes[t], all = ROWS * n;
            Rmsnorm a = {n, uniform(all, -1, 1), what ? uniform(all, -1, 1) : NULL, uniform(n, -2, 2), blank(all),
                         what ? blank(all) : NULL, blank(ROWS), 1e-5f};
            rmsnorm_kernels(isa)->rows(&a, 0, 1);
            rmsnorm_kernels(isa)->rows(&a, 1, ROWS);
            for (int r = 0; r < ROWS; r++) {
                at("row %d of %d columns, residual %d", r, n, what);
                check_row(&a, r);
            }
            give_back();
        }
    finish();
}

/* One row of dx = rstd (g - xhat mean(g xhat)) with g = dy weight and xhat = x rstd. The mean is a float sum of n
   terms, and each operation after it adds a rounding. */
static void check_dx(const RmsnormGradient *a, int r) {
    const int n = (int)a->columns;
    double mean = 0, size = 0;
    for (int c = 0; c < n; c++) {
        const double term = (double)a->dy[r * n + c] * a->weight[c] * a->x[r * n + c] * a->rstd[r] / n;
        mean += term, size += fabs(term);
    }
    for (int c = 0; c < n; c++) {
        const double g = (double)a->dy[r * n + c] * a->weight[c], xhat = (double)a->x[r * n + c] * a->rstd[r];
        const double more = a->dtotal ? a->dtotal[r * n + c] : 0, wanted = a->rstd[r] * (g - xhat * mean);
        const double room = fabs(xhat) * sum_room(n + 3, size) + 3 * ROUNDING * (fabs(g) + fabs(xhat * mean));
        expect(a->dx[r * n + c], wanted + more,
               a->rstd[r] * room + ROUNDING * (2 * fabs(wanted) + fabs(wanted + more)) + TINY);
    }
}

/* dx of every row, and the sum of the chunk that becomes dweight. */
static void check_gradient(const char *isa) {
    begin(isa, "rmsnorm gradient");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int what = 0; what < 2; what++) {
            const int n = sizes[t], all = ROWS * n;
            RmsnormGradient a = {n, uniform(all, -1, 1), uniform(all, -1, 1), uniform(n, -2, 2),
                                 uniform(ROWS, 0.5, 2), what ? uniform(all, -1, 1) : NULL, blank(all)};
            float *part = blank(n);
            rmsnorm_kernels(isa)->gradient(&a, 0, ROWS, part);
            for (int r = 0; r < ROWS; r++) {
                at("row %d of %d columns, dtotal %d", r, n, what);
                check_dx(&a, r);
            }
            for (int c = 0; c < n; c++) {
                double wanted = 0, size = 0;
                for (int r = 0; r < ROWS; r++) {
                    const double term = (double)a.dy[r * n + c] * a.x[r * n + c] * a.rstd[r];
                    wanted += term, size += fabs(term);
                }
                at("dweight, column %d of %d", c, n);
                expect(part[c], wanted, sum_room(ROWS + 2, size));
            }
            give_back();
        }
    finish();
}

/* The sum over chunks, which is a double and rounded once. */
static void check_chunks(const char *isa) {
    begin(isa, "rmsnorm add_chunks");
    for (int width = 1; width <= RMSNORM_TILE; width++)
        for (int chunks = 0; chunks < 4; chunks++) {
            const int stride = width + 3, add = (width + chunks) % 2;
            float *part = uniform(chunks ? (chunks - 1) * stride + width : 0, -1, 1), *out = uniform(width, -1, 1);
            float *before = copy(out, width);
            rmsnorm_kernels(isa)->add_chunks(part, chunks, stride, out, width, add);
            for (int c = 0; c < width; c++) {
                double wanted = add ? before[c] : 0;
                for (int k = 0; k < chunks; k++) wanted += part[k * stride + c];
                at("column %d of %d, chunks %d, add %d", c, width, chunks, add);
                expect(out[c], wanted, ROUNDING * fabs(wanted) + 0x1p-48);
            }
            give_back();
        }
    finish();
}

void check_rmsnorm(const char *isa) {
    check_rows(isa);
    check_gradient(isa);
    check_chunks(isa);
}
