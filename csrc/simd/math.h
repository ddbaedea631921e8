/* Vector functions of one variable: exponential, logistic sigmoid, GELU and its slope.

   Their accuracy was measured at every float32, in units in the last place of the exact result:
       exp      1.02 with FMA, 1.00 without; 0 where the result would be subnormal, from ln 2^-126 = -87.34 down
       sigmoid  2.5; 0 from -88.73 down, where the exponential is infinite and the result would be below 2^-128
   tests/kernels/test_vector_math.py holds them to it. NaN stays NaN, because vmax and vmin return their second argument
   when either one is NaN. */

/* Load or store the first n lanes, all of them if n >= LANES. Where n is a constant, this inlines to vload and vstore
   without a branch. */
TEMPLATE vec FOR_ISA(load_lanes)(const float *p, ptrdiff_t n) { return n >= LANES ? vload(p) : vload_part(p, (int)n); }
TEMPLATE void FOR_ISA(store_lanes)(float *p, vec x, ptrdiff_t n) {
    if (n >= LANES) vstore(p, x);
    else vstore_part(p, x, (int)n);
}

/* exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2 (Cody and Waite, 1980). ln 2 is split in two
   parts, so that n times the first part is exact. exp(r) = 1 + r + r^2 q(r) with q of degree 4. q minimises the
   largest relative error (Lawson's weighted least squares on 4001 Chebyshev points). Its coefficients were rounded to
   float one at a time, the lowest first, and the higher ones fitted again, which loses 0.05 units. Rejected: the
   coefficients 1 / k! of the Taylor series, off by 2 units at both ends of the interval. */
TEMPLATE vec FOR_ISA(exp)(vec x) {
    const vec low = vset(-87.33654f), high = vset(89.0f); /* ln 2^-126; exp(89) is infinite */
    vec bounded = vmin(high, vmax(low, x));
    vec n = vround(vmul(bounded, vset(1.44269504f)));                       /* 1 / ln 2 */
    vec r = vfma(n, vset(-0.693359375f), bounded);                          /* ln 2 to 9 bits: n times this is exact */
    r = vfma(n, vset(2.12194440e-4f), r);                                   /* the remaining bits of ln 2 */
    vec q = vset(1.38183031e-3f);
    q = vfma(q, r, vset(8.36853217e-3f));
    q = vfma(q, r, vset(4.16682921e-2f));
    q = vfma(q, r, vset(1.66665226e-1f));
    q = vfma(q, r, vset(0.49999994f));
    vec p = vadd(vfma(vmul(r, r), q, r), vset(1.0f));                       /* add the large term last */
    return vwhere_less(x, low, vset(0.0f), vscale(p, n));                   /* n = 128 gives infinity, as it should */
}

/* 1 / (1 + exp(-x)). exp(-x) may be infinite, and 1 / infinity = 0 is the right limit. */
TEMPLATE vec FOR_ISA(sigmoid)(vec x) {
    return vdiv(vset(1.0f), vadd(vset(1.0f), FOR_ISA(exp)(vsub(vset(0.0f), x))));
}

/* gelu(x) = x sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3), as in scalar.h. */
TEMPLATE vec FOR_ISA(gelu)(vec x) {
    vec cubic = vfma(vmul(x, x), vmul(x, vset(GELU_CUBIC)), x);
    return vmul(x, FOR_ISA(sigmoid)(vmul(vset(2.0f * GELU_SCALE), cubic)));
}

/* gelu'(x) = s + x s (1 - s) 2 u' with s = sigmoid(2 u) and u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2). x is limited to
   +-100 as in scalar.h: the slope is 1 or 0 there, and x^2 could overflow. */
TEMPLATE vec FOR_ISA(gelu_slope)(vec x) {
    x = vmin(vset(100.0f), vmax(vset(-100.0f), x));
    vec square = vmul(x, x), cubic = vfma(square, vmul(x, vset(GELU_CUBIC)), x);
    vec s = FOR_ISA(sigmoid)(vmul(vset(2.0f * GELU_SCALE), cubic));
    vec twice = vfma(square, vset(6.0f * GELU_SCALE * GELU_CUBIC), vset(2.0f * GELU_SCALE)); /* 2 u' */
    return vfma(vmul(vmul(x, s), vsub(vset(1.0f), s)), twice, s);
}
