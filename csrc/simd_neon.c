// NEON of 64-bit ARM: 4 floats or 2 doubles to a vector.
#include "target.h"
#if FM_AARCH64
#include <arm_neon.h>
#include <string.h>

#define FM_LEVEL neon
#define FM_ROWS 12
#define FM_ONE_ROW 16

// -- float32

typedef float32x4_t V_f32;
typedef uint32x4_t VI_f32;
INLINE V_f32 vset1_f32(float x) { return vdupq_n_f32(x); }
INLINE V_f32 vload_f32(const float *p) { return vld1q_f32(p); }
INLINE void vstore_f32(float *p, V_f32 a) { vst1q_f32(p, a); }
INLINE V_f32 vload_n_f32(const float *p, int n)
{
    float whole[4] = {0};
    memcpy(whole, p, (size_t)n * sizeof *p);
    return vld1q_f32(whole);
}
INLINE void vstore_n_f32(float *p, V_f32 a, int n)
{
    float whole[4];
    vst1q_f32(whole, a);
    memcpy(p, whole, (size_t)n * sizeof *p);
}
INLINE V_f32 vadd_f32(V_f32 a, V_f32 b) { return vaddq_f32(a, b); }
INLINE V_f32 vsub_f32(V_f32 a, V_f32 b) { return vsubq_f32(a, b); }
INLINE V_f32 vmul_f32(V_f32 a, V_f32 b) { return vmulq_f32(a, b); }
INLINE V_f32 vdiv_f32(V_f32 a, V_f32 b) { return vdivq_f32(a, b); }
INLINE V_f32 vmax_f32(V_f32 a, V_f32 b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE V_f32 vmin_f32(V_f32 a, V_f32 b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
INLINE V_f32 vsqrt_f32(V_f32 a) { return vsqrtq_f32(a); }
INLINE V_f32 vfma_f32(V_f32 a, V_f32 b, V_f32 c) { return vfmaq_f32(c, a, b); }
INLINE V_f32 vfnma_f32(V_f32 a, V_f32 b, V_f32 c) { return vfmsq_f32(c, a, b); }
INLINE V_f32 vkeep_f32(V_f32 a, V_f32 x)
{
    return vbslq_f32(vcleq_f32(a, vdupq_n_f32(0)), vdupq_n_f32(0), x);
}
INLINE V_f32 vselect_lt_f32(V_f32 a, V_f32 b, V_f32 x, V_f32 y)
{
    return vbslq_f32(vcltq_f32(a, b), x, y);
}
INLINE float vsum_f32(V_f32 a)
{
    float32x2_t s = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}
INLINE float vlargest_f32(V_f32 a) { return vmaxvq_f32(a); }
INLINE VI_f32 vbits_f32(V_f32 a) { return vreinterpretq_u32_f32(a); }
INLINE V_f32 vreal_f32(VI_f32 a) { return vreinterpretq_f32_u32(a); }
INLINE VI_f32 iset1_f32(uint32_t x) { return vdupq_n_u32(x); }
INLINE VI_f32 iadd_f32(VI_f32 a, VI_f32 b) { return vaddq_u32(a, b); }
INLINE VI_f32 isub_f32(VI_f32 a, VI_f32 b) { return vsubq_u32(a, b); }
INLINE VI_f32 iand_f32(VI_f32 a, VI_f32 b) { return vandq_u32(a, b); }
INLINE VI_f32 ior_f32(VI_f32 a, VI_f32 b) { return vorrq_u32(a, b); }
INLINE VI_f32 ishl_f32(VI_f32 a, int n) { return vshlq_u32(a, vdupq_n_s32(n)); }
INLINE VI_f32 ishr_f32(VI_f32 a, int n) { return vshlq_u32(a, vdupq_n_s32(-n)); }

// 4 x 4 in place
INLINE void vtranspose_f32(V_f32 *r)
{
    float rows[4][4], columns[4][4];
    for (int i = 0; i < 4; i++)
        vst1q_f32(rows[i], r[i]);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            columns[j][i] = rows[i][j];
    for (int i = 0; i < 4; i++)
        r[i] = vld1q_f32(columns[i]);
}

// -- float64

typedef float64x2_t V_f64;
typedef uint64x2_t VI_f64;
INLINE V_f64 vset1_f64(double x) { return vdupq_n_f64(x); }
INLINE V_f64 vload_f64(const double *p) { return vld1q_f64(p); }
INLINE void vstore_f64(double *p, V_f64 a) { vst1q_f64(p, a); }
INLINE V_f64 vload_n_f64(const double *p, int n)
{
    double whole[2] = {0};
    memcpy(whole, p, (size_t)n * sizeof *p);
    return vld1q_f64(whole);
}
INLINE void vstore_n_f64(double *p, V_f64 a, int n)
{
    double whole[2];
    vst1q_f64(whole, a);
    memcpy(p, whole, (size_t)n * sizeof *p);
}
INLINE V_f64 vadd_f64(V_f64 a, V_f64 b) { return vaddq_f64(a, b); }
INLINE V_f64 vsub_f64(V_f64 a, V_f64 b) { return vsubq_f64(a, b); }
INLINE V_f64 vmul_f64(V_f64 a, V_f64 b) { return vmulq_f64(a, b); }
INLINE V_f64 vdiv_f64(V_f64 a, V_f64 b) { return vdivq_f64(a, b); }
INLINE V_f64 vmax_f64(V_f64 a, V_f64 b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
INLINE V_f64 vmin_f64(V_f64 a, V_f64 b) { return vbslq_f64(vcltq_f64(a, b), a, b); }
INLINE V_f64 vsqrt_f64(V_f64 a) { return vsqrtq_f64(a); }
INLINE V_f64 vfma_f64(V_f64 a, V_f64 b, V_f64 c) { return vfmaq_f64(c, a, b); }
INLINE V_f64 vfnma_f64(V_f64 a, V_f64 b, V_f64 c) { return vfmsq_f64(c, a, b); }
INLINE V_f64 vkeep_f64(V_f64 a, V_f64 x)
{
    return vbslq_f64(vcleq_f64(a, vdupq_n_f64(0)), vdupq_n_f64(0), x);
}
INLINE V_f64 vselect_lt_f64(V_f64 a, V_f64 b, V_f64 x, V_f64 y)
{
    return vbslq_f64(vcltq_f64(a, b), x, y);
}
INLINE double vsum_f64(V_f64 a) { return vgetq_lane_f64(a, 0) + vgetq_lane_f64(a, 1); }
INLINE double vlargest_f64(V_f64 a) { return vmaxvq_f64(a); }
INLINE VI_f64 vbits_f64(V_f64 a) { return vreinterpretq_u64_f64(a); }
INLINE V_f64 vreal_f64(VI_f64 a) { return vreinterpretq_f64_u64(a); }
INLINE VI_f64 iset1_f64(uint64_t x) { return vdupq_n_u64(x); }
INLINE VI_f64 iadd_f64(VI_f64 a, VI_f64 b) { return vaddq_u64(a, b); }
INLINE VI_f64 isub_f64(VI_f64 a, VI_f64 b) { return vsubq_u64(a, b); }
INLINE VI_f64 iand_f64(VI_f64 a, VI_f64 b) { return vandq_u64(a, b); }
INLINE VI_f64 ior_f64(VI_f64 a, VI_f64 b) { return vorrq_u64(a, b); }
INLINE VI_f64 ishl_f64(VI_f64 a, int n) { return vshlq_u64(a, vdupq_n_s64(n)); }
INLINE VI_f64 ishr_f64(VI_f64 a, int n) { return vshlq_u64(a, vdupq_n_s64(-n)); }

// 2 x 2 in place
INLINE void vtranspose_f64(V_f64 *r)
{
    V_f64 low = vzip1q_f64(r[0], r[1]);
    r[1] = vzip2q_f64(r[0], r[1]);
    r[0] = low;
}

#define FM_LANES_FLOAT32 4
#define FM_LANES_FLOAT64 2
#include "both_dtypes.inc.c"
#endif
