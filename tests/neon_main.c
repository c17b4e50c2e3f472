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

static double weight_sum(const fm_run *run)
{
    double sum = 0;
    for (ptrdiff_t b = 0; b < run->B; b++)
        sum += run->net.dtype == FM_FLOAT32 ? (double)((const float *)run->sample_weight)[run->rows[b]]
                                            : ((const double *)run->sample_weight)[run->rows[b]];
    return sum;
}

// dtype, function, n | x -> y
static void math(const fm_engine *engine)
{
    int64_t *head = take(3 * sizeof *head);
    size_t n_bytes = (size_t)head[2] * itemsize(head[0]);
    void *x = take(n_bytes);
    fm_vector_math(engine, (int)head[0], (int)head[1], x, x, (ptrdiff_t)head[2]);
    give(x, n_bytes);
}

// n_layers, loss, dtype, optimizer, nesterov, n rows, batch size, length of the order | sizes |
// learning rate, l2, weight decay, decoupled decay, max norm, momentum, beta1, beta2, epsilon, loss
// parameter, loss clip, dropout | activations | params | X | y | sample weights | order -> outputs of
// the first batch's rows, gradients of the first batch in order, losses and penalties of the steps,
// params, moment1 and, of Adam, moment2
static void outputs_of(const fm_engine *engine, fm_run run, size_t n_bytes)
{
    size_t workspace, state;
    run.rule.kind = FM_NONE;
    engine->sizes(&run, &workspace, &state);
    run.workspace = fm_allocate(workspace);
    void *outputs = fm_allocate(n_bytes);
    if (!run.workspace || !outputs)
        stop("no memory");
    memset(run.workspace, 0xff, workspace); // NaN
    engine->prepare(&run);
    engine->forward(&run, outputs, &run.X, run.max_rows, 0);
    give(outputs, n_bytes);
    fm_release(outputs);
    fm_release(run.workspace);
}

// The numbers of X (n, I) that are not 0, in compressed rows.
static fm_rows compressed(const char *X, ptrdiff_t n, ptrdiff_t I, size_t size)
{
    static const char zero[8];
    char *values = fm_allocate((size_t)(n * I) * size);
    int32_t *columns = fm_allocate((size_t)(n * I + FM_CSR_AHEAD) * sizeof *columns);
    int64_t *starts = fm_allocate((size_t)(n + 1) * sizeof *starts), found = 0;
    if (!values || !columns || !starts)
        stop("no memory");
    for (ptrdiff_t b = 0; b < n; b++) {
        starts[b] = found;
        for (ptrdiff_t i = 0; i < I; i++, X += size)
            if (memcmp(X, zero, size)) {
                memcpy(values + (size_t)found * size, X, size);
                columns[found++] = (int32_t)i;
            }
    }
    starts[n] = found;
    memset(columns + found, 0, FM_CSR_AHEAD * sizeof *columns);
    return (fm_rows){values, columns, starts};
}

static void train(const fm_engine *engine, int is_sparse)
{
    int64_t *head = take(8 * sizeof *head), L = head[0];
    ptrdiff_t *sizes = take((size_t)(L + 1) * sizeof *sizes), n = head[5], n_params = 0;
    double *rule = take(12 * sizeof *rule);
    int *activations = take((size_t)L * sizeof *activations);
    size_t size = itemsize(head[2]);
    for (int64_t l = 0; l < L; l++)
        n_params += (sizes[l] + 1) * sizes[l + 1];
    fm_run run = {
        .net = {L, sizes, activations, (int)head[1], rule[9], rule[10], rule[11], (int)head[2]},
        .rule = {.kind = (int)head[3], .learning_rate = rule[0], .decoupled_decay = rule[3],
                 .max_norm = rule[4], .momentum = rule[5], .nesterov = (int)head[4],
                 .beta1 = rule[6], .beta2 = rule[7], .epsilon = rule[8]},
        .max_rows = head[6], .level = engine->level, .n_threads = 2, .is_sparse = is_sparse,
    };
    const size_t params_bytes = (size_t)n_params * size, out = (size_t)sizes[L];
    run.params = take(params_bytes);
    const size_t X_bytes = (size_t)(n * sizes[0]) * size;
    run.X.values = take(X_bytes);
    if (is_sparse) {
        run.X = compressed(run.X.values, n, sizes[0], size);
        run.entries = fm_allocate(2 * X_bytes);
    }
    run.y = take((size_t)n * (run.net.loss != FM_SOFTMAX_CROSS_ENTROPY ? out * size : sizeof(int64_t)));
    run.sample_weight = take((size_t)n * size);
    const ptrdiff_t *order = take((size_t)head[7] * sizeof *order);

    size_t workspace, state;
    engine->sizes(&run, &workspace, &state);
    run.workspace = fm_allocate(workspace);
    run.state = fm_allocate(state);
    run.gradients = fm_allocate(params_bytes);
    void *moments = fm_allocate(2 * params_bytes);
    if (!run.workspace || !run.state || !run.gradients || !moments)
        stop("no memory");
    memset(run.workspace, 0xff, workspace); // NaN
    memset(run.state, 0xff, state);
    memset(moments, 0, 2 * params_bytes);
    engine->prepare(&run);

    outputs_of(engine, run, (size_t)head[6] * out * size);
    run.rows = order;
    run.B = head[6];
    run.weight_sum = weight_sum(&run);
    engine->gradients(&run);
    give(run.gradients, params_bytes);

    run.moment1 = moments;
    run.moment2 = run.rule.kind == FM_ADAM ? (char *)moments + params_bytes : NULL;
    engine->load(&run);
    ptrdiff_t start = 0;
    for (int t = 1; start < head[7]; t++, start += run.B) {
        run.B = head[7] - start < head[6] ? head[7] - start : head[6];
        run.rows = order + start;
        run.n_ahead = head[7] - start - run.B;
        run.weight_sum = weight_sum(&run);
        run.step = (uint64_t)t - 1;
        run.rule.weight_decay = rule[2] + rule[1] / run.weight_sum;
        if (run.rule.kind == FM_ADAM)
            run.rule.corrected_rate = rule[0] * sqrt(1 - pow(rule[7], t)) / (1 - pow(rule[6], t));
        double penalty = 0.5 * rule[1] * engine->penalty(&run) / run.weight_sum * (double)run.B;
        double loss = engine->step(&run) / run.weight_sum * (double)run.B;
        give(&loss, sizeof loss);
        give(&penalty, sizeof penalty);
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
        if (kind == 'm')
            math(engine);
        else
            train(engine, kind == 's');
    return 0;
}
