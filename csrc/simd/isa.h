/* Definitions that every kernel file needs, whatever the instruction set: regions, names, inlining, tables. */
#ifndef TINYGPT_ISA_H
#define TINYGPT_ISA_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define JOIN_(name, isa) name##_##isa
#define JOIN(name, isa) JOIN_(name, isa)       /* two steps, so that a macro is expanded before it is joined */
#define FOR_ISA(name) JOIN(name, ISA)          /* dot -> dot_avx2 while avx2 is being compiled */

/* A region whose functions may use the named instructions. gcc reads #pragma GCC; clang ignores that and has its own.
   */
#define SIMD_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BEGIN_ISA(features) SIMD_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_ISA SIMD_PRAGMA(clang attribute pop)
#else
#define BEGIN_ISA(features) SIMD_PRAGMA(GCC push_options) SIMD_PRAGMA(GCC target(features))
#define END_ISA SIMD_PRAGMA(GCC pop_options)
#endif

#define AVX512 "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
#define AVX512_BF16 "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"

/* Inlined into every caller, even where the compiler would decide otherwise. Its arguments are then constants, its
   loops over registers are unrolled, and its arrays of vectors become registers. */
#define TEMPLATE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* The address of table_<isa> for the name of an ISA, or NULL for a name that this build does not have. */
#if defined(__x86_64__)
#define TABLE_FOR(table, name)                       \
    (strcmp(name, "scalar") == 0   ? &table##_scalar \
     : strcmp(name, "avx2") == 0   ? &table##_avx2   \
     : strcmp(name, "avx512") == 0 ? &table##_avx512 \
                                   : NULL)
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define TABLE_FOR(table, name) \
    (strcmp(name, "scalar") == 0 ? &table##_scalar : strcmp(name, "neon") == 0 ? &table##_neon : NULL)
#else
#define TABLE_FOR(table, name) (strcmp(name, "scalar") == 0 ? &table##_scalar : NULL)
#endif

#endif
