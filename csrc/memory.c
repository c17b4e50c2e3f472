// Memory for the engines: aligned, and large blocks on large pages where the system has them.
// Rows of a batch lie kilobytes apart, so that with pages of 4 KB every row of a tile would need
// a translation of its own.
//
// What a prediction needs is kept for the next one. The C library gives blocks of a megabyte back to the
// system, which clears their pages when they are used again: a third of the time of some predictions.
#include "fastmlp.h"

#include <stdint.h>
#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if !defined(_WIN32)
#include <stdatomic.h>
#endif

enum { LINE = 64, LARGE_PAGE = 2 * 1024 * 1024 };

void *fm_allocate(size_t n_bytes)
{
#if defined(_WIN32)
    return _aligned_malloc(n_bytes, LINE);
#else
    void *memory = NULL;
    if (posix_memalign(&memory, n_bytes >= LARGE_PAGE ? LARGE_PAGE : LINE, n_bytes ? n_bytes : 1))
        return NULL;
#if defined(__linux__)
    if (n_bytes >= LARGE_PAGE)
        madvise(memory, n_bytes, MADV_HUGEPAGE); // a wish: whether it is granted does not matter
#endif
    return memory;
#endif
}

void fm_release(void *memory)
{
#if defined(_WIN32)
    _aligned_free(memory);
#else
    free(memory);
#endif
}

// Under the address sanitizer none is kept, so that it sees who reads behind the end of what was asked for.
#if defined(_WIN32) || defined(__SANITIZE_ADDRESS__)

void *fm_borrow(size_t n_bytes) { return fm_allocate(n_bytes); }
void fm_give_back(void *memory) { fm_release(memory); }

#else

// A block begins with its size, and what is lent of it a line later.
typedef union block {
    size_t n_bytes;
    char line[LINE];
} block;

enum { KEPT = 8, MOST_KEPT = 16 * 1024 * 1024 };
static _Atomic(block *) kept[KEPT]; // of the process: as many as threads predict at once, whatever with

void *fm_borrow(size_t n_bytes)
{
    if (n_bytes > SIZE_MAX - sizeof(block))
        return NULL;
    for (int i = 0; i < KEPT; i++) {
        block *found = atomic_load_explicit(&kept[i], memory_order_relaxed);
        if (!found || !(found = atomic_exchange(&kept[i], NULL)))
            continue;
        if (found->n_bytes >= n_bytes)
            return found + 1;
        fm_release(found); // one that is large enough takes its place
    }
    block *made = fm_allocate(n_bytes + sizeof(block));
    if (!made)
        return NULL;
    made->n_bytes = n_bytes;
    return made + 1;
}

void fm_give_back(void *memory)
{
    if (!memory)
        return;
    block *lent = (block *)memory - 1;
    for (int i = 0; i < KEPT && lent->n_bytes <= MOST_KEPT; i++) {
        block *none = NULL;
        if (atomic_compare_exchange_strong(&kept[i], &none, lent))
            return;
    }
    fm_release(lent);
}

#endif
