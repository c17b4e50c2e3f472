// Preloaded into a process, counts the allocations of some of its libraries and has the n-th fail,
// or the n-th start of a thread. So it is the very modules that ship which are tested, not a build
// made for it. An allocation belongs to the library that calls malloc or its kin.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

// Where allocations come from: our modules, BLAS, the interpreter (which has pools of its own unless
// PYTHONMALLOC=malloc), all others; NumPy for its arrays; threads that our modules start; and what
// the interpreter takes on behalf of our modules, which is counted as its own.
enum { OURS, BLAS, PYTHON, OTHERS, ARRAYS, THREADS, BEHALF, KINDS };

enum { MOST_RANGES = 1024 };
static struct range {
    uintptr_t start, end;
    int kind;
} ranges[MOST_RANGES];
static int n_ranges;

static atomic_long taken[KINDS], given_back[KINDS];
static atomic_int counting, kinds_to_fail;          // bits 1 << kind; 0: none
static atomic_long calls, first_to_fail, last_to_fail;

// The blocks that were taken and not given back, each with its kind in the bits that alignment
// leaves free: a hash table with linear probing. Who frees a block does not tell whose it was.
enum { MOST_BLOCKS = 1 << 20 };
static uintptr_t blocks[MOST_BLOCKS];
static long n_blocks;
static atomic_flag busy = ATOMIC_FLAG_INIT;

static size_t home(uintptr_t block)
{
    return (size_t)((block >> 4) * 0x9E3779B97F4A7C15u >> 44);
}

static void lock(void)
{
    while (atomic_flag_test_and_set(&busy))
        ;
}

static void remember(void *block, int kind)
{
    taken[kind]++;
    lock();
    if (++n_blocks == MOST_BLOCKS)
        abort();
    size_t i = home((uintptr_t)block);
    while (blocks[i])
        i = (i + 1) % MOST_BLOCKS;
    blocks[i] = (uintptr_t)block | kind;
    atomic_flag_clear(&busy);
}

// Whether the block was known.
static int forget(void *block)
{
    lock();
    size_t i = home((uintptr_t)block), next;
    while (blocks[i] && (blocks[i] & ~(uintptr_t)15) != (uintptr_t)block)
        i = (i + 1) % MOST_BLOCKS;
    int known = blocks[i] != 0;
    if (known) {
        given_back[blocks[i] & 15]++;
        n_blocks--;
        // What follows moves up where its home lies before the gap.
        for (next = (i + 1) % MOST_BLOCKS; blocks[next]; next = (next + 1) % MOST_BLOCKS) {
            size_t at = home(blocks[next] & ~(uintptr_t)15);
            if ((next - at) % MOST_BLOCKS >= (next - i) % MOST_BLOCKS) {
                blocks[i] = blocks[next];
                i = next;
            }
        }
        blocks[i] = 0;
    }
    atomic_flag_clear(&busy);
    return known;
}

static int kind_of_library(const char *name)
{
    if (strstr(name, "openblas"))
        return BLAS;
    if (strstr(name, "/fastmlp/_"))
        return OURS;
    // "" is the program; this library is passed over with the interpreter, on the way to who called
    if (*name == 0 || strstr(name, "libpython") || strstr(name, "/faults.so"))
        return PYTHON;
    return OTHERS;
}

static int add_ranges(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    int kind = kind_of_library(info->dlpi_name);
    for (int i = 0; kind != OTHERS && i < info->dlpi_phnum && n_ranges < MOST_RANGES; i++) {
        if (info->dlpi_phdr[i].p_type != PT_LOAD || !(info->dlpi_phdr[i].p_flags & PF_X))
            continue;
        uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        ranges[n_ranges++] = (struct range){start, start + info->dlpi_phdr[i].p_memsz, kind};
    }
    return 0;
}

// Looks which libraries are loaded, and begins to count at zero. To be called when all are.
void start_counting(void)
{
    n_ranges = 0;
    void *frame;
    backtrace(&frame, 1); // which allocates, the first time
    dl_iterate_phdr(add_ranges, NULL);
    lock();
    for (int kind = 0; kind < KINDS; kind++)
        taken[kind] = given_back[kind] = 0;
    memset(blocks, 0, sizeof blocks);
    n_blocks = 0;
    counting = 1;
    atomic_flag_clear(&busy);
}

void stop_counting(void) { counting = 0; }

long allocations(int kind) { return taken[kind]; }
long live(int kind) { return taken[kind] - given_back[kind]; }

// From now on the n-th call of these kinds fails, n from 1, and `more` calls after it.
void fail_nth(int kinds, long n, long more)
{
    calls = 0;
    first_to_fail = n;
    last_to_fail = n + more;
    kinds_to_fail = kinds;
}

// No more failures; returns how many calls there were that could have failed.
long stop_failing(void)
{
    kinds_to_fail = 0;
    return calls;
}

static int kind_of(const void *caller)
{
    uintptr_t place = (uintptr_t)caller;
    for (int i = 0; i < n_ranges; i++)
        if (ranges[i].start <= place && place < ranges[i].end)
            return ranges[i].kind;
    return OTHERS;
}

// Whether it is a module of ours that has called into the interpreter.
static int on_our_behalf(void)
{
    enum { DEPTH = 32 };
    void *frames[DEPTH];
    int n = backtrace(frames, DEPTH), i = 0;
    while (i < n && kind_of(frames[i]) == PYTHON)
        i++;
    return i < n && kind_of(frames[i]) == OURS;
}

static int fails(int kind)
{
    if (kind == PYTHON && kinds_to_fail >> BEHALF & 1 && on_our_behalf())
        kind = BEHALF;
    if (!(kinds_to_fail >> kind & 1))
        return 0;
    long call = ++calls;
    return first_to_fail <= call && call <= last_to_fail;
}

static void *counted(void *block, int kind)
{
    if (block && counting)
        remember(block, kind);
    return block;
}

static void *no_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

static void *allocate(size_t n, int kind)
{
    return fails(kind) ? no_memory() : counted(__libc_malloc(n), kind);
}

static void *allocate_zeros(size_t n, size_t size, int kind)
{
    return fails(kind) ? no_memory() : counted(__libc_calloc(n, size), kind);
}

static void *allocate_aligned(size_t alignment, size_t n, int kind)
{
    return fails(kind) ? no_memory() : counted(__libc_memalign(alignment, n), kind);
}

static void *reallocate(void *p, size_t n, int kind)
{
    if (fails(kind))
        return no_memory();
    int known = counting && (!p || forget(p));
    void *block = __libc_realloc(p, n);
    if (known && (block || (p && n)))
        remember(block ? block : p, kind); // a block that cannot grow stays what it was
    return block;
}

void free(void *p)
{
    if (p && counting)
        forget(p);
    __libc_free(p);
}

#define KIND kind_of(__builtin_return_address(0))

void *malloc(size_t n) { return allocate(n, KIND); }
void *calloc(size_t n, size_t size) { return allocate_zeros(n, size, KIND); }
void *realloc(void *p, size_t n) { return reallocate(p, n, KIND); }
void *aligned_alloc(size_t alignment, size_t n) { return allocate_aligned(alignment, n, KIND); }
int posix_memalign(void **p, size_t alignment, size_t n)
{
    void *block = allocate_aligned(alignment, n, KIND);
    if (!block)
        return ENOMEM;
    *p = block;
    return 0;
}

static void *array_malloc(void *x, size_t n) { (void)x; return allocate(n, ARRAYS); }
static void *array_calloc(void *x, size_t n, size_t size)
{
    (void)x;
    return allocate_zeros(n, size, ARRAYS);
}
static void *array_realloc(void *x, void *p, size_t n) { (void)x; return reallocate(p, n, ARRAYS); }
static void array_free(void *x, void *p, size_t n) { (void)x, (void)n; free(p); }

// What NumPy calls a PyDataMem_Handler. Its other allocations are none of ours to fail: some it
// makes without the GIL, and then cannot say that they failed.
const struct {
    char name[127];
    uint8_t version;
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *, size_t);
} array_handler = {"faults", 1, NULL, array_malloc, array_calloc, array_realloc, array_free};

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*start)(void *), void *x)
{
    static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!create)
        *(void **)&create = dlsym(RTLD_NEXT, "pthread_create");
    if (KIND != OURS)
        return create(thread, how, start, x);
    if (fails(THREADS))
        return EAGAIN;
    int failed = create(thread, how, start, x);
    if (!failed)
        taken[THREADS]++;
    return failed;
}
