// Memory for the engines: aligned, and large blocks on large pages where the system has them.
// Rows of a batch lie kilobytes apart, so that with pages of 4 KB every row of a tile would need
// a translation of its own.
#include "fastmlp.h"

#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
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
