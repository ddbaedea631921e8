/* Compile the file that SIMD_KERNEL names once per instruction set, each time in the vocabulary of another vec_<isa>.h.

       #define SIMD_KERNEL "simd/softmax_kernel.h"
       #include "simd/foreach_isa.h"

   A kernel file has two parts. Declarations that all instruction sets share (types, the two lines above) are inside an
   include guard. The kernels follow after `#elif defined(ISA)`, which holds while a vocabulary is active. Their names
   are FOR_ISA(name), which becomes name_avx2 and so on, and each file ends with a table of its kernels. The second
   part must not include a system header: it would be compiled for one ISA only and missing for the next.

   Functions between BEGIN_ISA and END_ISA may use instructions that the rest of the program may not. gcc and clang each
   read such a region in their own notation. On other processors the scalar vocabulary is the only one. */

#include "simd/isa.h"

#include "simd/vec_scalar.h"
#include SIMD_KERNEL
#include "simd/vec_end.h"

#if defined(__x86_64__)
BEGIN_ISA("avx2,fma")
#include "simd/vec_avx2.h"
#include SIMD_KERNEL
#include "simd/vec_end.h"
END_ISA
BEGIN_ISA(AVX512)
#include "simd/vec_avx512.h"
#include SIMD_KERNEL
#include "simd/vec_end.h"
END_ISA
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include "simd/vec_neon.h"
#include SIMD_KERNEL
#include "simd/vec_end.h"
#endif

#undef SIMD_KERNEL
