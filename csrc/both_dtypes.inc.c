// The fused engine for one instruction set, float32 and float64. The including file has defined
// FM_LEVEL, FM_PANEL (vectors of outputs of the widest tile), FM_ROWS(NV) (of the tallest tile of NV
// vectors), FM_MOST_ROWS (the largest of them), FM_ONE_ROW (vectors of outputs of a single row; 8 to 16),
// FM_FEW_ROWS (so many go likewise; at most 4), FM_SMALL_BATCH (rows up to which weights are updated at once),
// FM_REGISTERS, FM_LANES_FLOAT32, FM_LANES_FLOAT64 and the operations on vectors; and for the caches of the
// CPUs that have it FM_BLOCK (columns of a block of activations; 16 or 32),
// FM_CACHE_1, FM_CACHE (bytes that one thread may count on of the first- and of the second-level cache),
// FM_ROWS_AT_LEAST (so many rows go through a layer at a time at least, to be worth reading its weights).

#define real float
#define R(name) name##_r32
#define FM_REAL_BITS 32
#define FM_LANES FM_LANES_FLOAT32
#define FM_SUM_OF_SQUARES fm_sum_of_squares_float32
#include "fused.inc.c"
#undef real
#undef R
#undef FM_REAL_BITS
#undef FM_LANES
#undef FM_SUM_OF_SQUARES

#define real double
#define R(name) name##_r64
#define FM_REAL_BITS 64
#define FM_LANES FM_LANES_FLOAT64
#define FM_SUM_OF_SQUARES fm_sum_of_squares_float64
#include "fused.inc.c"
#undef real
#undef R
#undef FM_REAL_BITS
#undef FM_LANES
#undef FM_SUM_OF_SQUARES

#define FM_JOIN_(a, b) a##b
#define FM_JOIN(a, b) FM_JOIN_(a, b)

const fm_level FM_JOIN(fm_level_, FM_LEVEL) = {
    {&functions_r32, &functions_r64},
};
