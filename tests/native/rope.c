/* Checks of csrc/simd/rope_kernel.h: rotations and their inverse, also in place. */
#include "check.h"
#include "simd/rope_kernel.h"

/* Three heads, one float apart. Each output is a difference of two products, with at most two roundings each. */
void check_rope(const char *isa) {
    static const int sizes[] = SIZES;
    begin(isa, "rope rotate");
    for (int t = 0; t < COUNT(sizes); t++)
        for (int what = 0; what < 4; what++) {
            const int E = sizes[t], heads = 3, apart = 2 * E + 1, inverse = what & 1, in_place = what & 2;
            const double sign = inverse ? -1 : 1;
            float *x = uniform(2 * apart + 2 * E, -1, 1), *before = copy(x, 2 * apart + 2 * E);
            float *out = in_place ? x : blank(2 * apart + 2 * E), *c = uniform(E, -1, 1), *s = uniform(E, -1, 1);
            rope_kernels(isa)->rotate(x, apart, out, apart, heads, c, s, E, inverse);
            for (int h = 0; h < heads; h++)
                for (int j = 0; j < E; j++) {
                    const double one = before[h * apart + j], two = before[h * apart + j + E];
                    at("head %d, pair %d of %d, inverse %d, in place %d", h, j, E, inverse, in_place != 0);
                    expect(out[h * apart + j], one * c[j] - sign * two * s[j],
                           2 * ROUNDING * (fabs(one * c[j]) + fabs(two * s[j])));
                    expect(out[h * apart + j + E], two * c[j] + sign * one * s[j],
                           2 * ROUNDING * (fabs(two * c[j]) + fabs(one * s[j])));
                }
            give_back();
        }
    finish();
}
