"""Bias and GELU in one pass over the product."""

cdef extern from *:
    """
    #include <string.h>
    static inline float exp_of(float x) {               /* see vectorise-gelu */
        float y = x * 1.44269504f;
        y = y < -126.0f ? -126.0f : y;
        y = y > 128.0f ? 128.0f : y;
        float n = (y + 12582912.0f) - 12582912.0f;
        float r = (y - n) * 0.693147181f;
        float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f
                  + r * 0.00138888889f)))));
        int bits = ((int) n + 127) << 23;
        float power;
        memcpy(&power, &bits, sizeof power);
        return p * power;
    }
    """
    float exp_of(float x) nogil


def bias_gelu(const float[:, ::1] z, const float[::1] bias, float[:, ::1] out):
    """Write gelu(z + bias) into out."""
    cdef Py_ssize_t r, c, rows = z.shape[0], columns = z.shape[1]
    cdef float x, u
    cdef const float* source
    cdef float* target
    if rows == 0 or columns == 0:
        return
    cdef const float* added = &bias[0]
    for r in range(rows):
        source, target = &z[r, 0], &out[r, 0]
        for c in range(columns):
            x = source[c] + added[c]                    # the sum stays in a register
            u = <float> 0.797884561 * (x + <float> 0.044715 * x * x * x)
            target[c] = x / (1 + exp_of(-2 * u))
