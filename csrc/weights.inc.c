// Phase B: the gradients of the weights, each used up at once by the update. Also inference from
// the flat parameters, without panels.

// One vector of parameters and its two moments after a step of Adam; see fm_rule.
INLINE V R(adam)(real *W, real *m, real *v, V g, const fm_rule *rule, real decay, V check)
{
    real beta1 = (real)rule->beta1, beta2 = (real)rule->beta2;
    V w = vload(W);
    if (rule->decoupled)
        w = vsub(w, vmul(vset1((real)rule->learning_rate * decay), w));
    else
        g = vfma(vset1(decay), w, g);
    V mean = vfma(vset1(beta1), vload(m), vmul(vset1(1 - beta1), g));
    V square = vfma(vset1(beta2), vload(v), vmul(vset1(1 - beta2), vmul(g, g)));
    V step = vdiv(mean, vadd(vsqrt(square), vset1((real)rule->epsilon)));
    w = vsub(w, vmul(vset1((real)rule->corrected_rate), step));
    vstore(m, mean);
    vstore(v, square);
    vstore(W, w);
    return vfma(w, vset1(0), check);
}

// Uses `n` gradients, a multiple of the lanes, for parameters that lie at `at` in the state.
static V R(update)(fm_run *run, const fm_layer *layer, ptrdiff_t at, const real *dW, ptrdiff_t n,
                   double weight_decay, V check)
{
    const fm_rule *rule = &run->rule;
    real *W = (real *)run->state + layer->W + at, *m = (real *)run->state + layer->moment1 + at;
    real *v = (real *)run->state + layer->moment2 + at;
    for (ptrdiff_t i = 0; i < n; i += FM_LANES)
        check = rule->kind == FM_ADAM
            ? R(adam)(W + i, m + i, v + i, vload(dW + i), rule, (real)weight_decay, check)
            : R(sgd)(W + i, m + i, vload(dW + i), rule, (real)weight_decay, check);
    return check;
}

// Copies the gradients of M rows of a panel, columns n on, to run->gradients.
static void R(store_gradients)(fm_run *run, const fm_layer *layer, const real *dW, ptrdiff_t row,
                               ptrdiff_t M, ptrdiff_t n, ptrdiff_t width)
{
    real *out = (real *)run->gradients + layer->flat + row * layer->O + n;
    size_t bytes = (size_t)R(min)(width, layer->O - n) * sizeof(real);
    for (ptrdiff_t r = 0; r < M; r++)
        memcpy(out + r * layer->O, dW + r * width, bytes);
}

// The bias of panel p: its gradient is the sum of the rows of dZ.
static V R(bias)(fm_run *run, const fm_layer *layer, const real *dZ, ptrdiff_t ld, ptrdiff_t p,
                 int NV, V check)
{
    V sum[2] = {vset1(0), vset1(0)};
    real db[WIDTH];
    for (ptrdiff_t b = 0; b < run->B; b++)
        for (int j = 0; j < NV; j++)
            sum[j] = vadd(sum[j], vload(dZ + b * ld + j * FM_LANES));
    for (int j = 0; j < NV; j++)
        vstore(db + j * FM_LANES, sum[j]);
    if (run->store_gradients) {
        R(store_gradients)(run, layer, db, layer->I, 1, p * WIDTH, NV * FM_LANES);
        return check;
    }
    return R(update)(run, layer, p * WIDTH * (layer->I + 1), db, NV * FM_LANES, 0, check);
}

// Rows [f, f + M) of panel p.
static V R(weights_tile)(fm_run *run, const fm_layer *layer, const real *dZ, ptrdiff_t ld,
                         ptrdiff_t p, int NV, ptrdiff_t f, ptrdiff_t M, V check)
{
    real tile[FM_ROWS * WIDTH];
    const real *A = R(at)(run, layer->in) + f;
    ptrdiff_t width = NV * FM_LANES, at = p * WIDTH * (layer->I + 1) + (1 + f) * width;
    real *state = run->state;
    if (run->rule.kind == FM_SGD && !run->store_gradients)
        return R(column_tile)((int)M, NV, state + layer->W + at, state + layer->moment1 + at, A, dZ,
                              layer->in_ld, ld, run->B, &run->rule, check);
    R(column_tile)((int)M, NV, tile, NULL, A, dZ, layer->in_ld, ld, run->B, &run->rule, check);
    if (run->store_gradients) {
        R(store_gradients)(run, layer, tile, f, M, p * WIDTH, width);
        return check;
    }
    return R(update)(run, layer, at, tile, M * width, run->rule.weight_decay, check);
}

// Brings nearer what this part will gather of the next batch's rows: the share that falls to the
// stretch [at, at + length) of its work of `total`.
static void R(prefetch)(const fm_run *run, int part, int n_parts, ptrdiff_t at, ptrdiff_t length,
                        ptrdiff_t total)
{
    const ptrdiff_t line = FM_ALIGN / (ptrdiff_t)sizeof(real), I = run->net.sizes[0];
    const ptrdiff_t B = R(min)(run->n_ahead, run->B), first = R(block)(B, n_parts, part);
    const ptrdiff_t n = R(block)(B, n_parts, part + 1) - first;
    for (ptrdiff_t b = R(block)(n, total, at); b < R(block)(n, total, R(min)(at + length, total)); b++) {
        const real *row = (const real *)run->X + run->rows[run->B + first + b] * I;
        for (ptrdiff_t k = 0; k < I; k += line)
            FM_PREFETCH(row + k);
    }
}

// Part `part` of `n_parts` of all weight tiles. The tiles have an order, layer by layer, panel by
// panel, and every part takes a stretch of it of equal cost; panels after the first layer stay
// whole, since the owner of one also renews its transpose. Returns whether all parameters that it
// changed are finite.
static int R(weights_part)(fm_run *run, int part, int n_parts)
{
    const fm_layer *layers = R(layers)(run);
    const ptrdiff_t L = run->net.n_layers;
    ptrdiff_t cost = 0, total = 0;
    for (ptrdiff_t l = 0; l < L; l++)
        total += layers[l].I * layers[l].vectors;
    const ptrdiff_t from = R(block)(total, n_parts, part), to = R(block)(total, n_parts, part + 1);

    V check = vset1(0);
    for (const fm_layer *layer = layers; layer < layers + L; layer++) {
        int last = layer == layers + L - 1;
        const real *dZ = R(at)(run, last ? layer->out : layer[1].din);
        const ptrdiff_t ld = last ? layer->out_ld : layer[1].in_ld;
        const ptrdiff_t n = R(n_blocks)(layer->I), n_panels = (layer->vectors + 1) / 2;
        // As many features at a time as leave their columns of A in the cache for all panels.
        const ptrdiff_t group =
            1 + FM_CACHE / (ptrdiff_t)sizeof(real) / (FM_ROWS * (run->B ? run->B : 1));
        for (ptrdiff_t start = 0; start < n; start += group) {
            for (ptrdiff_t p = 0; p < n_panels; p++) {
                int NV = R(panel_vectors)(layer->vectors, p);
                const ptrdiff_t panel_cost = cost + 2 * p * layer->I;
                for (ptrdiff_t i = start; i < R(min)(n, start + group); i++) {
                    ptrdiff_t f = R(block)(layer->I, n, i), M = R(block)(layer->I, n, i + 1) - f;
                    ptrdiff_t at = panel_cost + (layer > layers ? 0 : f * NV);
                    if (at < from || at >= to)
                        continue;
                    if (i == 0)
                        check = R(bias)(run, layer, dZ + p * WIDTH, ld, p, NV, check);
                    R(prefetch)(run, part, n_parts, at - from, M * NV, to - from);
                    check = R(weights_tile)(run, layer, dZ + p * WIDTH, ld, p, NV, f, M, check);
                }
            }
        }
        for (ptrdiff_t p = 0; layer > layers && !run->store_gradients && p < n_panels; p++) {
            ptrdiff_t at = cost + 2 * p * layer->I;
            if (at >= from && at < to)
                R(transpose_panel)((real *)run->state + layer->WT,
                                   (real *)run->state + layer->W + p * WIDTH * (layer->I + 1),
                                   layer, p);
        }
        cost += layer->I * layer->vectors;
    }
    real lanes[FM_LANES];
    vstore(lanes, check);
    int finite = 1;
    for (int i = 0; i < FM_LANES; i++)
        finite &= lanes[i] == 0;
    return finite;
}

// -- inference ----------------------------------------------------------------------------------

// C (B, O) = A (B, I) W (I, O) + b for flat parameters; C has room for whole vectors. The columns
// that do not fill a panel are copied into `rest`, (I + 1) rows of one.
static void R(linear_forward)(real *C, const real *A, const real *flat, real *rest,
                              const fm_layer *layer, ptrdiff_t B, ptrdiff_t lda, int epilogue)
{
    const ptrdiff_t I = layer->I, O = layer->O, n = R(n_blocks)(B);
    const real *bias = flat + I * O;
    ptrdiff_t o = 0;
    if (B == 1)
        for (; o + 8 * FM_LANES <= O; o += 8 * FM_LANES)
            R(one_row_of)(C + o, A, flat + o, bias + o, O, I, 8);
    for (; o < O; o += WIDTH) {
        const real *P = flat + o, *init = bias + o;
        ptrdiff_t ldp = O, left = O - o;
        int NV = left > FM_LANES ? 2 : 1;
        if (left != NV * FM_LANES && left < WIDTH) {
            int valid = (int)(left - (NV - 1) * FM_LANES);
            for (ptrdiff_t i = -1; i < I; i++) {
                const real *row = i < 0 ? bias + o : flat + i * O + o;
                real *copy = rest + (i + 1) * NV * FM_LANES;
                if (NV == 2)
                    vstore(copy, vload(row));
                vstore(copy + (NV - 1) * FM_LANES, vload_n(row + (NV - 1) * FM_LANES, valid));
            }
            ldp = NV * FM_LANES;
            P = rest + ldp;
            init = rest;
        }
        for (ptrdiff_t i = 0; i < n; i++) {
            ptrdiff_t b = R(block)(B, n, i), M = R(block)(B, n, i + 1) - b;
            R(row_tile)((int)M, NV, C + b * layer->out_ld + o, A + b * lda, P, init, P,
                        layer->out_ld, lda, ldp, 0, I, epilogue);
        }
    }
    if (B == 1 && epilogue == FM_STORE_RELU)
        for (ptrdiff_t i = 0; i < O / (8 * FM_LANES) * 8 * FM_LANES; i += FM_LANES)
            vstore(C + i, vkeep(vload(C + i), vload(C + i)));
}

static void R(forward)(const fm_run *run, void *out, const void *X, ptrdiff_t B)
{
    const fm_layer *layers = R(layers)(run);
    const fm_net *net = &run->net;
    const real *A = X;
    ptrdiff_t lda = net->sizes[0];
    real *C = NULL;
    for (const fm_layer *layer = layers; layer < layers + net->n_layers; layer++) {
        int hidden = layer < layers + net->n_layers - 1;
        C = R(at)(run, layer->out);
        R(linear_forward)(C, A, (const real *)run->params + layer->flat, R(rest)(run), layer, B, lda,
                          hidden && net->activation == FM_RELU ? FM_STORE_RELU : FM_STORE);
        if (hidden && (net->activation == FM_TANH || net->activation == FM_LOGISTIC))
            R(activation_forward)(C, B, layer->vectors * FM_LANES, layer->out_ld, net->activation);
        A = C;
        lda = layer->out_ld;
    }
    ptrdiff_t O = net->sizes[net->n_layers];
    for (ptrdiff_t b = 0; b < B; b++)
        memcpy((real *)out + b * O, C + b * lda, (size_t)O * sizeof(real));
}

static const fm_functions R(functions) = {
    .lanes = FM_LANES, .rows = FM_ROWS, .layout = R(layout), .prepare = R(prepare),
    .load = R(load), .store = R(store), .forward = R(forward), .rows_part = R(rows_part),
    .weights_part = R(weights_part), .loss = R(loss), .math = R(math),
};
