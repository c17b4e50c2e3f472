// What the files of the fused engine share: the layout of its memory, and the functions that every
// instruction set provides.
#ifndef FM_FUSED_H
#define FM_FUSED_H

#include "fastmlp.h"

// A batch as a sparse matrix, in compressed rows and in the order of its columns: where it lies in the
// workspace, but for what a sparse run->X has already.
typedef struct fm_lists {
    ptrdiff_t ends;              // behind the last entry of each column: 32 bits each
    ptrdiff_t starts;            // where each row begins among the values, then where each ends: 64 bits each
    ptrdiff_t values, columns;
    ptrdiff_t entries;           // of all columns, two numbers' room for each
} fm_lists;

// One layer in the engine's own memory. Offsets count elements: those of weights into run->state,
// those of activations into the workspace.
//
// Weights live in panels of up to three vectors of outputs, [panel][1 + I][width], the bias at the
// panel's head. A layer's panels are as wide as each other, or the first of them by one vector wider; or
// those of each of several groups are, for several threads.
// Layers after the first keep W^T as well, for backward-data, and so does a turned first one: in panels over
// the inputs, [panel][O][width]. An update changes one of the two and renews the other from it: W or, in a
// turned layer, W^T, which is less to change where outputs are few, as a vector of outputs is mostly padding
// there. Moments mirror the one that is changed; those of the biases are at the panels' heads or, in a turned
// layer, behind the others. Whatever pads a panel is zero.
//
// Activations lie in blocks of FM_BLOCK columns, [block][row][column]: what a tile reads of them is
// contiguous. From block to block it is block_stride(run) elements.
typedef struct fm_layer {
    ptrdiff_t I, O;
    ptrdiff_t vectors, n_groups; // of a row of outputs: a group has as many vectors as any other
    int turned;                  // whether an update changes W^T, and renews W
    ptrdiff_t W, moment1, moment2, WT;
    ptrdiff_t in;                // A_{l-1}, unless it is a sparse matrix
    ptrdiff_t ahead;             // in the first layer, where rows of X are long: A_0 of the next batch
    fm_lists lists;              // in the first layer, where it is one, or where it may have many zeros
    ptrdiff_t out;               // A_l, and in the last layer dZ_l as well
    ptrdiff_t din;               // dZ_{l-1}, as wide as A_{l-1}
    ptrdiff_t slope;             // of a hidden layer dA_l/dZ_l, or 0 where A_l is enough to know it
    ptrdiff_t flat;              // W_l in run->params and what mirrors it
} fm_layer;

// What one instruction set does for one dtype; fastmlp.h says what each function does.
typedef struct fm_functions {
    ptrdiff_t (*layout)(const fm_run *run, fm_layer *layers, ptrdiff_t *state);
    void (*prepare)(fm_run *run);
    void (*load)(fm_run *run);
    void (*store)(const fm_run *run);
    int (*finite)(const fm_run *run);
    void (*forward_part)(const fm_run *run, const fm_rows *X, ptrdiff_t B, int l, int part, int n_parts);
    void (*outputs)(const fm_run *run, void *out, ptrdiff_t B, int softmax);
    void (*gather)(fm_run *run, ptrdiff_t first, ptrdiff_t last);
    void (*list_columns)(fm_run *run, int part, int n_parts);
    int (*lists_pay)(const fm_run *run);
    void (*list_rows)(fm_run *run, ptrdiff_t first, ptrdiff_t last);
    int (*n_by_columns)(const fm_run *run, int n_threads);
    void (*columns_part)(fm_run *run, int l, int part, int n_parts);
    void (*rows_part)(fm_run *run, ptrdiff_t first, ptrdiff_t last, int by_columns);
    void (*weights_part)(fm_run *run, int part, int n_parts);
    void (*clipped_update)(fm_run *run);
    double (*penalty)(const fm_run *run);
    int (*gathers_ahead)(const fm_run *run);
    double (*loss)(const fm_run *run);
    void (*math)(int function, void *y, const void *x, ptrdiff_t n);
} fm_functions;

typedef struct fm_level {
    const fm_functions *by_dtype[2];
} fm_level;

// What a row tile does with its results: nothing, relu, or keep them where the mask is positive.
enum { FM_STORE, FM_STORE_RELU, FM_STORE_MASKED };

// Bytes that lists of a batch of dense rows may take; a larger one has none.
enum { FM_MOST_LISTS = 256 << 20 };

// Lane-wise sums run over this many virtual lanes, whatever the real ones: see softmax_row.
enum { FM_VIRTUAL_LANES = 16 };

// A cache line; and the bytes of a layer's flat weights beyond which predictions ask for them.
enum { FM_ALIGN = 64, FM_FAR = 2304 * 1024 };

#endif
