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
    """Write gelu(z + bias) into out.

    z : (rows, columns), float32
    bias : (columns,), float32
        Only read them.
    out : (rows, columns), float32
        To be written.
    """
    cdef Py_ssize_t r, c, rows = z.shape[0], columns = z.shape[1]
    # Your code. exp_of(x) is the exponential of x, for any float x.
    raise NotImplementedError
