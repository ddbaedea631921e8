/* Checks of csrc/simd/attention_kernel.h: one head, its queries in tiles and one by one, and the gradient. */
#include "check.h"
#include "simd/attention_kernel.h"

#include <stdlib.h>

static const struct {
    int T, S, D;
} shapes[] = {{1, 1, 1}, {1, 40, 16}, {2, 9, 5}, {5, 5, 7}, {17, 17, 8}, {33, 65, 20},
              {64, 64, 64}, {97, 130, 33}, {130, 130, 12}};

/* Scores (S,) and lse of one query in double precision, with the error bounds of their float32 values. */
typedef struct {
    double *score, *score_room, lse, lse_room;
} Scores;

/* The scores of one query. The kernel may scale before or after the dot product. */
static Scores scores_of(const float *q, const float *k, int row, int seen, int D, double scale, double *memory) {
    Scores s = {memory, memory + seen, 0, 0};
    double top = -INFINITY, low = INFINITY, worst = 0, total = 0;
    for (int j = 0; j < seen; j++) {
        double sum = 0, size = 0;
        for (int d = 0; d < D; d++) sum += (double)q[d] * k[j * row + d], size += fabs((double)q[d] * k[j * row + d]);
        s.score[j] = scale * sum;
        s.score_room[j] = scale * sum_room(D + 2, size);
        top = fmax(top, s.score[j]);
        low = fmin(low, s.score[j]);
        worst = fmax(worst, s.score_room[j]);
    }
    for (int j = 0; j < seen; j++) total += exp(s.score[j] - top);
    s.lse = top + log(total);
    /* Each tile of keys may raise the maximum, which costs the earlier terms one more exp and two products. */
    s.lse_room = worst + ROUNDING * (seen + 2 * (top - low) + (seen / KEYS + 1) * (EXP + 2) + 4 + fabs(s.lse));
    return s;
}

/* lse, out and weights of query t. */
static void check_query(const AttentionHead *x, int t, double *memory) {
    const int seen = (int)(x->S - x->T) + t + 1, D = (int)x->D;
    const Scores s = scores_of(x->q + t * x->q_row, x->k, (int)x->k_row, seen, D, x->scale, memory);
    expect(x->lse[t], s.lse, s.lse_room);
    for (int d = 0; d < D; d++) {
        double wanted = 0, room = 0;
        for (int j = 0; j < seen; j++) {
            const double term = exp(s.score[j] - s.lse) * x->v[j * x->v_row + d];
            wanted += term;
            room += fabs(term) * (s.lse_room + s.score_room[j] + ROUNDING * (seen + EXP + 3));
        }
        expect(x->out[t * x->out_row + d], wanted, room + TINY);
    }
    for (int j = 0; x->weights && j < x->S; j++) {
        const double less = j < seen ? s.score[j] - s.lse : -INFINITY, wanted = exp(less);
        const double off = j < seen ? s.lse_room + s.score_room[j] + ROUNDING * (EXP + 3 + fabs(less)) : 0;
        expect(x->weights[t * x->S + j], wanted, j < seen ? wanted * off + TINY : 0);
    }
}

/* All queries in tiles of 48, or one by one. Case bit 0: with weights. Case bit 1: large scores. */
static void check_forward(const char *isa, int alone) {
    const AttentionKernels *kernels = attention_kernels(isa);
    begin(isa, alone ? "attention query" : "attention tile");
    for (int i = 0; i < COUNT(shapes); i++)
        for (int what = 0; what < 4; what++) {
            const int T = shapes[i].T, S = shapes[i].S, D = shapes[i].D, row = D + 3;
            const float far = what & 2 ? 6 : 1; /* large scores, so that most of a row underflows and maxima rise */
            AttentionHead x = {uniform((T - 1) * row + D, -far, far), uniform((S - 1) * row + D, -far, far),
                               uniform((S - 1) * row + D, -1, 1), blank((T - 1) * row + D), blank(T),
                               what & 1 ? blank(T * S) : NULL, row, row, row, row, T, S, D, 0.3f};
            float *memory = blank((ptrdiff_t)attention_floats(S, D));
            double *scores = malloc(2 * S * sizeof(double));
            at("T %d, S %d, D %d, case %d", T, S, D, what);
            for (int t = 0; alone && t < T; t++) kernels->query(&x, t, memory);
            for (int t = 0; !alone && t < T; t += 48) kernels->tile(&x, t, T - t < 48 ? T - t : 48, memory);
            for (int t = 0; t < T; t++) {
                at("query %d of T %d, S %d, D %d, case %d", t, T, S, D, what);
                check_query(&x, t, scores);
            }
            for (int n = 0; n < (T - 1) * row; n++)
                if (n % row >= D) expect(x.out[n], NAN, 0); /* nothing is written between the rows */
            free(scores);
            give_back();
        }
    finish();
}

/* p and ds of every (query, key) and their error bounds, (T, S) each. */
static void slopes_of(const AttentionGradient *x, double *p, double *p_room, double *ds, double *ds_room) {
    const int T = (int)x->T, S = (int)x->S, D = (int)x->D;
    for (int t = 0; t < T; t++) {
        const float *dout = x->dout + t * x->dout_row;
        const double *score, *score_room;
        double *memory = malloc(2 * S * sizeof(double)), delta = 0, delta_size = 0;
        const int seen = S - T + t + 1;
        const Scores s = scores_of(x->q + t * x->q_row, x->k, (int)x->k_row, seen, D, x->scale, memory);
        score = s.score, score_room = s.score_room;
        for (int d = 0; d < D; d++) {
            const double term = (double)dout[d] * x->out[t * x->out_row + d];
            delta += term, delta_size += fabs(term);
        }
        for (int j = 0; j < S; j++) {
            const int at_j = t * S + j;
            double dp = 0, size = 0;
            p[at_j] = p_room[at_j] = ds[at_j] = ds_room[at_j] = 0;
            if (j >= seen) continue;
            for (int d = 0; d < D; d++) {
                const double term = (double)dout[d] * x->v[j * x->v_row + d];
                dp += term, size += fabs(term);
            }
            p[at_j] = exp(score[j] - x->lse[t]);
            p_room[at_j] = p[at_j] * (score_room[j] + ROUNDING * (fabs(score[j] - x->lse[t]) + EXP)) + TINY;
            ds[at_j] = x->scale * p[at_j] * (dp - delta);
            ds_room[at_j] = x->scale * (p_room[at_j] * fabs(dp - delta) +
                            p[at_j] * (sum_room(D, size) + sum_room(D, delta_size) + 3 * ROUNDING * fabs(dp - delta)));
        }
        free(memory);
    }
}

/* Element (a, d) of out[a, d] = before + sum_b w[a, b] x[b, d], where w[a, b] is w[a * w_row + b * w_step]. */
static void check_product(const double *w, const double *w_room, int w_row, int w_step, int n, const float *x, int row,
                          int a, int d, double before, double got) {
    double wanted = before, size = fabs(before), room = 0;
    for (int b = 0; b < n; b++) {
        const double term = w[a * w_row + b * w_step] * x[b * row + d];
        wanted += term;
        size += fabs(term);
        room += w_room[a * w_row + b * w_step] * fabs(x[b * row + d]);
    }
    expect(got, wanted, room + sum_room(n + n / KEYS + 1, size));
}

/* dq, dk and dv against sums over p and ds, with dk and dv written or added to. */
static void check_gradient(const char *isa) {
    begin(isa, "attention gradient");
    for (int i = 0; i < COUNT(shapes); i++)
        for (int add = 0; add < 2; add++) {
            const int T = shapes[i].T, S = shapes[i].S, D = shapes[i].D, row = D + 3;
            const int queries = (T - 1) * row + D, keys = (S - 1) * row + D;
            float *dk = uniform(keys, -1, 1), *dv = uniform(keys, -1, 1), *dk0 = copy(dk, keys), *dv0 = copy(dv, keys);
            AttentionGradient x = {uniform(queries, -1, 1), uniform(queries, -1, 1), uniform(keys, -1, 1),
                                   uniform(keys, -1, 1), uniform(queries, -1, 1), uniform(T, 1, 4), blank(queries), dk,
                                   dv, row, row, row, row, row, row, row, row, T, S, D, 0.3f};
            double *pairs = malloc(4 * (size_t)T * S * sizeof(double));
            double *p = pairs, *p_room = p + T * S, *ds = p_room + T * S, *ds_room = ds + T * S;
            float *memory = blank((ptrdiff_t)attention_gradient_floats(D));
            at("T %d, S %d, D %d, add %d", T, S, D, add);
            for (int t = (T - 1) / 48 * 48; t >= 0; t -= 48) /* the last queries first, because they see all keys */
                attention_kernels(isa)->gradient(&x, t, T - t < 48 ? T - t : 48, add || t + 48 < T, memory);
            slopes_of(&x, p, p_room, ds, ds_room);
            for (int d = 0; d < D; d++) {
                for (int t = 0; t < T; t++) check_product(ds, ds_room, S, 1, S, x.k, row, t, d, 0, x.dq[t * row + d]);
                for (int j = 0; j < S; j++) {
                    const int e = j * row + d;
                    check_product(ds, ds_room, 1, S, T, x.q, row, j, d, add ? dk0[e] : 0, dk[e]);
                    check_product(p, p_room, 1, S, T, x.dout, row, j, d, add ? dv0[e] : 0, dv[e]);
                }
            }
            free(pairs);
            give_back();
        }
    finish();
}

void check_attention(const char *isa) {
    check_forward(isa, 0);
    check_forward(isa, 1);
    check_gradient(isa);
}
