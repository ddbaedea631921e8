/* Compiles the file that SIMD_KERNEL names once for every instruction set, each time in the words of another
   vec_<isa>.h, and leaves a table of kernels for each.

       #define SIMD_KERNEL "simd/softmax_kernel.h"
       #include "simd/foreach_isa.h"

   A kernel file has two parts. What is common to all instruction sets (types, the two lines above) stands behind an
   include guard; the kernels stand behind `#elif defined(ISA)`, which holds while a vocabulary is in force. Their names
   are FOR_ISA(name), which becomes name_avx2 and so on. That part must not include a system header: it would be
   compiled for one ISA only and missing for the next.

   A region between BEGIN_ISA and END_ISA may use instructions that the rest of the program may not. Both compilers
   read such a region, each in its own notation; without them there is the scalar vocabulary alone. */

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
