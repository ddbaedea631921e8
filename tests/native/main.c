/* Run every check for every instruction set that this processor has.

   usage: native [-r] [ISA...]
   -r      allow reads behind an array, for emulators whose masked loads read masked lanes (qemu 7.2)
   ISA     run these instruction sets, even if the processor does not report them */
#include "check.h"

#include <stdio.h>

#include "simd/peak.h"

void check_vocabulary(const char *isa);
void check_matmul(const char *isa);
void check_packed_matmul(const char *isa);
void check_column_sum(const char *isa);
void check_softmax(const char *isa);
void check_cross_entropy(const char *isa);
void check_layernorm(const char *isa);
void check_rmsnorm(const char *isa);
void check_activation(const char *isa);
void check_adamw(const char *isa);
void check_rope(const char *isa);
void check_embedding(const char *isa);
void check_attention(const char *isa);

static void check_all(const char *isa) {
    check_vocabulary(isa);
    check_matmul(isa);
    check_packed_matmul(isa);
    check_column_sum(isa);
    check_softmax(isa);
    check_cross_entropy(isa);
    check_layernorm(isa);
    check_rmsnorm(isa);
    check_activation(isa);
    check_adamw(isa);
    check_rope(isa);
    check_embedding(isa);
    check_attention(isa);
}

/* The probe starts its sums at 0, 1, 2, ..., in `repeat` lanes each, and computes x <- 0.999 x + 0.001 n times. */
static void check_probe(const char *isa, float (*probe)(long), int sums, int repeat) {
    const long n = 50;
    double wanted = 0;
    for (int i = 0; i < sums; i++) {
        double x = i;
        for (long t = 0; t < n; t++) x = x * 0.999f + 1e-3f;
        wanted += repeat * x;
    }
    begin(isa, "peak");
    expect(probe(n), wanted, (2 * n + sums * repeat) * ROUNDING * wanted);
    finish();
}

int main(int count, char **names) {
    static const char *const known[] = {"scalar", "avx2", "avx512", "neon"};
    const int there[] = {1, has_avx2(), has_avx512(), has_neon()};
    const int readable = count > 1 && strcmp(names[1], "-r") == 0;
    watch(readable);
    names += readable, count -= readable;
    printf("instruction sets:");
    for (int i = 0; i < COUNT(known); i++)
        if (there[i]) printf(" %s", known[i]);
    printf("\n");
    if (count > 1) {
        for (int i = 1; i < count; i++) check_all(names[i]);
    } else {
        for (int i = 0; i < COUNT(known); i++)
            if (there[i]) check_all(known[i]);
#if defined(__x86_64__)
        check_probe("scalar", peak_scalar, ACCUMULATORS, 4);
        if (there[1]) check_probe("avx2", peak_avx2, ACCUMULATORS, 8);
        if (there[2]) check_probe("avx512", peak_avx512, ACCUMULATORS, 16);
#else
        check_probe("scalar", peak_scalar, 4 * ACCUMULATORS, 1);
        if (there[3]) check_probe("neon", peak_neon, ACCUMULATORS, 4);
#endif
    }
    if (failures() > 0) printf("%d kernels are WRONG\n", failures());
    return failures() > 0;
}
