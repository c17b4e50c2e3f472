// Trains small networks in several threads at once, each by teams that change between the steps, some
// of them across a fork, and compares every result to the bit with that of one thread; between them it has
// parts of a piece of work shared out. For test_sanitizers.py. Arguments: the instruction set, and how many networks each caller trains.
#include "fastmlp.h"
#include "pool.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLERS = 4, MAX_WORKERS = 7, MAX_LAYERS = 3, ROWS = 40, STEPS = 6, LARGEST = 150, WIDE = 300,
       MOST_PARTS = 40 };

// Under the thread sanitizer a child that was forked beside threads cannot make others; under the
// address sanitizer the allocator that they need may have been locked by another thread as it forked.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { CHILD_TEAMS = 0 };
#else
enum { CHILD_TEAMS = 1 };
#endif

static const fm_engine *engine;
static int n_networks;

static void stop(const char *why)
{
    fprintf(stderr, "%s\n", why);
    exit(1);
}

static void *memory(size_t n_bytes)
{
    void *found = fm_allocate(n_bytes);
    if (!found)
        stop("no memory");
    memset(found, 0, n_bytes);
    return found;
}

// Another number below n at every call.
static ptrdiff_t draw(uint64_t *seed, ptrdiff_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (ptrdiff_t)((*seed >> 33) % (uint64_t)n);
}

static void *numbers(uint64_t *seed, ptrdiff_t n, int dtype)
{
    void *found = memory((size_t)n * (dtype == FM_FLOAT32 ? sizeof(float) : sizeof(double)));
    for (ptrdiff_t i = 0; i < n; i++) {
        double x = (double)(draw(seed, 2049) - 1024) / 4096;
        if (dtype == FM_FLOAT32)
            ((float *)found)[i] = (float)x;
        else
            ((double *)found)[i] = x;
    }
    return found;
}

typedef struct result {
    double losses[STEPS];
    void *params;
    size_t n_bytes;
} result;

// Trains the network that belongs to a seed. With teams, by 2 to 8 threads, and a team of its own for
// every second step; with forks as well, in the parent and in a child, whose number is in *child.
static result fit(uint64_t seed, int teams, pid_t *child)
{
    ptrdiff_t sizes[MAX_LAYERS + 1], n_params = 0, order[ROWS];
    int activations[MAX_LAYERS], L = 1 + (int)draw(&seed, MAX_LAYERS);
    for (int l = 0; l <= L; l++)
        sizes[l] = 1 + draw(&seed, LARGEST);
    if (draw(&seed, 3) == 0)
        sizes[0] = WIDE;
    if (draw(&seed, 6) == 0) // layers that go by columns
        for (int l = 0; l < L; l++)
            sizes[l] = WIDE + 100;
    for (int l = 0; l < L; l++) {
        n_params += (sizes[l] + 1) * sizes[l + 1];
        activations[l] = (int)draw(&seed, FM_SILU + 1);
    }
    fm_run run = {
        .net = {.n_layers = L, .sizes = sizes, .activations = activations,
                .loss = draw(&seed, 2) ? FM_SQUARED_ERROR : FM_SOFTMAX_CROSS_ENTROPY,
                .dropout = draw(&seed, 3) ? 0 : 0.25, .dtype = (int)draw(&seed, 2)},
        .rule = {.kind = (int)draw(&seed, 2), .learning_rate = 1e-3, .corrected_rate = 1e-3,
                 .max_norm = draw(&seed, 3) ? INFINITY : 0.1, .momentum = 0.875, .beta1 = 0.5,
                 .beta2 = 0.75, .epsilon = 1e-8},
        .max_rows = ROWS / 2, .level = engine->level, .n_threads = (int)draw(&seed, 1 + MAX_WORKERS),
    };
    const size_t size = run.net.dtype == FM_FLOAT32 ? sizeof(float) : sizeof(double);
    result found = {.n_bytes = (size_t)n_params * size};
    run.params = found.params = numbers(&seed, n_params, run.net.dtype);
    void *X = numbers(&seed, ROWS * sizes[0], run.net.dtype), *y;
    if (run.net.loss == FM_SQUARED_ERROR)
        y = numbers(&seed, ROWS * sizes[L], run.net.dtype);
    else
        y = memory(ROWS * sizeof(int64_t)); // all of class 0
    run.X.values = X, run.y = y;
    void *gradients = run.gradients = memory(found.n_bytes);
    size_t workspace, state;
    engine->sizes(&run, &workspace, &state);
    void *states = run.state = memory(2 * state);
    run.workspace = memory(workspace);
    engine->prepare(&run);
    engine->load(&run);
    fm_shuffle(order, ROWS, seed);

    for (int t = 0; t < STEPS; t++) {
        if (teams && t % 2 == 0) {
            fm_team_close(run.team);
            run.team = fm_team_open(2 + (int)draw(&seed, MAX_WORKERS), MAX_WORKERS);
        }
        if (t == 3 && child) {
            *child = fork();
            teams = *child || CHILD_TEAMS;
        }
        run.B = ROWS / 2 - t % 4;
        run.rows = order + t % 2 * (ROWS / 2 - 1);
        run.n_ahead = t % 2 ? 0 : ROWS / 2;
        if (t % 2 == 0)
            run.gathered = 0;
        run.weight_sum = (double)run.B;
        run.step = (uint64_t)t;
        run.backup = t ? NULL : (char *)states + state;
        found.losses[t] = engine->step(&run);
    }
    fm_team_close(run.team);
    engine->store(&run);
    fm_release(run.workspace), fm_release(states), fm_release(gradients);
    fm_release(X), fm_release(y);
    return found;
}

static int same(result a, result b)
{
    return !memcmp(a.losses, b.losses, sizeof a.losses) && !memcmp(a.params, b.params, a.n_bytes);
}

typedef struct parts {
    int n_threads;
    unsigned seed;
    ptrdiff_t last;                                // after which to end it
    int times[MOST_PARTS], wrong[1 + MAX_WORKERS]; // of each part, and of each thread
} parts;

static int do_part(void *argument, int thread, ptrdiff_t part)
{
    parts *p = argument;
    p->wrong[thread] += thread >= p->n_threads;
    p->times[part]++;
    for (unsigned i = 0; i < (p->seed + (unsigned)part) % 3 * 300; i++) // some are done before others come
        __asm__ volatile("");
    return part != p->last;
}

// Whether every part was done once, or where it was ended those that it told of.
static int shares_out(uint64_t seed)
{
    const ptrdiff_t n = draw(&seed, MOST_PARTS + 1);
    parts p = {.n_threads = 1 + (int)draw(&seed, 1 + MAX_WORKERS), .seed = (unsigned)seed,
               .last = draw(&seed, 2 * MOST_PARTS)};
    const int n_woken = (int)draw(&seed, 1 + p.n_threads);
    const ptrdiff_t done = fm_share_out(p.n_threads, n_woken, n, do_part, &p);
    int as_told = done <= n && (p.last < n ? done > p.last : done == n);
    for (ptrdiff_t part = 0; part < MOST_PARTS; part++)
        as_told &= p.times[part] == (part < done);
    for (int thread = 0; thread <= MAX_WORKERS; thread++)
        as_told &= !p.wrong[thread];
    return as_told;
}

enum { MOST_STAGES = 6 };
typedef struct stages {
    int n_parts;
    unsigned seed;
    uint64_t sums[1 + MOST_STAGES][FM_MOST_PARTS]; // of each part, from those of all parts a stage before
} stages;

static void do_stage_part(void *argument, int stage, int part)
{
    stages *s = argument;
    for (unsigned i = 0; i < (s->seed + (unsigned)(stage + part)) % 3 * 300; i++)
        __asm__ volatile("");
    for (int other = 0; other < s->n_parts; other++)
        s->sums[stage + 1][part] += s->sums[stage][other] * (uint64_t)(part + 2);
}

// Whether every part of every stage was done once, after all those of the stage before.
static int shares_stages(uint64_t seed)
{
    const int n_threads = 1 + (int)draw(&seed, 1 + MAX_WORKERS), n_stages = (int)draw(&seed, 1 + MOST_STAGES);
    stages s = {.n_parts = 1 + (int)draw(&seed, FM_MOST_PARTS), .seed = (unsigned)seed};
    for (int part = 0; part < s.n_parts; part++)
        s.sums[0][part] = (uint64_t)(part + 1);
    stages expected = s;
    for (int stage = 0; stage < n_stages; stage++)
        for (int part = 0; part < s.n_parts; part++)
            do_stage_part(&expected, stage, part);
    fm_share_stages(n_threads, (int)draw(&seed, 1 + n_threads), n_stages, s.n_parts, do_stage_part, &s);
    return !memcmp(&s, &expected, sizeof s);
}

// Returns how many of a caller's results differ.
static void *call(void *argument)
{
    uint64_t caller = (uint64_t)(uintptr_t)argument;
    uintptr_t n_wrong = 0;
    for (int i = 0; i < n_networks; i++) {
        uint64_t seed = caller * 1000 + (uint64_t)i;
        pid_t child = 1;
        result alone = fit(seed, 0, NULL), together = fit(seed, 1, i % 4 == 3 ? &child : NULL);
        int wrong = !same(alone, together), status = 0;
        for (uint64_t k = 0; k < 10 && (child || CHILD_TEAMS); k++)
            wrong |= !shares_out(seed + k) | !shares_stages(seed + k);
        if (child == 0)
            _exit(wrong);
        if (child < 0 || (child > 1 && (waitpid(child, &status, 0) != child || status)))
            wrong = 1;
        n_wrong += (uintptr_t)wrong;
        fm_release(alone.params), fm_release(together.params);
    }
    return (void *)n_wrong;
}

int main(int argc, char **argv)
{
    engine = argc == 3 ? fm_fused_engine(argv[1]) : NULL;
    if (!engine)
        stop("no such instruction set");
    n_networks = atoi(argv[2]);
    pthread_t callers[CALLERS];
    uintptr_t n_wrong = 0;
    for (uintptr_t c = 0; c < CALLERS; c++)
        if (pthread_create(&callers[c], NULL, call, (void *)c))
            stop("no thread");
    for (int c = 0; c < CALLERS; c++) {
        void *wrong;
        pthread_join(callers[c], &wrong);
        n_wrong += (uintptr_t)wrong;
    }
    printf("%d networks, %ju wrong\n", CALLERS * n_networks, (uintmax_t)n_wrong);
    return n_wrong != 0;
}
