/* Checks of csrc/simd/column_sum_kernel.h: column sums, written and added. */
#include "check.h"
#include "simd/column_sum_kernel.h"

/* Rows are two floats further apart than they are wide, so that a step by the width would read the wrong column. */
void check_column_sum(const char *isa) {
    static const int sizes[] = SIZES;
    begin(isa, "column_sum");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int rows = 0; rows < 6; rows++) {
            const int n = sizes[t], row = n + 2, add = (t + rows) % 2;
            float *x = uniform(rows ? (rows - 1) * row + n : 0, -1, 1), *out = uniform(n, -1, 1);
            float *before = copy(out, n);
            column_sum_kernels(isa)->add_rows(x, row, rows, n, out, add);
            for (int j = 0; j < n; j++) {
                double wanted = add ? before[j] : 0, size = fabs(wanted);
                for (int r = 0; r < rows; r++) wanted += x[r * row + j], size += fabs(x[r * row + j]);
                at("column %d of %d, rows %d, add %d", j, n, rows, add);
                expect(out[j], wanted, sum_room(rows, size));
            }
            give_back();
        }
    finish();
}
