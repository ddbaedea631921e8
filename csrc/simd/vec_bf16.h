/* AVX-512 with BF16, for the register tile alone: a lane of a packed panel is a word of two bfloat16 numbers, and one
   vfma takes two steps of the sum, x0 y0 + x1 y1 + z, in float32. vset repeats such a word. */
#include "simd/vec_avx512.h"
#undef ISA
#undef vfma
#define ISA bf16
#define vfma(x, y, z) _mm512_dpbf16_ps(z, (__m512bh)_mm512_castps_si512(x), (__m512bh)_mm512_castps_si512(y))
