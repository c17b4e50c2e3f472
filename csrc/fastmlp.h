// The contract between Python's side (Cython) and the engines.
//
// Sizes:  B rows of a batch     I inputs of a layer     O outputs of a layer
//         L layers              n rows of the data      K length of a reduction
//
// All matrices are row-major. A network of L layers has sizes[0..L]. Its parameters are one flat
// array [W0 | b0 | W1 | b1 | ...] with W_l of shape (sizes[l], sizes[l+1]) and b_l of shape
// (sizes[l+1],); gradients and velocity mirror it.
#ifndef FASTMLP_H
#define FASTMLP_H

#include <stddef.h>
#include <stdint.h>

enum fm_dtype { FM_FLOAT32, FM_FLOAT64 };
enum fm_activation { FM_IDENTITY, FM_RELU, FM_TANH, FM_LOGISTIC };
enum fm_loss { FM_SOFTMAX_CROSS_ENTROPY, FM_SQUARED_ERROR };

// What the network is. The output layer is always linear: its non-linearity belongs to the loss.
typedef struct fm_net {
    ptrdiff_t n_layers;          // L >= 1
    const ptrdiff_t *sizes;      // L + 1 sizes, each >= 1
    int activation;              // of every hidden layer
    int loss;
    int dtype;
} fm_net;

// How a step changes the parameters:  v = momentum v - learning_rate (dW + weight_decay W),
// then W += v, or with nesterov W += momentum v - learning_rate (dW + weight_decay W).
// Biases are not decayed.
typedef struct fm_rule {
    double learning_rate;
    double momentum;
    double weight_decay;
    int nesterov;
} fm_rule;

// All that a step reads and writes. The owner keeps every pointer alive.
typedef struct fm_run {
    fm_net net;
    fm_rule rule;
    const void *X;               // (n, sizes[0])
    const void *y;               // int64_t (n,) for cross-entropy, else (n, sizes[L]) like X
    void *params;
    void *velocity;
    void *gradients;
    void *workspace;             // engine->workspace_bytes(...) bytes, aligned to 64
    ptrdiff_t max_rows;          // the largest B of this run
} fm_run;

// What an engine can do. None of its functions allocates, fails or touches Python.
typedef struct fm_engine {
    const char *name;
    // Bytes of workspace for batches of up to max_rows rows.
    size_t (*workspace_bytes)(const fm_net *net, ptrdiff_t max_rows);
    // out (B, sizes[L]) = logits or values for X (B, sizes[0]).
    void (*forward)(fm_run *run, void *out, const void *X, ptrdiff_t B);
    // run->gradients of the mean loss over rows rows[0..B), or 0..B if rows is NULL.
    // Returns the loss summed over the rows.
    double (*gradients)(fm_run *run, const ptrdiff_t *rows, ptrdiff_t B);
    // One step of run->rule on the same rows. Where the loss returned is not finite, nothing
    // but the workspace and run->gradients has changed.
    double (*step)(fm_run *run, const ptrdiff_t *rows, ptrdiff_t B);
} fm_engine;

// Index of the first NaN or infinity among x[0..n), or -1.
ptrdiff_t fm_first_nonfinite_float32(const float *x, ptrdiff_t n);
ptrdiff_t fm_first_nonfinite_float64(const double *x, ptrdiff_t n);

// Under this name an engine's module exports its fm_engine in a PyCapsule.
#define FM_ENGINE_CAPSULE "fastmlp.fm_engine"

#endif
