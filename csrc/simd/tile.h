/* The micro-kernel of every product: c[i, j] = sum_p a[i, p] b[p, j] + addend[i, j] + bias[j], for a micro-tile of up
   to MR rows and NV vectors of columns.

   The MR x NV sums stay in registers while p runs. Each step loads NV vectors of b and broadcasts one element of a per
   row. Why these sizes (tile_size.h):
   - 32 registers: 8 x 3 sums + 3 vectors of b + 1 element of a = 28. 16 registers: 6 x 2 + 2 + 1 = 15.
   - An FMA takes 4 cycles and two start per cycle, so 8 independent sums keep the units busy.
   - More sums than that save loads, because each loaded number then meets several others: 24 FMAs need 11 loads here.

   Contract
   - a[i, p] = a[i * a_row + p * a_step] and b[p, j] = b[p * b_step + j], so a and b may be slivers or plain rows.
   - c is written, never read. addend is NULL or an array whose rows are c_row apart, as those of c: c itself to
     accumulate, or a residual. bias is NULL or one row.
   - b has NV whole vectors in every row: the caller packs the last one with zeros if need be. In c, addend and bias
     nothing past column n is touched.
   - k may be 0. */
#include "simd/tile_size.h"

/* m rows and v vectors are constants where this is inlined, so that every loop over them is unrolled. */
TEMPLATE void FOR_ISA(micro_tile)(const int m, const int v, ptrdiff_t k, const float *a, ptrdiff_t a_row,
                                  ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *c, ptrdiff_t c_row, int n,
                                  const float *addend, const float *bias) {
    vec sum[MR][NV], x, y[NV];
    const int last = n - (v - 1) * LANES; /* columns in the last vector */
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < v; j++) sum[i][j] = vset(0.0f);
    }
    /* c was not touched for a whole pass over b, so it is fetched to L1 while the sums are computed. */
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < v; j++) __builtin_prefetch(c + i * c_row + j * LANES, 1);
        if (addend) UNROLL for (int j = 0; j < v; j++) __builtin_prefetch(addend + i * c_row + j * LANES);
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
            if (addend) x = vadd(part == LANES ? vload(addend + at) : vload_part(addend + at, part), x);
            if (bias) x = vadd(x, part == LANES ? vload(bias + j * LANES) : vload_part(bias + j * LANES, part));
            if (part == LANES) vstore(c + at, x);
            else vstore_part(c + at, x, part);
        }
    }
}

#define TILE(m, v)                                                                                \
    case 4 * (m) + (v):                                                                           \
        FOR_ISA(micro_tile)(m, v, k, a, a_row, a_step, b, b_step, c, c_row, n, addend, bias);     \
        break;
#if NV == 3
#define TILES(m) TILE(m, 1) TILE(m, 2) TILE(m, 3)
#else
#define TILES(m) TILE(m, 1) TILE(m, 2)
#endif

/* c[0..m-1, 0..n-1] for 1 <= m <= MR and 1 <= n <= NV LANES. There is one loop for each number of rows and vectors, so
   that an edge of two rows costs two rows. */
static void FOR_ISA(micro_kernel)(int m, int n, ptrdiff_t k, const float *a, ptrdiff_t a_row, ptrdiff_t a_step,
                                  const float *b, ptrdiff_t b_step, float *c, ptrdiff_t c_row, const float *addend,
                                  const float *bias) {
    switch (4 * m + (n + LANES - 1) / LANES) {
        TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if MR == 8
        TILES(7) TILES(8)
#endif
    }
}
#undef TILE
#undef TILES
