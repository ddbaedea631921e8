/* The sum of two rows, for csrc/embedding.pyx: a token's and its position's, or a gradient's and what it adds to. */
#ifndef TINYGPT_EMBEDDING_KERNEL_H
#define TINYGPT_EMBEDDING_KERNEL_H
#include "scalar.h"
#include "simd/isa.h"

typedef struct {
    void (*add)(const float *a, const float *b, float *out, ptrdiff_t n);
} EmbeddingKernels;

#define SIMD_KERNEL "simd/embedding_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels for an instruction set, NULL if there are none of that name. */
static const EmbeddingKernels *embedding_kernels(const char *isa) { return TABLE_FOR(embedding_table, isa); }

#elif defined(ISA)
#include "simd/math.h"

/* out may be a or b. The remaining n % LANES elements are added as the others are. */
static void FOR_ISA(add)(const float *a, const float *b, float *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) vstore(out + i, vadd(vload(a + i), vload(b + i)));
    const int rest = (int)(n - i);
    if (rest > 0) vstore_part(out + i, vadd(vload_part(a + i, rest), vload_part(b + i, rest)), rest);
}

static const EmbeddingKernels FOR_ISA(embedding_table) = {FOR_ISA(add)};
#endif
