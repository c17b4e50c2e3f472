// Where an array first holds NaN or infinity.
#include "fastmlp.h"
#include "target.h"

#include <string.h>

// An IEEE number is finite unless all bits of its exponent are set: one more in the last of them, and the first
// is carried into the sign. Blocks are tested without a branch, so that the compiler can use vectors; only a
// block with a hit is searched.
#define FIRST_NONFINITE(real, bits, last)                                                      \
    INLINE bits carried_##real(const real *x)                                                  \
    {                                                                                          \
        const bits sign = (bits)1 << (8 * sizeof(bits) - 1);                                   \
        bits b;                                                                                \
        memcpy(&b, x, sizeof b);                                                               \
        return (b & ~sign) + (last);                                                           \
    }                                                                                          \
                                                                                               \
    INLINE ptrdiff_t search_##real(const real *x, ptrdiff_t n)                                 \
    {                                                                                          \
        enum { BLOCK = 1024 };                                                                 \
        const bits sign = (bits)1 << (8 * sizeof(bits) - 1);                                   \
        for (ptrdiff_t start = 0; start < n; start += BLOCK) {                                 \
            const ptrdiff_t end = n - start < BLOCK ? n : start + BLOCK;                       \
            bits any = 0;                                                                      \
            FM_UNROLL_TWICE                                                                    \
            for (ptrdiff_t i = start; i < end; i++)                                            \
                any |= carried_##real(x + i);                                                  \
            for (ptrdiff_t i = start; any & sign && i < end; i++)                              \
                if (carried_##real(x + i) & sign)                                              \
                    return i;                                                                  \
        }                                                                                      \
        return -1;                                                                             \
    }

FIRST_NONFINITE(float, uint32_t, UINT32_C(1) << 23)
FIRST_NONFINITE(double, uint64_t, UINT64_C(1) << 52)

// Everybody who predicts waits for this, so it is compiled for wide vectors as well.
#if defined(__x86_64__)
FM_TARGET_BEGIN("avx2")
static ptrdiff_t wide_search_float(const float *x, ptrdiff_t n) { return search_float(x, n); }
static ptrdiff_t wide_search_double(const double *x, ptrdiff_t n) { return search_double(x, n); }
FM_TARGET_END
#define SEARCH(real) (__builtin_cpu_supports("avx2") ? wide_search_##real : search_##real)
#else
#define SEARCH(real) search_##real
#endif

ptrdiff_t fm_first_nonfinite_float32(const float *x, ptrdiff_t n) { return SEARCH(float)(x, n); }
ptrdiff_t fm_first_nonfinite_float64(const double *x, ptrdiff_t n) { return SEARCH(double)(x, n); }
