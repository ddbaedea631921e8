/* The vocabulary for AVX-512 with BF16, for the micro-kernel alone.

   A lane of a packed sliver is a word of two bfloat16 numbers. One vfma takes two steps of the sum in float32:
   x0 y0 + x1 y1 + z. vset repeats such a word in all lanes. */
#include "simd/vec_avx512.h"
#undef ISA
#undef vfma
#define ISA bf16
#define vfma(x, y, z) _mm512_dpbf16_ps(z, (__m512bh)_mm512_castps_si512(x), (__m512bh)_mm512_castps_si512(y))
