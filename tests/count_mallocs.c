// Preloaded into a process, counts its allocations: those of OpenBLAS, some of whose kernels for
// small matrices take a buffer at every call, apart from all others.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_long blas, others;
static atomic_int counting;

static void count(const void *caller)
{
    Dl_info info;
    if (!counting)
        return;
    int known = dladdr(caller, &info) && info.dli_fname;
    if (known && strstr(info.dli_fname, "openblas"))
        blas++;
    else
        others++;
}

#define CALLER __builtin_return_address(0)

void start_counting(void) { blas = others = 0; counting = 1; }
long counted_blas(void) { counting = 0; return blas; }
long counted_others(void) { counting = 0; return others; }

void *malloc(size_t n) { count(CALLER); return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { count(CALLER); return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { count(CALLER); return __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { count(CALLER); return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n)
{
    count(CALLER);
    *p = __libc_memalign(a, n);
    return *p ? 0 : 12;
}
