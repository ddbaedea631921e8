/* Scalar functions that several kernels need: sigmoid, GELU and its slope. */
#ifndef TINYGPT_SCALAR_H
#define TINYGPT_SCALAR_H

#include <math.h>

#define GELU_SCALE 0.7978845608028654f /* sqrt(2 / pi) */
#define GELU_CUBIC 0.044715f           /* Hendrycks & Gimpel 2016, eq. (2) */

/* sigmoid(x) = 1 / (1 + exp(-x)). exp(-x) may reach infinity, and 1 / inf = 0 is the right limit. */
static inline float sigmoid_value(float x) { return 1.0f / (1.0f + expf(-x)); }

/* gelu(x) = x/2 (1 + tanh(u)) = x sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3). The second form has one
   exponential and no cancellation where tanh(u) is close to -1. */
static inline float gelu_value(float x) {
    return x * sigmoid_value(2.0f * GELU_SCALE * (x + GELU_CUBIC * x * x * x));
}

/* gelu'(x) = s + x s (1 - s) 2 u' with s = sigmoid(2 u) and u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2). Beyond +-100 the
   slope is 1 or 0 to the last bit. Without the limit x^2 could overflow, and 0 times infinity is NaN. */
static inline float gelu_slope(float x) {
    x = x > 100.0f ? 100.0f : x < -100.0f ? -100.0f : x;
    float s = sigmoid_value(2.0f * GELU_SCALE * (x + GELU_CUBIC * x * x * x));
    return s + x * s * (1.0f - s) * 2.0f * GELU_SCALE * (1.0f + 3.0f * GELU_CUBIC * x * x);
}

#endif
