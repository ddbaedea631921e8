/* The inner kernel of column sums: rows added up in registers. For csrc/column_sum.pyx. */
#ifndef TINYGPT_COLUMN_SUM_KERNEL_H
#define TINYGPT_COLUMN_SUM_KERNEL_H

/* The table of an instruction set: `rows` rows of x, `row` floats apart. */
typedef struct {
    void (*add_rows)(const float *x, ptrdiff_t row, ptrdiff_t rows, int n, float *out, int add);
} ColumnSumKernels;

#define SIMD_KERNEL "simd/column_sum_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const ColumnSumKernels *column_sum_kernels(const char *isa) { return TABLE_FOR(column_sum_table, isa); }

#elif defined(ISA)

/* out[j] (+)= sum_r x[r, j] for n columns: one column per lane, so that lanes never meet. Four vectors of columns at
   a time use whole cache lines and hide the latency of an addition. */
static void FOR_ISA(add_rows)(const float *x, ptrdiff_t row, ptrdiff_t rows, int n, float *out, int add) {
    int j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES) {
        vec sum[4];
        UNROLL for (int i = 0; i < 4; i++) sum[i] = vset(0.0f);
        for (ptrdiff_t r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < 4; i++) sum[i] = vadd(sum[i], vload(x + r * row + j + i * LANES));
        UNROLL for (int i = 0; i < 4; i++) {
            float *to = out + j + i * LANES;
            vstore(to, add ? vadd(vload(to), sum[i]) : sum[i]);
        }
    }
    for (; j < n; j += LANES) { /* the remaining columns, one vector at a time, the last one under a mask */
        const int part = n - j < LANES ? n - j : LANES;
        vec sum = vset(0.0f);
        for (ptrdiff_t r = 0; r < rows; r++)
            sum = vadd(sum, part == LANES ? vload(x + r * row + j) : vload_part(x + r * row + j, part));
        if (part == LANES) vstore(out + j, add ? vadd(vload(out + j), sum) : sum);
        else vstore_part(out + j, add ? vadd(vload_part(out + j, part), sum) : sum, part);
    }
}

static const ColumnSumKernels FOR_ISA(column_sum_table) = {FOR_ISA(add_rows)};
#endif
