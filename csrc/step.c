// The fused engine: one training step, shared out among threads.
//
// Phase A: every thread takes a share of the rows forward through all layers, into the loss, and
// back. Phase B: the threads share out the weight tiles of all layers; each sums over the whole
// batch in row order and updates at once. Where layers are wide, threads share out their outputs before,
// so that they multiply with the weights they update. A barrier after each phase, no reduction, and no
// result depends on how many threads there are.
#include "fused.h"
#include "pool.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const fm_functions *functions(const fm_run *run)
{
    return ((const fm_level *)run->level)->by_dtype[run->net.dtype];
}

static size_t itemsize(const fm_run *run)
{
    return run->net.dtype == FM_FLOAT32 ? sizeof(float) : sizeof(double);
}

static void sizes(const fm_run *run, size_t *workspace, size_t *state)
{
    ptrdiff_t elements;
    const fm_functions *f = functions(run);
    *workspace = (size_t)f->layout(run, NULL, &elements) * itemsize(run);
    *state = (size_t)elements * itemsize(run);
}

static void prepare(fm_run *run)
{
    ptrdiff_t elements;
    functions(run)->layout(run, run->workspace, &elements);
    functions(run)->prepare(run);
}

static void load(fm_run *run) { functions(run)->load(run); }
static void store(const fm_run *run) { functions(run)->store(run); }
static int all_finite(const fm_run *run) { return functions(run)->finite(run); }

typedef struct forward_job {
    const fm_run *run;
    const fm_rows *X;
    ptrdiff_t B;
    int n_parts;
} forward_job;

static void forward_part(void *argument, int l, int part)
{
    const forward_job *job = argument;
    functions(job->run)->forward_part(job->run, job->X, job->B, l, part, job->n_parts);
}

// Several threads share out the outputs of every layer.
static void forward(fm_run *run, void *out, const fm_rows *X, ptrdiff_t B, int softmax)
{
    const int n_layers = (int)run->net.n_layers;
    forward_job job = {run, X, B, 1};
    if (run->n_threads > 1) {
        job.n_parts = run->n_threads < FM_MOST_PARTS ? run->n_threads : FM_MOST_PARTS;
        fm_share_stages(job.n_parts, run->n_woken, n_layers, job.n_parts, forward_part, &job);
    } else {
        for (int l = 0; l < n_layers; l++)
            forward_part(&job, l, 0);
    }
    functions(run)->outputs(run, out, B, softmax);
}

typedef struct step_job {
    fm_run *run;
    double loss;
    int interrupted;
} step_job;

// The layers that go by columns, each a phase of its own.
static void columns(fm_run *run, int thread, int n_threads, int n_layers)
{
    const fm_functions *f = functions(run);
    if (n_layers > 0 && !run->gathered && !run->is_sparse && !run->skips_zeros) {
        f->gather(run, run->B * thread / n_threads, run->B * (thread + 1) / n_threads);
        fm_team_barrier(run->team);
    }
    for (int l = 0; l < n_layers; l++) {
        f->columns_part(run, l, thread, n_threads);
        fm_team_barrier(run->team);
    }
}

static void step_part(void *argument, int thread)
{
    step_job *job = argument;
    fm_run *run = job->run;
    const fm_functions *f = functions(run);
    const int n_threads = fm_team_size(run->team), by_columns = f->n_by_columns(run, n_threads);

    const ptrdiff_t first = run->B * thread / n_threads, last = run->B * (thread + 1) / n_threads;
    if (run->skips_zeros) {
        f->list_rows(run, first, last);
        fm_team_barrier(run->team);
    }
    if (run->skips_zeros || run->is_sparse)
        f->list_columns(run, thread, n_threads);
    columns(run, thread, n_threads, by_columns);
    f->rows_part(run, first, last, by_columns);
    if (thread == 0)
        job->interrupted = run->interrupted && run->interrupted(run->signals);
    fm_team_barrier(run->team);

    double loss = job->interrupted ? NAN : f->loss(run);
    if (thread == 0)
        job->loss = loss;
    if (isfinite(loss))
        f->weights_part(run, thread, n_threads);
}

static double penalty(const fm_run *run) { return functions(run)->penalty(run); }

static double step(fm_run *run)
{
    enum { LOOK_EVERY = 16 }; // steps: what the data are like does not change from one to the next
    step_job job = {.run = run};
    const int clips = isfinite(run->rule.max_norm) && !run->store_gradients;
    if (run->gathered) {
        fm_layer *first = run->workspace;
        ptrdiff_t in = first->in;
        first->in = first->ahead;
        first->ahead = in;
    }
    run->store_gradients |= clips;
    fm_team_run(run->team, step_part, &job);
    run->store_gradients &= !clips;
    if (clips && isfinite(job.loss))
        functions(run)->clipped_update(run);
    if (run->backup && isfinite(job.loss)) {
        void *state = run->state;
        run->state = run->backup;
        run->backup = state;
    }
    run->gathered = !clips && functions(run)->gathers_ahead(run) && isfinite(job.loss);
    if (run->step % LOOK_EVERY == 0 && !run->store_gradients && !run->is_sparse)
        run->skips_zeros = functions(run)->lists_pay(run);
    return job.loss;
}

static double gradients(fm_run *run)
{
    const int skips_zeros = run->skips_zeros;
    load(run);
    run->skips_zeros = 0; // what is given out has all of its NaN
    run->store_gradients = 1;
    double loss = step(run);
    run->store_gradients = 0;
    run->skips_zeros = skips_zeros;
    return loss;
}

#define ENGINE(level)                                                                         \
    static const fm_engine engine_##level = {                                                 \
        "fused", &fm_level_##level, sizes, prepare, load, store, all_finite, forward,            \
        penalty, gradients, step,                                                             \
    };

extern const fm_level fm_level_avx512, fm_level_avx2, fm_level_neon, fm_level_portable;

ENGINE(portable)
#if defined(__x86_64__) || defined(_M_X64)
ENGINE(avx512)
ENGINE(avx2)
#elif defined(__aarch64__) || defined(_M_ARM64)
ENGINE(neon)
#endif

const fm_engine *fm_fused_engine(const char *level)
{
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    if (!strcmp(level, "avx512"))
        return __builtin_cpu_supports("avx512f") ? &engine_avx512 : NULL;
    if (!strcmp(level, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &engine_avx2
                                                                               : NULL;
#elif defined(__aarch64__) || defined(_M_ARM64)
    if (!strcmp(level, "neon"))
        return &engine_neon;
#endif
    return strcmp(level, "portable") ? NULL : &engine_portable;
}

void fm_vector_math(const fm_engine *engine, int dtype, int function, void *y, const void *x,
                    ptrdiff_t n)
{
    ((const fm_level *)engine->level)->by_dtype[dtype]->math(function, y, x, n);
}
