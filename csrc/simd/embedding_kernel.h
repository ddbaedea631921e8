/* The inner kernel of embedding: the sum of two rows. For csrc/embedding.pyx.

   Forward adds the rows of a token and a position, backward adds a row of dy to a gradient. */
#ifndef TINYGPT_EMBEDDING_KERNEL_H
#define TINYGPT_EMBEDDING_KERNEL_H
#include "scalar.h"
#include "simd/isa.h"

typedef struct {
    void (*add)(const float *a, const float *b, float *out, ptrdiff_t n);
} EmbeddingKernels;

#define SIMD_KERNEL "simd/embedding_kernel.h"
#include "simd/foreach_isa.h"

/* The kernels of an instruction set, or NULL if this build has none of that name. */
static const EmbeddingKernels *embedding_kernels(const char *isa) { return TABLE_FOR(embedding_table, isa); }

#elif defined(ISA)
#include "simd/math.h"

/* out = a + b; out may be a or b. The remaining n % LANES elements use the same addition under a mask. */
static void FOR_ISA(add)(const float *a, const float *b, float *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) vstore(out + i, vadd(vload(a + i), vload(b + i)));
    const int rest = (int)(n - i);
    if (rest > 0) vstore_part(out + i, vadd(vload_part(a + i, rest), vload_part(b + i, rest)), rest);
}

static const EmbeddingKernels FOR_ISA(embedding_table) = {FOR_ISA(add)};
#endif
