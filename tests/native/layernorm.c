/* Checks of csrc/simd/layernorm_kernel.h: rows, their gradient, and sums over chunks. */
#include "check.h"
#include "simd/layernorm_kernel.h"

#define ROWS 4
static const int sizes[] = SIZES;

/* Each output is compared with its formula, evaluated on the outputs before it, which were compared in the same way. */
static void check_row(const Layernorm *a, int r) {
    const int n = (int)a->columns;
    const float *z = a->residual ? a->total + r * n : a->x + r * n;
    double mean = 0, variance = 0, spread = 0;
    for (int c = 0; c < n; c++) {
        if (a->residual) expect(z[c], a->x[r * n + c] + a->residual[r * n + c], 0);
        mean += z[c] / (double)n;
    }
    for (int c = 0; c < n; c++) {
        variance += (z[c] - mean) * (z[c] - mean) / n;
        spread += fabs(z[c] - mean) / n;
    }
    /* The first mean may be off by n roundings. Its correction, a sum of n deviations, may be off by n of theirs. */
    const double rstd = 1 / sqrt(variance + a->eps), off = ROUNDING * (2 * fabs(mean) + (n + 3) * spread);
    expect(a->mean[r], mean, off);
    /* Each square has one rounding of the deviation, doubled. The n roundings of the mean enter squared or cancel. */
    expect(a->rstd[r], rstd, 4 * ROUNDING * rstd);
    for (int c = 0; c < n; c++) {
        const double xhat = ((double)z[c] - a->mean[r]) * a->rstd[r], y = xhat * a->weight[c];
        expect(a->out[r * n + c], y + (a->bias ? a->bias[c] : 0),
               ROUNDING * (4 * fabs(y) + (a->bias ? fabs(a->bias[c]) : 0)) + TINY);
    }
}

/* Rows with and without residual and bias; a mean of 50 beside deviations of 1 shows cancellation in the variance. The
   rows come in two calls, as from two threads. */
static void check_rows(const char *isa) {
    begin(isa, "layernorm rows");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int what = 0; what < 8; what++) {
            const int n = sizes[t], all = ROWS * n;
            const float middle = what & 4 ? 50 : 0;
            Layernorm a = {n, uniform(all, middle - 1, middle + 1), what & 1 ? uniform(all, -1, 1) : NULL,
                           uniform(n, -2, 2), what & 2 ? uniform(n, -1, 1) : NULL, blank(all),
                           what & 1 ? blank(all) : NULL, blank(ROWS), blank(ROWS), 1e-5f};
            layernorm_kernels(isa)->rows(&a, 0, 1);
            layernorm_kernels(isa)->rows(&a, 1, ROWS);
            for (int r = 0; r < ROWS; r++) {
                at("row %d of %d columns, residual %d, bias %d, mean %g", r, n, what & 1, what >> 1 & 1, middle);
                check_row(&a, r);
            }
            give_back();
        }
    finish();
}

/* The normalised element, from the saved mean and rstd. */
static double xhat_of(const LayernormGradient *a, int r, int c) {
    return ((double)a->x[r * a->columns + c] - a->mean[r]) * a->rstd[r];
}

/* One row of dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy weight. Both means are float sums of n terms,
   and each difference adds a rounding. */
static void check_dx(const LayernormGradient *a, int r) {
    const int n = (int)a->columns;
    double mean = 0, size = 0, mean_xhat = 0, size_xhat = 0;
    for (int c = 0; c < n; c++) {
        const double g = (double)a->dy[r * n + c] * a->weight[c] / n, term = g * xhat_of(a, r, c);
        mean += g, size += fabs(g);
        mean_xhat += term, size_xhat += fabs(term);
    }
    for (int c = 0; c < n; c++) {
        const double g = (double)a->dy[r * n + c] * a->weight[c], xhat = xhat_of(a, r, c);
        const double more = a->dtotal ? a->dtotal[r * n + c] : 0, left = g - mean - xhat * mean_xhat;
        const double room = sum_room(n + 1, size) + fabs(xhat) * sum_room(n + 4, size_xhat) +
                            3 * ROUNDING * (fabs(g) + fabs(mean) + fabs(xhat * mean_xhat) * 2);
        expect(a->dx[r * n + c], a->rstd[r] * left + more,
               a->rstd[r] * (room + 2 * ROUNDING * fabs(left)) + ROUNDING * (fabs(a->rstd[r] * left) + 2 * fabs(more)));
    }
}

/* dx of every row, and the sums of the chunk that become dweight and dbias. */
static void check_gradient(const char *isa) {
    begin(isa, "layernorm gradient");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int what = 0; what < 2; what++) {
            const int n = sizes[t], all = ROWS * n;
            LayernormGradient a = {n, uniform(all, -1, 1), uniform(all, -1, 1), uniform(n, -2, 2), uniform(ROWS, -1, 1),
                                   uniform(ROWS, 0.5, 2), what ? uniform(all, -1, 1) : NULL, blank(all)};
            float *part = blank(2 * n);
            layernorm_kernels(isa)->gradient(&a, 0, ROWS, part);
            for (int r = 0; r < ROWS; r++) {
                at("row %d of %d columns, dtotal %d", r, n, what);
                check_dx(&a, r);
            }
            for (int c = 0; c < n; c++) {
                double weight = 0, weight_size = 0, bias = 0, bias_size = 0;
                for (int r = 0; r < ROWS; r++) {
                    const double term = a.dy[r * n + c] * xhat_of(&a, r, c);
                    weight += term, weight_size += fabs(term);
                    bias += a.dy[r * n + c], bias_size += fabs(a.dy[r * n + c]);
                }
                at("dweight and dbias, column %d of %d", c, n);
                expect(part[c], weight, sum_room(ROWS + 3, weight_size));
                expect(part[n + c], bias, sum_room(ROWS, bias_size));
            }
            give_back();
        }
    finish();
}

/* The sum over chunks, which is a double and rounded once. */
static void check_chunks(const char *isa) {
    begin(isa, "layernorm add_chunks");
    for (int width = 1; width <= LAYERNORM_TILE; width++)
        for (int chunks = 0; chunks < 4; chunks++) {
            const int stride = width + 3, add = (width + chunks) % 2;
            float *part = uniform(chunks ? (chunks - 1) * stride + width : 0, -1, 1), *out = uniform(width, -1, 1);
            float *before = copy(out, width);
            layernorm_kernels(isa)->add_chunks(part, chunks, stride, out, width, add);
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

void check_layernorm(const char *isa) {
    check_rows(isa);
    check_gradient(isa);
    check_chunks(isa);
}
