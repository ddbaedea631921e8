/* Checks of csrc/simd/packed_matmul_kernel.h: dot products with bfloat16 and int8 rows, and unpacking. */
#include "check.h"
#include "simd/packed_matmul_kernel.h"

static const int STEPS[] = {0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 50, 64, 67, 96};

/* A random matrix (rows, k): bfloat16 around 1, or int8 with scales from the smallest subnormal to about 2^-3. */
static Packed matrix(int kind, int rows, int k) {
    Packed b = {kind, k, kind == INT8 ? (k + BLOCK - 1) / BLOCK : 0, NULL, NULL, NULL};
    if (kind == BFLOAT16) {
        uint16_t *halves = halfwords((ptrdiff_t)rows * k);
        for (int i = 0; i < rows * k; i++) halves[i] = (halves[i] & 0x81ff) | 0x3e00; /* +-2^-3 to +-2 */
        b.halves = halves;
        return b;
    }
    uint16_t *scales = halfwords(rows * b.blocks);
    for (int i = 0; i < rows * b.blocks; i++) scales[i] = i % 5 == 3 ? 0 : scales[i] & 0x2fff;
    b.scales = scales;
    b.bytes = octets((ptrdiff_t)rows * k);
    return b;
}

/* Element (j, p), computed from the definition of the formats. */
static double element(const Packed *b, int j, int p) {
    if (b->kind == BFLOAT16) {
        const int bits = b->halves[j * b->K + p], exponent = bits >> 7 & 0xff;
        return (bits & 0x8000 ? -1 : 1) * ldexp(128 + (bits & 0x7f), exponent - 127 - 7);
    }
    const int bits = b->scales[j * b->blocks + p / BLOCK], exponent = bits >> 10;
    const double scale = exponent ? ldexp(1024 + (bits & 0x3ff), exponent - 25) : ldexp(bits & 0x3ff, -24);
    return scale * b->bytes[j * b->K + p];
}

/* Dot products from a row of b on that is not the first, because threads start in the middle. */
static void check_dots(const char *isa, const PackedKernels *s, int kind) {
    begin(isa, kind == INT8 ? "dots, int8" : "dots, bfloat16");
    for (int t = 0; t < COUNT(STEPS); t++)
        for (int m = 1; m <= DOT_ROWS; m++)
            for (int n = 1; n <= 19; n += 1 + (m + n) % 3) {
                const int k = STEPS[t], apart = n + 2, first = n % 3;
                const Packed b = matrix(kind, first + n, k);
                float *a = uniform(m * k, -1, 1), *c = blank((m - 1) * apart + n);
                s->dots(m, n, a, &b, first, c, apart);
                for (int e = 0; e < (m - 1) * apart + n; e++) {
                    const int i = e / apart, j = e % apart;
                    double wanted = 0, size = 0;
                    at("row %d, column %d of m %d, n %d, k %d", i, j, m, n, k);
                    if (j >= n) {
                        expect(c[e], NAN, 0); /* nothing is written between the rows */
                        continue;
                    }
                    for (int p = 0; p < k; p++) {
                        const double term = a[i * k + p] * element(&b, first + j, p);
                        wanted += term;
                        size += fabs(term);
                    }
                    expect(c[e], wanted, sum_room(k + 1, size));
                }
                give_back();
            }
    finish();
}

/* Unpacking must be exact, from every block on and for every length. */
static void check_unpack(const char *isa, const PackedKernels *s, int kind) {
    begin(isa, kind == INT8 ? "unpack, int8" : "unpack, bfloat16");
    for (int t = 0; t < COUNT(STEPS); t++)
        for (int p = 0; p <= STEPS[t]; p += BLOCK)
            for (int n = 0; n <= STEPS[t] - p; n += 1 + n % 3) {
                const Packed b = matrix(kind, 3, STEPS[t]);
                float *out = blank(n);
                s->unpack(&b, 2, p, n, out);
                for (int i = 0; i < n; i++) {
                    at("element %d of %d from %d, k %d", i, n, p, STEPS[t]);
                    expect(out[i], element(&b, 2, p + i), 0);
                    expect(packed_value(&b, 2, p + i), element(&b, 2, p + i), 0);
                }
                give_back();
            }
    finish();
}

void check_packed_matmul(const char *isa) {
    for (int kind = BFLOAT16; kind <= INT8; kind++) {
        check_dots(isa, packed_kernels(isa), kind);
        check_unpack(isa, packed_kernels(isa), kind);
    }
}
