/* The register tile of every product: c[i, j] = sum_p a[i, p] b[p, j] + plus[i, j] + bias[j] for up to MR rows and NV
   vectors of columns.

   MR x NV sums stay in registers while p runs; each step loads NV vectors of b and sets one element of a for every row.
   With 32 registers 8 x 3 sums, 3 vectors of b and an element of a are 28; with 16 registers 6 x 2 + 2 + 1 are 15. An
   FMA takes 4 cycles and two start in each, so 8 sums keep the units busy; more are there because every element that is
   loaded should meet several others: 24 FMAs need 11 loads here.

   Contract
   - a[i, p] = a[i * a_row + p * a_step], b[p, j] = b[p * b_step + j]: packed panels and plain rows are both such.
   - c is written, not read. plus is NULL or an array whose rows are as far apart as those of c: c itself when a product
     is added, a residual. bias is NULL or a row. All but the last vector are full, and nothing past column n is touched.
   - b has NV whole vectors in every row: whoever calls pads or packs the last one. k may be 0. */
#include "simd/tile_size.h"

TEMPLATE void FOR_ISA(tile_of)(const int m, const int v, ptrdiff_t k, const float *a, ptrdiff_t a_row,
                               ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *c, ptrdiff_t c_row, int n,
                               const float *plus, const float *bias) {
    vec sum[MR][NV], x, y[NV];
    const int last = n - (v - 1) * LANES;
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < v; j++) sum[i][j] = vset(0.0f);
    }
    UNROLL for (int i = 0; i < m; i++) {        /* c is far away, and the sums leave time to fetch it */
        UNROLL for (int j = 0; j < v; j++) __builtin_prefetch(c + i * c_row + j * LANES, 1);
        if (plus) UNROLL for (int j = 0; j < v; j++) __builtin_prefetch(plus + i * c_row + j * LANES);
    }
    for (ptrdiff_t p = 0; p < k; p++) {
        UNROLL for (int j = 0; j < v; j++) y[j] = vload(b + j * LANES);
        UNROLL for (int i = 0; i < m; i++) {
            x = vset(a[i * a_row]);
            UNROLL for (int j = 0; j < v; j++) sum[i][j] = vfma(x, y[j], sum[i][j]);
        }
        a += a_step;
        b += b_step;
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < v; j++) {
            const int part = j + 1 < v ? LANES : last;
            const ptrdiff_t at = i * c_row + j * LANES;
            x = sum[i][j];
            if (plus) x = vadd(part == LANES ? vload(plus + at) : vload_part(plus + at, part), x);
            if (bias) x = vadd(x, part == LANES ? vload(bias + j * LANES) : vload_part(bias + j * LANES, part));
            if (part == LANES) vstore(c + at, x);
            else vstore_part(c + at, x, part);
        }
    }
}

#define TILE(m, v)                                                                           \
    case 4 * (m) + (v):                                                                      \
        FOR_ISA(tile_of)(m, v, k, a, a_row, a_step, b, b_step, c, c_row, n, plus, bias);     \
        break;
#if NV == 3
#define TILES(m) TILE(m, 1) TILE(m, 2) TILE(m, 3)
#else
#define TILES(m) TILE(m, 1) TILE(m, 2)
#endif

/* c[0..m-1, 0..n-1], 1 <= m <= MR, 1 <= n <= NV LANES: one loop for every number of rows and vectors. */
static void FOR_ISA(tile)(int m, int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, ptrdiff_t a_step, const float *b,
                          ptrdiff_t b_step, float *c, ptrdiff_t c_row, const float *plus, const float *bias) {
    switch (4 * m + (n + LANES - 1) / LANES) {
        TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if MR == 8
        TILES(7) TILES(8)
#endif
    }
}
#undef TILE
#undef TILES
