// The contract between Python's side (Cython) and the engines.
//
// Sizes:  B rows of a batch     I inputs of a layer     O outputs of a layer
//         L layers              n rows of the data      K length of a reduction
//
// All matrices are row-major. A network of L layers has sizes[0..L]. Its parameters are one flat
// array [W0 | b0 | W1 | b1 | ...] with W_l of shape (sizes[l], sizes[l+1]) and b_l of shape
// (sizes[l+1],); gradients and the moments of an optimizer mirror it.
#ifndef FASTMLP_H
#define FASTMLP_H

#include <stddef.h>
#include <stdint.h>

enum { FM_FLOAT32, FM_FLOAT64 };
enum { FM_IDENTITY, FM_RELU, FM_TANH, FM_LOGISTIC, FM_LEAKY_RELU, FM_GELU, FM_SILU };
#define FM_LEAK 0.01             // slope of leaky relu below zero
enum {
    FM_SOFTMAX_CROSS_ENTROPY,    // the one whose targets are class numbers
    FM_SQUARED_ERROR, FM_BINARY_CROSS_ENTROPY, FM_POISSON, FM_ABSOLUTE_ERROR, FM_HUBER, FM_QUANTILE,
};
enum { FM_SGD, FM_ADAM, FM_NONE };  // FM_NONE where a run only infers

// What the network is. The output layer is always linear: its non-linearity belongs to the loss.
typedef struct fm_net {
    ptrdiff_t n_layers;          // L >= 1
    const ptrdiff_t *sizes;      // L + 1 sizes, each >= 1
    const int *activations;      // of the L - 1 hidden layers
    int loss;
    double loss_parameter;       // delta of Huber's loss, or the quantile
    double loss_clip;            // the least probability that enters a logarithm, as the most is
                                 // 1 less it; or 0
    double dropout;              // share of the hidden outputs that a training step drops
    int dtype;
} fm_net;

// How a step changes the parameters. Biases are not decayed. First dW is scaled down where the norm
// of all gradients, weight_decay included, exceeds max_norm; and with decoupled_decay
// W -= learning_rate decoupled_decay W beside the rest.
//
// SGD:   v = momentum v - learning_rate (dW + weight_decay W), then W += v,
//        or with nesterov W += momentum v - learning_rate (dW + weight_decay W).
//        moment1 is v.
// Adam:  g = dW + weight_decay W; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
//        W -= corrected_rate m / (sqrt(v) + epsilon), where
//        corrected_rate = learning_rate sqrt(1 - beta2^t) / (1 - beta1^t) in step t = 1, 2, ...
//        moment1 is m, moment2 v.
typedef struct fm_rule {
    int kind;
    double learning_rate, weight_decay, decoupled_decay, max_norm;
    double momentum;
    int nesterov;
    double beta1, beta2, epsilon, corrected_rate;
} fm_rule;

// Rows of inputs, dense or sparse. A sparse matrix has the numbers of row b from starts[b] up to starts[b + 1],
// with increasing columns; what is not there is 0. Behind the last of the columns there are FM_CSR_AHEAD more,
// any that there are, to be looked at in advance.
typedef struct fm_rows {
    const void *values;          // (n, sizes[0]) where the rows are dense
    const int32_t *columns;      // NULL where they are
    const int64_t *starts;       // (n + 1,)
} fm_rows;
enum { FM_CSR_AHEAD = 8 };

// All that a step reads and writes. The owner keeps every pointer alive.
typedef struct fm_run {
    fm_net net;
    fm_rule rule;
    fm_rows X;                   // n of them
    int is_sparse;               // whether they are sparse, in all steps
    void *entries;               // where they are: for each of a batch's numbers room for two
    const void *y;               // int64_t (n,) for cross-entropy, else (n, sizes[L]) like X
    const void *sample_weight;   // (n,) like X, or NULL for 1 each
    double weight_sum;           // of the sample weights of this batch
    void *params, *moment1, *moment2;
    void *gradients;             // and room for those of a step where max_norm is finite
    void *state;                 // the engine's own copy of params and moments
    void *backup;                // where a step keeps the state before it, or NULL: in one piece of
                                 // memory with it, and the step may make them change places
    void *workspace;             // both aligned to 64 bytes
    ptrdiff_t max_rows;          // the largest B of this run
    int n_threads;               // how many threads its steps are to be laid out for, or share a forward
    int n_woken;                 // of those in a forward: how many are worth waking if they sleep

    const ptrdiff_t *rows;       // of this batch, or NULL for rows 0..B of X
    ptrdiff_t B;
    ptrdiff_t n_ahead;           // how many rows of the next batches, none larger, stand behind rows[B]
    uint64_t dropout_key;        // what is dropped depends on this, the number of the step, the layer,
    uint64_t step;               // the row in the batch and the column, and on nothing else
    int gathered;                // set by a step that already read the next batch; the caller
                                 // clears it wherever another batch comes next

    struct fm_team *team;        // the threads that share the work, or NULL
    const void *level;           // of the fused engine: its instruction set
    int skips_zeros;             // of the fused engine: whether inputs that are 0 are left out; set by a step
    int store_gradients;         // of the fused engine: whether gradients are kept, not used

    int (*interrupted)(void *);  // asked with `signals` by the calling thread in the middle of a step,
    void *signals;               // before it changes anything: whether to leave it undone. Or NULL
} fm_run;

// What an engine can do. None of its functions allocates, fails or touches Python.
typedef struct fm_engine {
    const char *name;
    const void *level;           // for fm_run
    // Bytes of workspace and of state for batches of up to net's max_rows rows; under FM_NONE there is
    // no state.
    void (*sizes)(const fm_run *run, size_t *workspace, size_t *state);
    // Called once when run, its workspace and its state are there.
    void (*prepare)(fm_run *run);
    // State from params and those moments that are not NULL, and back.
    void (*load)(fm_run *run);
    void (*store)(const fm_run *run);
    // Whether all parameters in the state are finite, and under Adam all mean squares.
    int (*finite)(const fm_run *run);
    // out (B, sizes[L]) = logits or values of params for the first B rows of X, or the softmax of each row.
    void (*forward)(fm_run *run, void *out, const fm_rows *X, ptrdiff_t B, int softmax);
    // Sum of the squares of all weights in the state, biases left out.
    double (*penalty)(const fm_run *run);
    // run->gradients of params and the mean loss of the batch. Returns the loss summed over rows, as
    // does a step; with sample weights, both are means and sums so weighted.
    double (*gradients)(fm_run *run);
    // One step of run->rule on the state. Returns the loss summed over the rows; where that is not
    // finite, or the step was interrupted, the state is unchanged, and perhaps not in the backup.
    double (*step)(fm_run *run);
} fm_engine;

// The fused engine at an instruction set: "avx512", "avx2", "neon" or "portable". NULL where this
// build does not know it or this CPU does not have it.
const fm_engine *fm_fused_engine(const char *level);

// y = function(x) for n numbers of a dtype, by the fused engine's vectors; for tests.
enum { FM_EXP, FM_LOG, FM_MATH_TANH, FM_MATH_LOGISTIC, FM_NORMAL_CDF };
void fm_vector_math(const fm_engine *engine, int dtype, int function, void *y, const void *x,
                    ptrdiff_t n);

// GFLOP/s of fused multiply-adds on registers alone, for some seconds on this thread: the ceiling
// of an instruction set and dtype, for bench/. -1 where fm_fused_engine(level) is NULL.
double fm_probe(const char *level, int dtype, double seconds);

// order (n,) = the numbers 0..n-1 in an order that the seed decides.
void fm_shuffle(ptrdiff_t *order, ptrdiff_t n, uint64_t seed);

// words[0..32) = random bits of the columns [32 block, 32 block + 32) of a row, by Philox4x32-10.
enum { FM_DROPOUT_WORDS = 32 };
void fm_dropout_words(uint32_t words[FM_DROPOUT_WORDS], uint64_t key, uint64_t step, ptrdiff_t layer,
                      ptrdiff_t row, ptrdiff_t block);
// Outputs of words below this are dropped.
uint32_t fm_dropout_threshold(double dropout);

// Sum of x[0..n)^2, in one order everywhere.
double fm_sum_of_squares_float32(const float *x, ptrdiff_t n);
double fm_sum_of_squares_float64(const double *x, ptrdiff_t n);

// n_bytes of memory on a cache line, or NULL; and its end.
void *fm_allocate(size_t n_bytes);
void fm_release(void *memory);
// The same for memory that is needed for a moment, again and again: what was given back is lent once more.
void *fm_borrow(size_t n_bytes);
void fm_give_back(void *memory);

// Index of the first NaN or infinity among x[0..n), or -1.
ptrdiff_t fm_first_nonfinite_float32(const float *x, ptrdiff_t n);
ptrdiff_t fm_first_nonfinite_float64(const double *x, ptrdiff_t n);

// Under this name an engine's module exports its fm_engine in a PyCapsule.
#define FM_ENGINE_CAPSULE "fastmlp.fm_engine"

#endif
