/* Checks of csrc/simd/embedding_kernel.h: the sum of two rows. */
#include "check.h"
#include "simd/embedding_kernel.h"

/* One addition per element, so the result must be exact. */
void check_embedding(const char *isa) {
    static const int sizes[] = SIZES;
    begin(isa, "embedding add");
    for (int t = 0; t < COUNT(sizes); t++) {
        const int n = sizes[t];
        float *a = uniform(n, -1, 1), *b = uniform(n, -1, 1), *out = blank(n);
        embedding_kernels(isa)->add(a, b, out, n);
        at("n %d", n);
        for (int i = 0; i < n; i++) expect(out[i], a[i] + b[i], 0);
        give_back();
    }
    finish();
}
