// Runs the fused engine on the jobs that standard input holds and writes the results, for
// test_neon.py, which knows the layout of both. Argument: the instruction set.
#include "fastmlp.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void stop(const char *why)
{
    fprintf(stderr, "%s\n", why);
    exit(1);
}

// n_bytes of the input, on a cache line.
static void *take(size_t n_bytes)
{
    void *memory = fm_allocate(n_bytes);
    if (!memory || fread(memory, 1, n_bytes, stdin) != n_bytes)
        stop("the input ends in the middle of a job");
    return memory;
}

static void give(const void *memory, size_t n_bytes)
{
    if (fwrite(memory, 1, n_bytes, stdout) != n_bytes)
        stop("no room for the output");
}

static size_t itemsize(int64_t dtype) { return dtype == FM_FLOAT32 ? 4 : 8; }

// dtype, function, n | x -> y
static void math(const fm_engine *engine)
{
    int64_t *head = take(3 * sizeof *head);
    size_t n_bytes = (size_t)head[2] * itemsize(head[0]);
    void *x = take(n_bytes);
    fm_vector_math(engine, (int)head[0], (int)head[1], x, x, (ptrdiff_t)head[2]);
    give(x, n_bytes);
}

// n_layers, activation, loss, dtype, optimizer, nesterov, decoupled, n rows, batch size, length of
// the order | sizes | learning rate, weight decay, momentum, beta1, beta2, epsilon | params | X | y
// | order -> outputs of the first batch's rows, gradients of the first batch in order, losses of
// the steps, params, moment1 and, of Adam, moment2
static void train(const fm_engine *engine)
{
    int64_t *head = take(10 * sizeof *head), L = head[0];
    ptrdiff_t *sizes = take((size_t)(L + 1) * sizeof *sizes), n = head[7], n_params = 0;
    double *rule = take(6 * sizeof *rule);
    size_t size = itemsize(head[3]);
    for (int64_t l = 0; l < L; l++)
        n_params += (sizes[l] + 1) * sizes[l + 1];
    fm_run run = {
        .net = {L, sizes, (int)head[1], (int)head[2], (int)head[3]},
        .rule = {.kind = (int)head[4], .learning_rate = rule[0], .weight_decay = rule[1],
                 .momentum = rule[2], .nesterov = (int)head[5], .beta1 = rule[3],
                 .beta2 = rule[4], .epsilon = rule[5], .decoupled = (int)head[6]},
        .max_rows = head[8], .level = engine->level,
    };
    const size_t params_bytes = (size_t)n_params * size, out = (size_t)sizes[L];
    run.params = take(params_bytes);
    run.X = take((size_t)(n * sizes[0]) * size);
    run.y = take((size_t)n * (run.net.loss == FM_SQUARED_ERROR ? out * size : sizeof(int64_t)));
    const ptrdiff_t *order = take((size_t)head[9] * sizeof *order);

    size_t workspace, state;
    engine->sizes(&run, &workspace, &state);
    run.workspace = fm_allocate(workspace);
    run.state = fm_allocate(state);
    run.gradients = fm_allocate(params_bytes);
    void *outputs = fm_allocate((size_t)head[8] * out * size);
    void *moments = fm_allocate(2 * params_bytes);
    if (!run.workspace || !run.state || !run.gradients || !outputs || !moments)
        stop("no memory");
    memset(run.workspace, 0xff, workspace); // NaN
    memset(run.state, 0xff, state);
    memset(moments, 0, 2 * params_bytes);
    engine->prepare(&run);

    engine->forward(&run, outputs, run.X, head[8]);
    give(outputs, (size_t)head[8] * out * size);
    run.rows = order;
    run.B = head[8];
    engine->gradients(&run);
    give(run.gradients, params_bytes);

    run.moment1 = moments;
    run.moment2 = run.rule.kind == FM_ADAM ? (char *)moments + params_bytes : NULL;
    engine->load(&run);
    ptrdiff_t start = 0;
    for (int t = 1; start < head[9]; t++, start += run.B) {
        run.B = head[9] - start < head[8] ? head[9] - start : head[8];
        run.rows = order + start;
        run.n_ahead = head[9] - start - run.B;
        if (run.rule.kind == FM_ADAM)
            run.rule.corrected_rate = rule[0] * sqrt(1 - pow(rule[4], t)) / (1 - pow(rule[3], t));
        double loss = engine->step(&run);
        give(&loss, sizeof loss);
    }
    engine->store(&run);
    give(run.params, params_bytes);
    give(run.moment1, params_bytes);
    if (run.moment2)
        give(run.moment2, params_bytes);
}

int main(int argc, char **argv)
{
    const fm_engine *engine = fm_fused_engine(argc > 1 ? argv[1] : "");
    if (!engine)
        stop("no such instruction set");
    for (int kind; (kind = getchar()) != EOF;)
        (kind == 'm' ? math : train)(engine);
    return 0;
}
