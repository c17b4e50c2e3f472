// AVX2 and FMA: 8 floats or 4 doubles to a vector.
#include "target.h"
#if FM_X86_64
FM_TARGET_BEGIN("avx2,fma,prfchw")
#include <immintrin.h>

#define FM_LEVEL avx2
#define FM_PANEL 2
#define FM_ROWS(NV) ((NV) == 2 ? 6 : 12)
#define FM_MOST_ROWS 12
#define FM_REGISTERS 16
#define FM_ONE_ROW 8
#define FM_FEW_ROWS 3
#define FM_SMALL_BATCH 64
#define FM_BLOCK 16
#define FM_CACHE_1 (16 * 1024)
#define FM_CACHE (256 * 1024)
#define FM_ROWS_AT_LEAST 336

#define list_bits fm_list_bits

// -- float32

typedef __m256 V_r32;
typedef __m256i VI_r32;
INLINE V_r32 vset1_r32(float x) { return _mm256_set1_ps(x); }
INLINE V_r32 vload_r32(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vstore_r32(float *p, V_r32 a) { _mm256_storeu_ps(p, a); }
INLINE VI_r32 first_f32(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE V_r32 vload_n_r32(const float *p, int n) { return _mm256_maskload_ps(p, first_f32(n)); }
INLINE void vstore_n_r32(float *p, V_r32 a, int n) { _mm256_maskstore_ps(p, first_f32(n), a); }
INLINE V_r32 vadd_r32(V_r32 a, V_r32 b) { return _mm256_add_ps(a, b); }
INLINE V_r32 vsub_r32(V_r32 a, V_r32 b) { return _mm256_sub_ps(a, b); }
INLINE V_r32 vmul_r32(V_r32 a, V_r32 b) { return _mm256_mul_ps(a, b); }
INLINE V_r32 vdiv_r32(V_r32 a, V_r32 b) { return _mm256_div_ps(a, b); }
INLINE V_r32 vmax_r32(V_r32 a, V_r32 b) { return _mm256_max_ps(a, b); }
INLINE V_r32 vmin_r32(V_r32 a, V_r32 b) { return _mm256_min_ps(a, b); }
INLINE V_r32 vsqrt_r32(V_r32 a) { return _mm256_sqrt_ps(a); }
INLINE V_r32 vfma_r32(V_r32 a, V_r32 b, V_r32 c) { return _mm256_fmadd_ps(a, b, c); }
#define vfma_in_place_r32 vfma_r32 // with few registers, b had better stay in memory
INLINE V_r32 vfnma_r32(V_r32 a, V_r32 b, V_r32 c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE V_r32 vkeep_r32(V_r32 a, V_r32 x)
{
    return _mm256_and_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NLE_UQ), x);
}
INLINE V_r32 vselect_lt_r32(V_r32 a, V_r32 b, V_r32 x, V_r32 y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
INLINE float vsum_r32(V_r32 a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float vlargest_r32(V_r32 a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
INLINE uint32_t vnonzero_r32(V_r32 a)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ));
}
INLINE VI_r32 vbits_r32(V_r32 a) { return _mm256_castps_si256(a); }
INLINE V_r32 vreal_r32(VI_r32 a) { return _mm256_castsi256_ps(a); }
INLINE VI_r32 iset1_r32(uint32_t x) { return _mm256_set1_epi32((int)x); }
INLINE VI_r32 iadd_r32(VI_r32 a, VI_r32 b) { return _mm256_add_epi32(a, b); }
INLINE VI_r32 isub_r32(VI_r32 a, VI_r32 b) { return _mm256_sub_epi32(a, b); }
INLINE VI_r32 iand_r32(VI_r32 a, VI_r32 b) { return _mm256_and_si256(a, b); }
INLINE VI_r32 ior_r32(VI_r32 a, VI_r32 b) { return _mm256_or_si256(a, b); }
INLINE VI_r32 ishl_r32(VI_r32 a, int n) { return _mm256_slli_epi32(a, n); }
INLINE VI_r32 ishr_r32(VI_r32 a, int n) { return _mm256_srli_epi32(a, n); }

// 8 x 8 in place
INLINE void vtranspose_r32(V_r32 *r)
{
    V_r32 t[8];
    FM_UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    FM_UNROLL
    for (int i = 0; i < 8; i += 4)
        FM_UNROLL
        for (int j = 0; j < 2; j++) {
            __m256d a = _mm256_castps_pd(t[i + j]), b = _mm256_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        }
    FM_UNROLL
    for (int j = 0; j < 4; j++) {
        t[j] = _mm256_permute2f128_ps(r[j], r[j + 4], 0x20);
        t[j + 4] = _mm256_permute2f128_ps(r[j], r[j + 4], 0x31);
    }
    FM_UNROLL
    for (int j = 0; j < 8; j++)
        r[j] = t[j];
}

// -- float64

typedef __m256d V_r64;
typedef __m256i VI_r64;
INLINE V_r64 vset1_r64(double x) { return _mm256_set1_pd(x); }
INLINE V_r64 vload_r64(const double *p) { return _mm256_loadu_pd(p); }
INLINE void vstore_r64(double *p, V_r64 a) { _mm256_storeu_pd(p, a); }
INLINE VI_r64 first_f64(int n)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
INLINE V_r64 vload_n_r64(const double *p, int n) { return _mm256_maskload_pd(p, first_f64(n)); }
INLINE void vstore_n_r64(double *p, V_r64 a, int n) { _mm256_maskstore_pd(p, first_f64(n), a); }
INLINE V_r64 vadd_r64(V_r64 a, V_r64 b) { return _mm256_add_pd(a, b); }
INLINE V_r64 vsub_r64(V_r64 a, V_r64 b) { return _mm256_sub_pd(a, b); }
INLINE V_r64 vmul_r64(V_r64 a, V_r64 b) { return _mm256_mul_pd(a, b); }
INLINE V_r64 vdiv_r64(V_r64 a, V_r64 b) { return _mm256_div_pd(a, b); }
INLINE V_r64 vmax_r64(V_r64 a, V_r64 b) { return _mm256_max_pd(a, b); }
INLINE V_r64 vmin_r64(V_r64 a, V_r64 b) { return _mm256_min_pd(a, b); }
INLINE V_r64 vsqrt_r64(V_r64 a) { return _mm256_sqrt_pd(a); }
INLINE V_r64 vfma_r64(V_r64 a, V_r64 b, V_r64 c) { return _mm256_fmadd_pd(a, b, c); }
#define vfma_in_place_r64 vfma_r64
INLINE V_r64 vfnma_r64(V_r64 a, V_r64 b, V_r64 c) { return _mm256_fnmadd_pd(a, b, c); }
INLINE V_r64 vkeep_r64(V_r64 a, V_r64 x)
{
    return _mm256_and_pd(_mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_NLE_UQ), x);
}
INLINE V_r64 vselect_lt_r64(V_r64 a, V_r64 b, V_r64 x, V_r64 y)
{
    return _mm256_blendv_pd(y, x, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
}
INLINE double vsum_r64(V_r64 a)
{
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
INLINE double vlargest_r64(V_r64 a)
{
    __m128d s = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(s, _mm_unpackhi_pd(s, s)));
}
INLINE uint32_t vnonzero_r64(V_r64 a)
{
    return (uint32_t)_mm256_movemask_pd(_mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_NEQ_UQ));
}
INLINE VI_r64 vbits_r64(V_r64 a) { return _mm256_castpd_si256(a); }
INLINE V_r64 vreal_r64(VI_r64 a) { return _mm256_castsi256_pd(a); }
INLINE VI_r64 iset1_r64(uint64_t x) { return _mm256_set1_epi64x((long long)x); }
INLINE VI_r64 iadd_r64(VI_r64 a, VI_r64 b) { return _mm256_add_epi64(a, b); }
INLINE VI_r64 isub_r64(VI_r64 a, VI_r64 b) { return _mm256_sub_epi64(a, b); }
INLINE VI_r64 iand_r64(VI_r64 a, VI_r64 b) { return _mm256_and_si256(a, b); }
INLINE VI_r64 ior_r64(VI_r64 a, VI_r64 b) { return _mm256_or_si256(a, b); }
INLINE VI_r64 ishl_r64(VI_r64 a, int n) { return _mm256_slli_epi64(a, n); }
INLINE VI_r64 ishr_r64(VI_r64 a, int n) { return _mm256_srli_epi64(a, n); }

// 4 x 4 in place
INLINE void vtranspose_r64(V_r64 *r)
{
    V_r64 a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    V_r64 c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    r[0] = _mm256_permute2f128_pd(a, c, 0x20);
    r[1] = _mm256_permute2f128_pd(b, d, 0x20);
    r[2] = _mm256_permute2f128_pd(a, c, 0x31);
    r[3] = _mm256_permute2f128_pd(b, d, 0x31);
}

#define FM_LANES_FLOAT32 8
#define FM_LANES_FLOAT64 4
#include "both_dtypes.inc.c"

FM_TARGET_END
#endif
