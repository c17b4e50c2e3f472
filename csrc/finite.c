// Where an array first holds NaN or infinity.
#include "fastmlp.h"

#include <string.h>

// An IEEE number is finite unless all bits of its exponent are set. Blocks are tested without
// a branch, so that the compiler can use vectors; only a block with a hit is searched.
#define FIRST_NONFINITE(name, real, bits, exponent)                         \
    static int is_nonfinite_##real(const real *x)                           \
    {                                                                       \
        bits b;                                                             \
        memcpy(&b, x, sizeof b);                                            \
        return (b & exponent) == exponent;                                  \
    }                                                                       \
                                                                            \
    ptrdiff_t name(const real *x, ptrdiff_t n)                              \
    {                                                                       \
        enum { BLOCK = 1024 };                                              \
        for (ptrdiff_t start = 0; start < n; start += BLOCK) {              \
            ptrdiff_t end = n - start < BLOCK ? n : start + BLOCK;          \
            int hit = 0;                                                    \
            for (ptrdiff_t i = start; i < end; i++)                         \
                hit |= is_nonfinite_##real(x + i);                          \
            for (ptrdiff_t i = start; hit && i < end; i++)                  \
                if (is_nonfinite_##real(x + i))                             \
                    return i;                                               \
        }                                                                   \
        return -1;                                                          \
    }

FIRST_NONFINITE(fm_first_nonfinite_float32, float, uint32_t, UINT32_C(0x7f800000))
FIRST_NONFINITE(fm_first_nonfinite_float64, double, uint64_t, UINT64_C(0x7ff0000000000000))
