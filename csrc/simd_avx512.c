// AVX-512F: 16 floats or 8 doubles to a vector.
#include "target.h"
#if FM_X86_64
FM_TARGET_BEGIN("avx512f,avx2,fma,popcnt,prfchw")
#include <immintrin.h>

#define FM_LEVEL avx512
#define FM_PANEL 3
#define FM_ROWS(NV) ((NV) == 3 ? 8 : (NV) == 2 ? 12 : 16)
#define FM_MOST_ROWS 16
#define FM_REGISTERS 32
#define FM_ONE_ROW 16
#define FM_FEW_ROWS 4
#define FM_SMALL_BATCH 32
#define FM_BLOCK 32
#define FM_CACHE_1 (36 * 1024)
#define FM_CACHE (576 * 1024)
#define FM_ROWS_AT_LEAST 512
#define FM_STORES_WHERE 1

// Writes i + first for every bit i of `bits`, in order, and perhaps 16 numbers more. Returns how many.
INLINE int list_bits(uint32_t *list, uint32_t bits, uint32_t first)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i low = _mm512_add_epi32(_mm512_set1_epi32((int)first), lanes);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(16));
    const int n_low = _mm_popcnt_u32(bits & 0xffff);
    _mm512_storeu_si512(list, _mm512_maskz_compress_epi32((__mmask16)bits, low));
    _mm512_storeu_si512(list + n_low, _mm512_maskz_compress_epi32((__mmask16)(bits >> 16), high));
    return n_low + _mm_popcnt_u32(bits >> 16);
}

// -- float32

typedef __m512 V_r32;
typedef __m512i VI_r32;
INLINE V_r32 vset1_r32(float x) { return _mm512_set1_ps(x); }
INLINE V_r32 vload_r32(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vstore_r32(float *p, V_r32 a) { _mm512_storeu_ps(p, a); }
INLINE V_r32 vload_n_r32(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void vstore_n_r32(float *p, V_r32 a, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}
INLINE V_r32 vadd_r32(V_r32 a, V_r32 b) { return _mm512_add_ps(a, b); }
INLINE V_r32 vsub_r32(V_r32 a, V_r32 b) { return _mm512_sub_ps(a, b); }
INLINE V_r32 vmul_r32(V_r32 a, V_r32 b) { return _mm512_mul_ps(a, b); }
INLINE V_r32 vdiv_r32(V_r32 a, V_r32 b) { return _mm512_div_ps(a, b); }
INLINE V_r32 vmax_r32(V_r32 a, V_r32 b) { return _mm512_max_ps(a, b); }
INLINE V_r32 vmin_r32(V_r32 a, V_r32 b) { return _mm512_min_ps(a, b); }
INLINE V_r32 vsqrt_r32(V_r32 a) { return _mm512_sqrt_ps(a); }
INLINE V_r32 vfma_r32(V_r32 a, V_r32 b, V_r32 c) { return _mm512_fmadd_ps(a, b, c); }
// The same, left where c was: compilers that may choose move sums from register to register, or to memory.
INLINE V_r32 vfma_in_place_r32(V_r32 a, V_r32 b, V_r32 c)
{
#if defined(__GNUC__)
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#else
    return vfma_r32(a, b, c);
#endif
}
INLINE V_r32 vfnma_r32(V_r32 a, V_r32 b, V_r32 c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE V_r32 vkeep_r32(V_r32 a, V_r32 x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NLE_UQ), x);
}
INLINE V_r32 vselect_lt_r32(V_r32 a, V_r32 b, V_r32 x, V_r32 y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
INLINE float vsum_r32(V_r32 a)
{
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), high);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float vlargest_r32(V_r32 a) { return _mm512_reduce_max_ps(a); }
// Stores the lanes whose bit is set, one behind the other, and perhaps more. Returns how many.
INLINE int vstore_where_r32(float *p, V_r32 a, uint32_t bits)
{
    _mm512_storeu_ps(p, _mm512_maskz_compress_ps((__mmask16)bits, a));
    return _mm_popcnt_u32(bits);
}
INLINE uint32_t vnonzero_r32(V_r32 a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
INLINE VI_r32 vbits_r32(V_r32 a) { return _mm512_castps_si512(a); }
INLINE V_r32 vreal_r32(VI_r32 a) { return _mm512_castsi512_ps(a); }
INLINE VI_r32 iset1_r32(uint32_t x) { return _mm512_set1_epi32((int)x); }
INLINE VI_r32 iadd_r32(VI_r32 a, VI_r32 b) { return _mm512_add_epi32(a, b); }
INLINE VI_r32 isub_r32(VI_r32 a, VI_r32 b) { return _mm512_sub_epi32(a, b); }
INLINE VI_r32 iand_r32(VI_r32 a, VI_r32 b) { return _mm512_and_si512(a, b); }
INLINE VI_r32 ior_r32(VI_r32 a, VI_r32 b) { return _mm512_or_si512(a, b); }
INLINE VI_r32 ishl_r32(VI_r32 a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
INLINE VI_r32 ishr_r32(VI_r32 a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }

// 16 x 16 in place
INLINE void vtranspose_r32(V_r32 *r)
{
    V_r32 t[16];
    FM_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    FM_UNROLL
    for (int i = 0; i < 16; i += 4)
        FM_UNROLL
        for (int j = 0; j < 2; j++) {
            __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    FM_UNROLL
    for (int j = 0; j < 4; j++) {
        t[4 * j] = _mm512_shuffle_f32x4(r[j], r[j + 4], 0x44);
        t[4 * j + 1] = _mm512_shuffle_f32x4(r[j], r[j + 4], 0xee);
        t[4 * j + 2] = _mm512_shuffle_f32x4(r[j + 8], r[j + 12], 0x44);
        t[4 * j + 3] = _mm512_shuffle_f32x4(r[j + 8], r[j + 12], 0xee);
    }
    FM_UNROLL
    for (int j = 0; j < 4; j++) {
        r[j] = _mm512_shuffle_f32x4(t[4 * j], t[4 * j + 2], 0x88);
        r[j + 4] = _mm512_shuffle_f32x4(t[4 * j], t[4 * j + 2], 0xdd);
        r[j + 8] = _mm512_shuffle_f32x4(t[4 * j + 1], t[4 * j + 3], 0x88);
        r[j + 12] = _mm512_shuffle_f32x4(t[4 * j + 1], t[4 * j + 3], 0xdd);
    }
}

// -- float64

typedef __m512d V_r64;
typedef __m512i VI_r64;
INLINE V_r64 vset1_r64(double x) { return _mm512_set1_pd(x); }
INLINE V_r64 vload_r64(const double *p) { return _mm512_loadu_pd(p); }
INLINE void vstore_r64(double *p, V_r64 a) { _mm512_storeu_pd(p, a); }
INLINE V_r64 vload_n_r64(const double *p, int n)
{
    return _mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}
INLINE void vstore_n_r64(double *p, V_r64 a, int n)
{
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), a);
}
INLINE V_r64 vadd_r64(V_r64 a, V_r64 b) { return _mm512_add_pd(a, b); }
INLINE V_r64 vsub_r64(V_r64 a, V_r64 b) { return _mm512_sub_pd(a, b); }
INLINE V_r64 vmul_r64(V_r64 a, V_r64 b) { return _mm512_mul_pd(a, b); }
INLINE V_r64 vdiv_r64(V_r64 a, V_r64 b) { return _mm512_div_pd(a, b); }
INLINE V_r64 vmax_r64(V_r64 a, V_r64 b) { return _mm512_max_pd(a, b); }
INLINE V_r64 vmin_r64(V_r64 a, V_r64 b) { return _mm512_min_pd(a, b); }
INLINE V_r64 vsqrt_r64(V_r64 a) { return _mm512_sqrt_pd(a); }
INLINE V_r64 vfma_r64(V_r64 a, V_r64 b, V_r64 c) { return _mm512_fmadd_pd(a, b, c); }
INLINE V_r64 vfma_in_place_r64(V_r64 a, V_r64 b, V_r64 c)
{
#if defined(__GNUC__)
    __asm__("vfmadd231pd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#else
    return vfma_r64(a, b, c);
#endif
}
INLINE V_r64 vfnma_r64(V_r64 a, V_r64 b, V_r64 c) { return _mm512_fnmadd_pd(a, b, c); }
INLINE V_r64 vkeep_r64(V_r64 a, V_r64 x)
{
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NLE_UQ), x);
}
INLINE V_r64 vselect_lt_r64(V_r64 a, V_r64 b, V_r64 x, V_r64 y)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), y, x);
}
INLINE double vsum_r64(V_r64 a)
{
    __m256d half = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
INLINE double vlargest_r64(V_r64 a) { return _mm512_reduce_max_pd(a); }
INLINE int vstore_where_r64(double *p, V_r64 a, uint32_t bits)
{
    _mm512_storeu_pd(p, _mm512_maskz_compress_pd((__mmask8)bits, a));
    return _mm_popcnt_u32(bits);
}
INLINE uint32_t vnonzero_r64(V_r64 a) { return _mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NEQ_UQ); }
INLINE VI_r64 vbits_r64(V_r64 a) { return _mm512_castpd_si512(a); }
INLINE V_r64 vreal_r64(VI_r64 a) { return _mm512_castsi512_pd(a); }
INLINE VI_r64 iset1_r64(uint64_t x) { return _mm512_set1_epi64((long long)x); }
INLINE VI_r64 iadd_r64(VI_r64 a, VI_r64 b) { return _mm512_add_epi64(a, b); }
INLINE VI_r64 isub_r64(VI_r64 a, VI_r64 b) { return _mm512_sub_epi64(a, b); }
INLINE VI_r64 iand_r64(VI_r64 a, VI_r64 b) { return _mm512_and_si512(a, b); }
INLINE VI_r64 ior_r64(VI_r64 a, VI_r64 b) { return _mm512_or_si512(a, b); }
INLINE VI_r64 ishl_r64(VI_r64 a, int n) { return _mm512_slli_epi64(a, (unsigned)n); }
INLINE VI_r64 ishr_r64(VI_r64 a, int n) { return _mm512_srli_epi64(a, (unsigned)n); }

// 8 x 8 in place
INLINE void vtranspose_r64(V_r64 *r)
{
    V_r64 t[8], u[4];
    FM_UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_pd(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
    }
    FM_UNROLL
    for (int j = 0; j < 2; j++) {
        u[0] = _mm512_shuffle_f64x2(t[j], t[j + 2], 0x44);
        u[1] = _mm512_shuffle_f64x2(t[j], t[j + 2], 0xee);
        u[2] = _mm512_shuffle_f64x2(t[j + 4], t[j + 6], 0x44);
        u[3] = _mm512_shuffle_f64x2(t[j + 4], t[j + 6], 0xee);
        r[j] = _mm512_shuffle_f64x2(u[0], u[2], 0x88);
        r[j + 2] = _mm512_shuffle_f64x2(u[0], u[2], 0xdd);
        r[j + 4] = _mm512_shuffle_f64x2(u[1], u[3], 0x88);
        r[j + 6] = _mm512_shuffle_f64x2(u[1], u[3], 0xdd);
    }
}

#define FM_LANES_FLOAT32 16
#define FM_LANES_FLOAT64 8
#include "both_dtypes.inc.c"

FM_TARGET_END
#endif
