/* Checks of csrc/simd/matmul_kernel.h and matmul_bf16_kernel.h: packing, micro-kernel, dot products, epilogue. */
#include "check.h"
#include "simd/matmul_bf16_kernel.h"

static const int STEPS[] = {0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 50, 64, 67};

/* The value of an operand as the kernel multiplies it: rounded to bfloat16 if the kernel rounds. */
static double operand(const MatmulKernels *s, float x) {
    int exponent;
    if (!s->rounds) return x;
    const double mantissa = frexp(x, &exponent); /* 8 bits of it are kept; rint rounds ties to even */
    return ldexp(rint(ldexp(mantissa, 8)), exponent - 8);
}

/* One micro-tile: a is (m, k) or, transposed, (k, m); b is (k, n) or, transposed, (n, k). b is packed. a is packed if
   it is transposed, rounded row by row if the kernel rounds, and read in place otherwise. */
static void check_slivers(const MatmulKernels *s, int m, int n, int k, int a_transposed, int b_transposed, int add) {
    const int words = (k + s->pair - 1) / s->pair, apart = n + 3;
    float *a = uniform((ptrdiff_t)m * k, -1, 1), *b = uniform((ptrdiff_t)n * k, -1, 1);
    float *packed = blank((ptrdiff_t)words * s->mr), *b_sliver = blank((ptrdiff_t)words * s->nr);
    float *c = uniform((ptrdiff_t)(m - 1) * apart + n, -1, 1), *before = copy(c, (ptrdiff_t)(m - 1) * apart + n);
    const ptrdiff_t a_row = a_transposed ? 1 : k, a_step = a_transposed ? m : 1;
    const ptrdiff_t b_step = b_transposed ? 1 : n, b_column = b_transposed ? k : 1;
    at("m %d, n %d, k %d, transposed %d %d, add %d", m, n, k, a_transposed, b_transposed, add);
    if (a_transposed) s->pack_rows(a, m, m, k, packed);
    else if (s->rounds) s->round_rows(a, k, m, k, packed);
    s->pack(b, b_column, b_step, n, k, b_sliver);
    s->micro_kernel(m, n, words, a_transposed || s->rounds ? packed : a, a_transposed ? 1 : words,
                    a_transposed ? s->mr : 1, b_sliver, s->nr, c, apart, add ? c : NULL, NULL);
    for (int e = 0; e < (m - 1) * apart + n; e++) {
        const int i = e / apart, j = e % apart;
        double wanted = add ? before[e] : 0, size = fabs(wanted);
        at("row %d, column %d of m %d, n %d, k %d, transposed %d %d, add %d", i, j, m, n, k, a_transposed, b_transposed,
           add);
        for (int p = 0; j < n && p < k; p++) {
            const double term = operand(s, a[i * a_row + p * a_step]) * operand(s, b[p * b_step + j * b_column]);
            wanted += term;
            size += fabs(term);
        }
        if (j < n) expect(c[e], wanted, sum_room(k + 1, size));
        else expect(c[e], before[e], 0); /* nothing is written between the rows */
    }
    give_back();
}

/* Every number of rows, some numbers of columns, both layouts of a and b, written and accumulated. */
static void check_micro_kernel(const char *isa, const char *name, const MatmulKernels *s) {
    begin(isa, name);
    for (int t = 0; t < COUNT(STEPS); t++)
        for (int m = 1; m <= s->mr; m++)
            for (int n = 1 + (m + t) % 3; n <= s->nr; n += 1 + (n + t) % 4)
                check_slivers(s, m, n, STEPS[t], (m + n) % 2, (t + n) % 2, t % 2);
    finish();
}

/* Rows of a and b read in place, which the micro-kernel may do where b has whole vectors. */
static void check_in_place(const char *isa, const MatmulKernels *s) {
    begin(isa, "micro_kernel, in place");
    for (int m = 1; m <= s->mr; m++)
        for (int n = s->lanes; n <= s->nr; n += s->lanes) {
            const int k = 19, wide = n + 5;
            float *a = uniform(m * k, -1, 1), *b = uniform((k - 1) * wide + n, -1, 1), *c = blank(m * n);
            s->micro_kernel(m, n, k, a, k, 1, b, wide, c, n, NULL, NULL);
            for (int i = 0; i < m * n; i++) {
                double wanted = 0, size = 0;
                for (int p = 0; p < k; p++) {
                    const double term = (double)a[i / n * k + p] * b[p * wide + i % n];
                    wanted += term;
                    size += fabs(term);
                }
                at("element %d of m %d, n %d", i, m, n);
                expect(c[i], wanted, sum_room(k, size));
            }
            give_back();
        }
    finish();
}

/* Slivers of mr rows from a transposed a: sliver q holds a[p, q mr + i] at [p, i]. The last may have fewer rows. */
static void check_pack_rows(const char *isa, const char *name, const MatmulKernels *s) {
    begin(isa, name);
    for (int m = 1; m <= 3 * s->mr + 1; m++) {
        const int k = 24, count = (m + s->mr - 1) / s->mr, apart = m + 2, n = s->lanes, words = k / s->pair;
        float *a = uniform((k - 1) * apart + m, -1, 1), *b = uniform(k * n, -1, 1);
        float *slivers = blank(count * s->mr * words);
        float *b_sliver = blank(words * s->nr), *c = blank(m * n);
        s->pack_rows(a, apart, m, k, slivers);
        s->pack(b, 1, n, n, k, b_sliver);
        for (int q = 0; q < count; q++)
            s->micro_kernel(m - q * s->mr < s->mr ? m - q * s->mr : s->mr, n, words, slivers + q * s->mr * words, 1,
                            s->mr, b_sliver, s->nr, c + q * s->mr * n, n, NULL, NULL);
        for (int i = 0; i < m * n; i++) {
            double wanted = 0, size = 0;
            for (int p = 0; p < k; p++) {
                const double term = operand(s, a[p * apart + i / n]) * operand(s, b[p * n + i % n]);
                wanted += term;
                size += fabs(term);
            }
            at("element %d of m %d", i, m);
            expect(c[i], wanted, sum_room(k, size));
        }
        give_back();
    }
    finish();
}

/* The contents of up to three slivers: each has nr columns, and those that do not exist are zero. */
static void check_pack(const char *isa, const MatmulKernels *s) {
    begin(isa, "pack");
    for (int t = 0; t < COUNT(STEPS); t++)
        for (int n = 1; n <= 2 * s->nr + 1; n++)
            for (int turned = 0; turned < 2; turned++) {
                const int k = STEPS[t], end = (n + s->nr - 1) / s->nr * s->nr;
                const ptrdiff_t across = turned ? k : 1, along = turned ? 1 : n;
                float *x = uniform((ptrdiff_t)n * k, -1, 1), *slivers = blank((ptrdiff_t)k * end);
                s->pack(x, across, along, n, k, slivers);
                for (int p = 0; p < k; p++)
                    for (int r = 0; r < end; r++) {
                        at("step %d, column %d of n %d, k %d, transposed %d", p, r, n, k, turned);
                        expect(slivers[r / s->nr * s->nr * k + p * s->nr + r % s->nr],
                               r < n ? x[r * across + p * along] : 0, 0);
                    }
                give_back();
            }
    finish();
}

/* Dot products of rows that are one float further apart than they are long. */
static void check_dots(const char *isa, const MatmulKernels *s) {
    begin(isa, "dots");
    for (int t = 0; t < COUNT(STEPS); t++)
        for (int m = 1; m <= DOT_ROWS; m++)
            for (int n = 1; n <= 2 * DOT_COLUMNS + 1; n++) {
                const int k = STEPS[t], apart = k + 1, add = (m + n) % 2;
                float *a = uniform((m - 1) * apart + k, -1, 1), *b = uniform((n - 1) * apart + k, -1, 1);
                float *c = uniform(m * n, -1, 1), *before = copy(c, m * n);
                s->dots(m, n, k, a, apart, b, apart, c, n, add);
                for (int i = 0; i < m * n; i++) {
                    double wanted = add ? before[i] : 0, size = fabs(wanted);
                    for (int p = 0; p < k; p++) {
                        const double term = (double)a[i / n * apart + p] * b[i % n * apart + p];
                        wanted += term;
                        size += fabs(term);
                    }
                    at("element %d of m %d, n %d, k %d, add %d", i, m, n, k, add);
                    expect(c[i], wanted, sum_room(k + 1, size));
                }
                give_back();
            }
    finish();
}

/* c = gelu(c + bias) + residual, with every combination of absent arrays. */
static void check_epilogue(const char *isa, const MatmulKernels *s) {
    static const int sizes[] = SIZES;
    begin(isa, "epilogue");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int what = 0; what < 16; what++) {
            const int m = 3, n = sizes[t], row = n + 1, all = (m - 1) * row + n;
            float *c = uniform(all, -4, 4), *before = copy(c, all), *pre = what & 1 ? blank(all) : NULL;
            float *residual = what & 2 ? uniform(all, -1, 1) : NULL, *bias = what & 4 ? uniform(n, -1, 1) : NULL;
            s->epilogue(m, n, c, pre, residual, row, bias, what >> 3);
            for (int i = 0; i < all; i++) {
                const int j = i % row;
                if (j == n) {
                    at("between rows of n %d", n);
                    expect(c[i], before[i], 0);
                    continue;
                }
                const double x = (double)before[i] + (bias ? bias[j] : 0);
                const double power = exp(-2 * GELU_SCALE * (x + GELU_CUBIC * x * x * x));
                const double y = what >> 3 ? x / (1 + power) : x, wanted = y + (residual ? residual[i] : 0);
                /* The slope of gelu is below 1.13. Its own error is derived in activation.c, here for |x| <= 5. */
                const double room = ROUNDING * (1.2 * fabs(x) + 40 * fabs(y) + fabs(wanted)) + TINY;
                at("element %d of n %d, arrays %d, activation %d", i, n, what & 7, what >> 3);
                expect(c[i], wanted, room);
                if (pre) expect(pre[i], x, ROUNDING * fabs(x));
            }
            give_back();
        }
    finish();
}

void check_matmul(const char *isa) {
    const MatmulKernels *plain = matmul_kernels(isa), *rounding = matmul_bf16_kernels(isa);
    check_pack(isa, plain);
    check_micro_kernel(isa, "pack, micro_kernel", plain);
    check_in_place(isa, plain);
    check_pack_rows(isa, "pack_rows, micro_kernel", plain);
    check_dots(isa, plain);
    check_epilogue(isa, plain);
    check_micro_kernel(isa, rounding->pair == 2 ? "bf16 pack, pairs" : "bf16 pack", rounding);
    check_pack_rows(isa, "bf16 pack_rows", rounding);
}
