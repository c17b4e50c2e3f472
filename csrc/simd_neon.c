// NEON of 64-bit ARM: 4 floats or 2 doubles to a vector.
#include "target.h"
#if FM_AARCH64
#include <arm_neon.h>
#include <string.h>

#define FM_LEVEL neon
#define FM_PANEL 3
#define FM_ROWS(NV) ((NV) == 3 ? 8 : (NV) == 2 ? 12 : 16)
#define FM_MOST_ROWS 16
#define FM_REGISTERS 32
#define FM_ONE_ROW 16
#define FM_FEW_ROWS 4
#define FM_SMALL_BATCH 16
#define FM_BLOCK 32
#define FM_CACHE_1 (36 * 1024)
#define FM_CACHE (576 * 1024)
#define FM_ROWS_AT_LEAST 512

#define list_bits fm_list_bits

// -- float32

typedef float32x4_t V_r32;
typedef uint32x4_t VI_r32;
INLINE V_r32 vset1_r32(float x) { return vdupq_n_f32(x); }
INLINE V_r32 vload_r32(const float *p) { return vld1q_f32(p); }
INLINE void vstore_r32(float *p, V_r32 a) { vst1q_f32(p, a); }
INLINE V_r32 vload_n_r32(const float *p, int n)
{
    float whole[4] = {0};
    memcpy(whole, p, (size_t)n * sizeof *p);
    return vld1q_f32(whole);
}
INLINE void vstore_n_r32(float *p, V_r32 a, int n)
{
    float whole[4];
    vst1q_f32(whole, a);
    memcpy(p, whole, (size_t)n * sizeof *p);
}
INLINE V_r32 vadd_r32(V_r32 a, V_r32 b) { return vaddq_f32(a, b); }
INLINE V_r32 vsub_r32(V_r32 a, V_r32 b) { return vsubq_f32(a, b); }
INLINE V_r32 vmul_r32(V_r32 a, V_r32 b) { return vmulq_f32(a, b); }
INLINE V_r32 vdiv_r32(V_r32 a, V_r32 b) { return vdivq_f32(a, b); }
INLINE V_r32 vmax_r32(V_r32 a, V_r32 b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE V_r32 vmin_r32(V_r32 a, V_r32 b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
INLINE V_r32 vsqrt_r32(V_r32 a) { return vsqrtq_f32(a); }
INLINE V_r32 vfma_r32(V_r32 a, V_r32 b, V_r32 c) { return vfmaq_f32(c, a, b); }
#define vfma_in_place_r32 vfma_r32 // it has no other
INLINE V_r32 vfnma_r32(V_r32 a, V_r32 b, V_r32 c) { return vfmsq_f32(c, a, b); }
INLINE V_r32 vkeep_r32(V_r32 a, V_r32 x)
{
    return vbslq_f32(vcleq_f32(a, vdupq_n_f32(0)), vdupq_n_f32(0), x);
}
INLINE V_r32 vselect_lt_r32(V_r32 a, V_r32 b, V_r32 x, V_r32 y)
{
    return vbslq_f32(vcltq_f32(a, b), x, y);
}
INLINE float vsum_r32(V_r32 a)
{
    float32x2_t s = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}
INLINE float vlargest_r32(V_r32 a) { return vmaxvq_f32(a); }
INLINE uint32_t vnonzero_r32(V_r32 a)
{
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vbicq_u32(bits, vceqzq_f32(a)));
}
INLINE VI_r32 vbits_r32(V_r32 a) { return vreinterpretq_u32_f32(a); }
INLINE V_r32 vreal_r32(VI_r32 a) { return vreinterpretq_f32_u32(a); }
INLINE VI_r32 iset1_r32(uint32_t x) { return vdupq_n_u32(x); }
INLINE VI_r32 iadd_r32(VI_r32 a, VI_r32 b) { return vaddq_u32(a, b); }
INLINE VI_r32 isub_r32(VI_r32 a, VI_r32 b) { return vsubq_u32(a, b); }
INLINE VI_r32 iand_r32(VI_r32 a, VI_r32 b) { return vandq_u32(a, b); }
INLINE VI_r32 ior_r32(VI_r32 a, VI_r32 b) { return vorrq_u32(a, b); }
INLINE VI_r32 ishl_r32(VI_r32 a, int n) { return vshlq_u32(a, vdupq_n_s32(n)); }
INLINE VI_r32 ishr_r32(VI_r32 a, int n) { return vshlq_u32(a, vdupq_n_s32(-n)); }

// 4 x 4 in place
INLINE void vtranspose_r32(V_r32 *r)
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

typedef float64x2_t V_r64;
typedef uint64x2_t VI_r64;
INLINE V_r64 vset1_r64(double x) { return vdupq_n_f64(x); }
INLINE V_r64 vload_r64(const double *p) { return vld1q_f64(p); }
INLINE void vstore_r64(double *p, V_r64 a) { vst1q_f64(p, a); }
INLINE V_r64 vload_n_r64(const double *p, int n)
{
    double whole[2] = {0};
    memcpy(whole, p, (size_t)n * sizeof *p);
    return vld1q_f64(whole);
}
INLINE void vstore_n_r64(double *p, V_r64 a, int n)
{
    double whole[2];
    vst1q_f64(whole, a);
    memcpy(p, whole, (size_t)n * sizeof *p);
}
INLINE V_r64 vadd_r64(V_r64 a, V_r64 b) { return vaddq_f64(a, b); }
INLINE V_r64 vsub_r64(V_r64 a, V_r64 b) { return vsubq_f64(a, b); }
INLINE V_r64 vmul_r64(V_r64 a, V_r64 b) { return vmulq_f64(a, b); }
INLINE V_r64 vdiv_r64(V_r64 a, V_r64 b) { return vdivq_f64(a, b); }
INLINE V_r64 vmax_r64(V_r64 a, V_r64 b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
INLINE V_r64 vmin_r64(V_r64 a, V_r64 b) { return vbslq_f64(vcltq_f64(a, b), a, b); }
INLINE V_r64 vsqrt_r64(V_r64 a) { return vsqrtq_f64(a); }
INLINE V_r64 vfma_r64(V_r64 a, V_r64 b, V_r64 c) { return vfmaq_f64(c, a, b); }
#define vfma_in_place_r64 vfma_r64 // it has no other
INLINE V_r64 vfnma_r64(V_r64 a, V_r64 b, V_r64 c) { return vfmsq_f64(c, a, b); }
INLINE V_r64 vkeep_r64(V_r64 a, V_r64 x)
{
    return vbslq_f64(vcleq_f64(a, vdupq_n_f64(0)), vdupq_n_f64(0), x);
}
INLINE V_r64 vselect_lt_r64(V_r64 a, V_r64 b, V_r64 x, V_r64 y)
{
    return vbslq_f64(vcltq_f64(a, b), x, y);
}
INLINE double vsum_r64(V_r64 a) { return vgetq_lane_f64(a, 0) + vgetq_lane_f64(a, 1); }
INLINE double vlargest_r64(V_r64 a) { return vmaxvq_f64(a); }
INLINE uint32_t vnonzero_r64(V_r64 a)
{
    const uint64x2_t bits = {1, 2};
    return (uint32_t)vaddvq_u64(vbicq_u64(bits, vceqzq_f64(a)));
}
INLINE VI_r64 vbits_r64(V_r64 a) { return vreinterpretq_u64_f64(a); }
INLINE V_r64 vreal_r64(VI_r64 a) { return vreinterpretq_f64_u64(a); }
INLINE VI_r64 iset1_r64(uint64_t x) { return vdupq_n_u64(x); }
INLINE VI_r64 iadd_r64(VI_r64 a, VI_r64 b) { return vaddq_u64(a, b); }
INLINE VI_r64 isub_r64(VI_r64 a, VI_r64 b) { return vsubq_u64(a, b); }
INLINE VI_r64 iand_r64(VI_r64 a, VI_r64 b) { return vandq_u64(a, b); }
INLINE VI_r64 ior_r64(VI_r64 a, VI_r64 b) { return vorrq_u64(a, b); }
INLINE VI_r64 ishl_r64(VI_r64 a, int n) { return vshlq_u64(a, vdupq_n_s64(n)); }
INLINE VI_r64 ishr_r64(VI_r64 a, int n) { return vshlq_u64(a, vdupq_n_s64(-n)); }

// 2 x 2 in place
INLINE void vtranspose_r64(V_r64 *r)
{
    V_r64 low = vzip1q_f64(r[0], r[1]);
    r[1] = vzip2q_f64(r[0], r[1]);
    r[0] = low;
}

#define FM_LANES_FLOAT32 4
#define FM_LANES_FLOAT64 2
#include "both_dtypes.inc.c"
#endif
