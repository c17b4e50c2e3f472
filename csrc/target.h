// What every instruction set's file begins with: which CPU this is compiled for, and how to allow
// a function instructions that not every machine has. A wheel holds all levels; dispatch.c picks.
#ifndef FM_TARGET_H
#define FM_TARGET_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define FM_X86_64 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define FM_AARCH64 1
#endif

// Asks for a cache line, for reading or for writing. To the first-level cache: hints that name the
// second do nothing on some CPUs. For writing, GCC and Clang need to be told of "prfchw"; CPUs with AVX2
// that do not know it do nothing.
#if defined(__GNUC__)
#define FM_PREFETCH(p) __builtin_prefetch(p, 0, 3)
#define FM_PREFETCH_TO_WRITE(p) __builtin_prefetch(p, 1, 3)
#else
#define FM_PREFETCH(p) ((void)(p))
#define FM_PREFETCH_TO_WRITE(p) ((void)(p))
#endif

// The number of the lowest bit that is set of x, which is not 0.
#if defined(__GNUC__)
#define FM_LOWEST_BIT(x) __builtin_ctz(x)
#else
#include <intrin.h>
static __forceinline int FM_LOWEST_BIT(uint32_t x)
{
    unsigned long i;
    _BitScanForward(&i, x);
    return (int)i;
}
#endif

#define FM_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FM_TARGET_BEGIN(names)                                                              \
    FM_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define FM_TARGET_END FM_PRAGMA(clang attribute pop)
#define FM_UNROLL FM_PRAGMA(clang loop unroll(full))
#define FM_UNROLL_TWICE FM_PRAGMA(clang loop unroll_count(2))
#elif defined(__GNUC__)
#define FM_TARGET_BEGIN(names) FM_PRAGMA(GCC push_options) FM_PRAGMA(GCC target(names))
#define FM_TARGET_END FM_PRAGMA(GCC pop_options)
#define FM_UNROLL FM_PRAGMA(GCC unroll 32)
#define FM_UNROLL_TWICE FM_PRAGMA(GCC unroll 2)
#else // MSVC lets any function use any intrinsic
#define FM_TARGET_BEGIN(names)
#define FM_TARGET_END
#define FM_UNROLL
#define FM_UNROLL_TWICE
#endif

// FM_COMPACT: every function is compiled once, not once more for each tile that it is part of. That
// is slow to run, but sanitizers add their checks to every copy, and take half an hour to compile.
#if defined(FM_COMPACT)
#undef FM_UNROLL
#undef FM_UNROLL_TWICE
#define FM_UNROLL
#define FM_UNROLL_TWICE
#endif

#if defined(FM_COMPACT)
#define INLINE static inline
#elif defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

// Writes i + first for every bit i of `bits`, in order. Returns how many.
INLINE int fm_list_bits(uint32_t *list, uint32_t bits, uint32_t first)
{
    int n = 0;
    for (; bits; bits &= bits - 1)
        list[n++] = first + (uint32_t)FM_LOWEST_BIT(bits);
    return n;
}

#endif
