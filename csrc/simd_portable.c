// Plain C: four numbers in a struct for a vector, fma() of the C library. Slow where the CPU has no
// fused multiply-add, and the same bits as every other level. Every function is compiled once: with a
// copy for each tile it would be 5 % faster, and four times as large.
#ifndef FM_COMPACT
#define FM_COMPACT
#endif
#include "target.h"
#include <math.h>
#include <string.h>

#define FM_LEVEL portable
#define FM_PANEL 2
#define FM_ROWS(NV) ((NV) == 2 ? 4 : 8)
#define FM_MOST_ROWS 8
#define FM_REGISTERS 16
#define FM_ONE_ROW 8
#define FM_FEW_ROWS 1
#define FM_SMALL_BATCH 64
#define FM_BLOCK 32
#define FM_CACHE_1 (36 * 1024)
#define FM_CACHE (576 * 1024)
#define FM_ROWS_AT_LEAST 512

#define vfma_in_place_r32 vfma_r32
#define vfma_in_place_r64 vfma_r64

enum { LANES = 4 };
typedef struct { float x[LANES]; } V_r32;
typedef struct { uint32_t x[LANES]; } VI_r32;
typedef struct { double x[LANES]; } V_r64;
typedef struct { uint64_t x[LANES]; } VI_r64;

#define list_bits fm_list_bits

// A function whose lane i is `expression`.
#define LANEWISE(result, name, parameters, expression) \
    INLINE result name parameters                      \
    {                                                  \
        result r;                                      \
        for (int i = 0; i < LANES; i++)                \
            r.x[i] = expression;                       \
        return r;                                      \
    }

#define OPERATIONS(t, real, bits, fma_, sqrt_)                                                   \
    LANEWISE(V_##t, vset1_##t, (real a), a)                                                      \
    LANEWISE(V_##t, vload_##t, (const real *p), p[i])                                            \
    LANEWISE(V_##t, vload_n_##t, (const real *p, int n), i < n ? p[i] : 0)                       \
    INLINE void vstore_##t(real *p, V_##t a) { memcpy(p, a.x, sizeof a.x); }                     \
    INLINE void vstore_n_##t(real *p, V_##t a, int n) { memcpy(p, a.x, (size_t)n * sizeof *p); } \
    LANEWISE(V_##t, vadd_##t, (V_##t a, V_##t b), a.x[i] + b.x[i])                               \
    LANEWISE(V_##t, vsub_##t, (V_##t a, V_##t b), a.x[i] - b.x[i])                               \
    LANEWISE(V_##t, vmul_##t, (V_##t a, V_##t b), a.x[i] * b.x[i])                               \
    LANEWISE(V_##t, vdiv_##t, (V_##t a, V_##t b), a.x[i] / b.x[i])                               \
    LANEWISE(V_##t, vmax_##t, (V_##t a, V_##t b), a.x[i] > b.x[i] ? a.x[i] : b.x[i])             \
    LANEWISE(V_##t, vmin_##t, (V_##t a, V_##t b), a.x[i] < b.x[i] ? a.x[i] : b.x[i])             \
    LANEWISE(V_##t, vsqrt_##t, (V_##t a), sqrt_(a.x[i]))                                         \
    LANEWISE(V_##t, vfma_##t, (V_##t a, V_##t b, V_##t c), fma_(a.x[i], b.x[i], c.x[i]))         \
    LANEWISE(V_##t, vfnma_##t, (V_##t a, V_##t b, V_##t c), fma_(-a.x[i], b.x[i], c.x[i]))       \
    LANEWISE(V_##t, vkeep_##t, (V_##t a, V_##t b), a.x[i] <= 0 ? 0 : b.x[i])                     \
    LANEWISE(V_##t, vselect_lt_##t, (V_##t a, V_##t b, V_##t c, V_##t d),                        \
             a.x[i] < b.x[i] ? c.x[i] : d.x[i])                                                  \
    INLINE real vsum_##t(V_##t a) { return (a.x[0] + a.x[2]) + (a.x[1] + a.x[3]); }              \
    INLINE real vlargest_##t(V_##t a)                                                            \
    {                                                                                            \
        real r = a.x[0];                                                                         \
        for (int i = 1; i < LANES; i++)                                                          \
            r = a.x[i] > r ? a.x[i] : r;                                                         \
        return r;                                                                                \
    }                                                                                            \
    INLINE uint32_t vnonzero_##t(V_##t a)                                                        \
    {                                                                                            \
        uint32_t set = 0;                                                                        \
        for (int i = 0; i < LANES; i++)                                                          \
            set |= (uint32_t)(a.x[i] != 0) << i;                                                 \
        return set;                                                                              \
    }                                                                                            \
    INLINE VI_##t vbits_##t(V_##t a) { VI_##t r; memcpy(&r, &a, sizeof r); return r; }             \
    INLINE V_##t vreal_##t(VI_##t a) { V_##t r; memcpy(&r, &a, sizeof r); return r; }             \
    LANEWISE(VI_##t, iset1_##t, (bits a), a)                                                      \
    LANEWISE(VI_##t, iadd_##t, (VI_##t a, VI_##t b), a.x[i] + b.x[i])                               \
    LANEWISE(VI_##t, isub_##t, (VI_##t a, VI_##t b), a.x[i] - b.x[i])                               \
    LANEWISE(VI_##t, iand_##t, (VI_##t a, VI_##t b), a.x[i] & b.x[i])                               \
    LANEWISE(VI_##t, ior_##t, (VI_##t a, VI_##t b), a.x[i] | b.x[i])                                \
    LANEWISE(VI_##t, ishl_##t, (VI_##t a, int n), a.x[i] << n)                                     \
    LANEWISE(VI_##t, ishr_##t, (VI_##t a, int n), a.x[i] >> n)                                    \
    INLINE void vtranspose_##t(V_##t *r)                                                         \
    {                                                                                            \
        V_##t columns[LANES];                                                                    \
        for (int i = 0; i < LANES; i++)                                                          \
            for (int j = 0; j < LANES; j++)                                                      \
                columns[j].x[i] = r[i].x[j];                                                     \
        memcpy(r, columns, sizeof columns);                                                      \
    }

OPERATIONS(r32, float, uint32_t, fmaf, sqrtf)
OPERATIONS(r64, double, uint64_t, fma, sqrt)

#define FM_LANES_FLOAT32 LANES
#define FM_LANES_FLOAT64 LANES
#include "both_dtypes.inc.c"
