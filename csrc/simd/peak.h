/* Probes of what this processor can do at most: loops that only multiply and add, or only read.

   LANES x ACCUMULATORS sums run independently. An FMA takes 4 cycles and two start per cycle, so 8 sums keep the units
   busy, and 12 leave a margin. Each variant is compiled for its own ISA and called only where cpu.pyx found it. */
#ifndef TINYGPT_PEAK_H
#define TINYGPT_PEAK_H

#include <stddef.h>
#include <stdint.h>

#define ACCUMULATORS 12

#if defined(__x86_64__)
#include <immintrin.h>

/* x <- x a + b with a < 1 stays finite. The sum of all x is returned, so that no compiler can skip the loop. */
#define PEAK_LOOP(NAME, TARGET, VECTOR, SET, FMA, STORE, LANES)                                   \
    TARGET static float NAME(long n) {                                                            \
        VECTOR x[ACCUMULATORS], a = SET(0.999f), b = SET(1e-3f);                                  \
        float lanes[LANES], total = 0;                                                            \
        for (int i = 0; i < ACCUMULATORS; i++) x[i] = SET((float)i);                              \
        for (long t = 0; t < n; t++)                                                              \
            for (int i = 0; i < ACCUMULATORS; i++) x[i] = FMA(x[i], a, b);                        \
        for (int i = 0; i < ACCUMULATORS; i++) {                                                  \
            STORE(lanes, x[i]);                                                                   \
            for (int j = 0; j < LANES; j++) total += lanes[j];                                    \
        }                                                                                         \
        return total;                                                                             \
    }

#define MULTIPLY_ADD_SSE(x, a, b) _mm_add_ps(_mm_mul_ps(x, a), b) /* the baseline has no FMA */
PEAK_LOOP(peak_scalar, , __m128, _mm_set1_ps, MULTIPLY_ADD_SSE, _mm_storeu_ps, 4)
PEAK_LOOP(peak_avx2, __attribute__((target("avx2,fma"))), __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)
PEAK_LOOP(peak_avx512, __attribute__((target("avx512f"))), __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps,
          16)

/* The compiler's run-time check also asks the operating system (XGETBV), which must save wide registers on a switch. */
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static int has_neon(void) { return 0; }
static float peak_neon(long n) { return peak_scalar(n); }

#else

static float peak_scalar(long n) {
    float x[4 * ACCUMULATORS], total = 0;
    for (int i = 0; i < 4 * ACCUMULATORS; i++) x[i] = (float)i;
    for (long t = 0; t < n; t++)
        for (int i = 0; i < 4 * ACCUMULATORS; i++) x[i] = x[i] * 0.999f + 1e-3f;
    for (int i = 0; i < 4 * ACCUMULATORS; i++) total += x[i];
    return total;
}
static int has_avx2(void) { return 0; }
static int has_avx512(void) { return 0; }
static float peak_avx2(long n) { return peak_scalar(n); }
static float peak_avx512(long n) { return peak_scalar(n); }

#if defined(__ARM_NEON)
#include <arm_neon.h>
static int has_neon(void) { return 1; }
static float peak_neon(long n) {
    float32x4_t x[ACCUMULATORS], a = vdupq_n_f32(0.999f), b = vdupq_n_f32(1e-3f);
    float total = 0;
    for (int i = 0; i < ACCUMULATORS; i++) x[i] = vdupq_n_f32((float)i);
    for (long t = 0; t < n; t++)
        for (int i = 0; i < ACCUMULATORS; i++) x[i] = vfmaq_f32(b, x[i], a);
    for (int i = 0; i < ACCUMULATORS; i++) total += vaddvq_f32(x[i]);
    return total;
}
#else
static int has_neon(void) { return 0; }
static float peak_neon(long n) { return peak_scalar(n); }
#endif
#endif

/* Add n words in eight independent sums, so that reading is the limit and not adding. */
static uint64_t read_words(const uint64_t *words, ptrdiff_t n) {
    uint64_t total[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (ptrdiff_t i = 0; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) total[j] += words[i + j];
    return total[0] + total[1] + total[2] + total[3] + total[4] + total[5] + total[6] + total[7];
}

#endif
