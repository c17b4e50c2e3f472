// The norm of a gradient, in double whatever its type.
#include "fastmlp.h"

// Lane i of eight sums x[i], x[i + 8], ...; then lanes i and i + 4, i + 2, i + 1.
#define DEFINE(type, name)                                                                   \
    double name(const type *x, ptrdiff_t n)                                                  \
    {                                                                                        \
        enum { LANES = 8 };                                                                  \
        double sum[LANES] = {0};                                                             \
        ptrdiff_t i = 0;                                                                     \
        for (; i + LANES <= n; i += LANES)                                                   \
            for (int lane = 0; lane < LANES; lane++)                                         \
                sum[lane] += (double)x[i + lane] * (double)x[i + lane];                      \
        for (int lane = 0; i < n; i++, lane++)                                               \
            sum[lane] += (double)x[i] * (double)x[i];                                        \
        for (int half = LANES / 2; half >= 1; half /= 2)                                     \
            for (int lane = 0; lane < half; lane++)                                          \
                sum[lane] += sum[lane + half];                                               \
        return sum[0];                                                                       \
    }

DEFINE(float, fm_sum_of_squares_float32)
DEFINE(double, fm_sum_of_squares_float64)
