// The ceiling that speeds are measured against: how fast this CPU does fused multiply-adds when
// nothing else is asked of it. No memory is touched: twelve accumulators, enough to hide the
// latency of the instruction, stay in registers.
#include "fastmlp.h"
#include "target.h"

#include <time.h>

enum { ACCUMULATORS = 12, ROUNDS = 2000 };

static double now(void)
{
    struct timespec ts;
    timespec_get(&ts, TIME_UTC);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

// Defines probe_NAME(seconds), which returns GFLOP/s: a = a x + y over and over, which with x = 1/2
// and y = 1 stays near 2. The volatile reads keep the compiler from knowing any of the values, so
// from computing them beforehand or taking the accumulators for one and the same.
#define PROBE(name, real, V, lanes, vset1, vfma, vstore)                       \
    static double probe_##name(double seconds)                                 \
    {                                                                          \
        volatile real half = (real)0.5, one = 1;                               \
        V x = vset1(half), y = vset1(one), a[ACCUMULATORS];                    \
        double rounds = 0, passed;                                             \
        FM_UNROLL                                                              \
        for (int j = 0; j < ACCUMULATORS; j++)                                 \
            a[j] = vset1(one);                                                 \
        double start = now();                                                  \
        do {                                                                   \
            for (int i = 0; i < ROUNDS; i++) {                                 \
                FM_UNROLL                                                      \
                for (int j = 0; j < ACCUMULATORS; j++)                         \
                    a[j] = vfma(a[j], x, y);                                   \
            }                                                                  \
            rounds += ROUNDS;                                                  \
            passed = now() - start;                                            \
        } while (0 <= passed && passed < seconds);                             \
        FM_UNROLL                                                              \
        for (int j = 0; j < ACCUMULATORS; j++) {                               \
            real out[lanes];                                                   \
            vstore(out, a[j]);                                                 \
            one = out[0];                                                      \
        }                                                                      \
        return passed > 0 ? 2e-9 * (lanes) * ACCUMULATORS * rounds / passed : 0; \
    }

// Plain C: one number to a vector, fma() of the C library.
#define SAME(x) (x)
#define STORE(p, x) (*(p) = (x))
PROBE(portable_f32, float, float, 1, SAME, fmaf, STORE)
PROBE(portable_f64, double, double, 1, SAME, fma, STORE)

#if FM_X86_64
FM_TARGET_BEGIN("avx2,fma")
#include <immintrin.h>
PROBE(avx2_f32, float, __m256, 8, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps)
PROBE(avx2_f64, double, __m256d, 4, _mm256_set1_pd, _mm256_fmadd_pd, _mm256_storeu_pd)
FM_TARGET_END
FM_TARGET_BEGIN("avx512f,avx2,fma")
PROBE(avx512_f32, float, __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps)
PROBE(avx512_f64, double, __m512d, 8, _mm512_set1_pd, _mm512_fmadd_pd, _mm512_storeu_pd)
FM_TARGET_END
#elif FM_AARCH64
#include <arm_neon.h>
#define NEON_FMA_F32(a, x, y) vfmaq_f32(y, a, x)
#define NEON_FMA_F64(a, x, y) vfmaq_f64(y, a, x)
PROBE(neon_f32, float, float32x4_t, 4, vdupq_n_f32, NEON_FMA_F32, vst1q_f32)
PROBE(neon_f64, double, float64x2_t, 2, vdupq_n_f64, NEON_FMA_F64, vst1q_f64)
#endif

double fm_probe(const char *level, int dtype, double seconds)
{
    static const struct {
        const char *level;
        double (*probe[2])(double seconds); // by dtype
    } probes[] = {
        {"portable", {probe_portable_f32, probe_portable_f64}},
#if FM_X86_64
        {"avx2", {probe_avx2_f32, probe_avx2_f64}},
        {"avx512", {probe_avx512_f32, probe_avx512_f64}},
#elif FM_AARCH64
        {"neon", {probe_neon_f32, probe_neon_f64}},
#endif
    };
    if (fm_fused_engine(level) == NULL) // not in this build, or not in this CPU
        return -1;
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        if (!strcmp(probes[i].level, level))
            return probes[i].probe[dtype](seconds);
    return -1;
}
