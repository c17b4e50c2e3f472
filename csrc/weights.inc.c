// Phase B: the gradients of the weights, each used up at once by the update. Also inference from
// the flat parameters, without panels.

// One vector of parameters and its two moments after a step of Adam; see fm_rule.
INLINE void R(adam)(real *W, real *m, real *v, V g, const fm_rule *rule, real decay)
{
    real beta1 = (real)rule->beta1, beta2 = (real)rule->beta2;
    V w = vload(W);
    if (rule->decoupled)
        w = vsub(w, vmul(vset1((real)rule->learning_rate * decay), w));
    else
        g = vfma(vset1(decay), w, g);
    // 1 - beta before it is rounded: in float32 there may be nothing left of it after
    V mean = vfma(vset1(beta1), vload(m), vmul(vset1((real)(1 - rule->beta1)), g));
    V square = vfma(vset1(beta2), vload(v), vmul(vset1((real)(1 - rule->beta2)), vmul(g, g)));
    V step = vdiv(mean, vadd(vsqrt(square), vset1((real)rule->epsilon)));
    w = vsub(w, vmul(vset1((real)rule->corrected_rate), step));
    vstore(m, mean);
    vstore(v, square);
    vstore(W, w);
}

// Uses `n` gradients, a multiple of the lanes, for parameters that lie at `at` in the state.
static void R(update)(fm_run *run, const fm_layer *layer, ptrdiff_t at, const real *dW, ptrdiff_t n,
                      double weight_decay)
{
    const fm_rule *rule = &run->rule;
    real *W = (real *)run->state + layer->W + at, *m = (real *)run->state + layer->moment1 + at;
    real *v = (real *)run->state + layer->moment2 + at;
    for (ptrdiff_t i = 0; i < n; i += FM_LANES)
        if (rule->kind == FM_ADAM)
            R(adam)(W + i, m + i, v + i, vload(dW + i), rule, (real)weight_decay);
        else
            R(sgd)(W + i, m + i, vload(dW + i), rule, (real)weight_decay);
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

// The bias of a layer: its gradient is the sum of the rows of dZ, eight vectors of it at a time.
static void R(bias)(fm_run *run, const fm_layer *layer, const real *dZ)
{
    enum { VECTORS = 8 };
    real db[VECTORS * FM_LANES];
    for (ptrdiff_t first = 0; first < layer->vectors; first += VECTORS) {
        const ptrdiff_t n = R(min)(VECTORS, layer->vectors - first);
        V sum[VECTORS];
        const real *columns[VECTORS];
        for (int j = 0; j < VECTORS; j++) {
            sum[j] = vset1(0);
            columns[j] = dZ + R(column)(R(block_stride)(run), (first + j) * FM_LANES);
        }
        for (ptrdiff_t b = 0; b < run->B; b++)
            for (ptrdiff_t j = 0; j < n; j++)
                sum[j] = vadd(sum[j], vload(columns[j] + b * FM_BLOCK));
        for (int j = 0; j < VECTORS; j++)
            vstore(db + j * FM_LANES, sum[j]);
        for (ptrdiff_t j = 0; j < n; j += 2) {
            ptrdiff_t p = (first + j) / 2, width = R(panel_vectors)(layer->vectors, p) * FM_LANES;
            if (run->store_gradients)
                R(store_gradients)(run, layer, db + j * FM_LANES, layer->I, 1, p * WIDTH, width);
            else
                R(update)(run, layer, p * WIDTH * (layer->I + 1), db + j * FM_LANES, width, 0);
        }
    }
}

// Rows [f, f + M) of panel p; dZ is that panel's.
static void R(weights_tile)(fm_run *run, const fm_layer *layer, const real *dZ, ptrdiff_t p,
                            ptrdiff_t f, ptrdiff_t M)
{
    real tile[FM_ROWS * WIDTH];
    const int NV = R(panel_vectors)(layer->vectors, p), width = NV * FM_LANES;
    const real *A = R(at)(run, layer->in + R(column)(R(block_stride)(run), f));
    const ptrdiff_t at = p * WIDTH * (layer->I + 1) + (1 + f) * width;
    real *W = (real *)run->state + layer->W + at, *v = (real *)run->state + layer->moment1 + at;
    const int in_place = run->rule.kind == FM_SGD && !run->store_gradients;
    R(column_tile)((int)M, NV, in_place ? W : tile, in_place ? v : NULL, A, dZ, run->B, &run->rule);
    if (run->store_gradients)
        R(store_gradients)(run, layer, tile, f, M, p * WIDTH, width);
    else if (!in_place)
        R(update)(run, layer, at, tile, M * width, run->rule.weight_decay);
}

// What a part still has to bring nearer of the next batch's rows.
typedef struct R(ahead) {
    const ptrdiff_t *rows;
    ptrdiff_t n;             // rows left
    ptrdiff_t tiles;         // of this part, left
} R(ahead);

// Asks for some of the rows that the next batch will gather, while the last tiles of the first
// layer are done: what came earlier, the weights would push out of the cache again.
INLINE void R(prefetch)(const fm_run *run, R(ahead) *ahead)
{
    enum { TILES = 32 };
    const ptrdiff_t line = FM_ALIGN / (ptrdiff_t)sizeof(real), I = run->net.sizes[0];
    if (ahead->tiles > TILES || ahead->tiles < 1) {
        ahead->tiles--;
        return;
    }
    ptrdiff_t n = (ahead->n + ahead->tiles - 1) / ahead->tiles;
    ahead->n -= n;
    ahead->tiles--;
    for (; n > 0; n--) {
        const real *row = (const real *)run->X + *ahead->rows++ * I;
        for (ptrdiff_t k = 0; k < I; k += line)
            FM_PREFETCH(row + k);
    }
}

// Tiles share out the features of a layer; none reaches over the end of a block.
enum { R(TILES_OF_BLOCK) = (FM_BLOCK + FM_ROWS - 1) / FM_ROWS };
INLINE ptrdiff_t R(n_tiles)(ptrdiff_t I)
{
    return I / FM_BLOCK * R(TILES_OF_BLOCK) + R(blocks_of)(I % FM_BLOCK).n;
}

// How many blocks of A to go through for one panel of dZ before the next: as many as fit the
// first-level cache together with it; else one, while all of dZ stays in the second level; else as
// many as that one holds.
static ptrdiff_t R(blocks_at_a_time)(ptrdiff_t B, ptrdiff_t O)
{
    const ptrdiff_t block = B * FM_BLOCK * (ptrdiff_t)sizeof(real);
    const ptrdiff_t panel = B * WIDTH * (ptrdiff_t)sizeof(real);
    if (panel + block <= FM_CACHE_1)
        return (FM_CACHE_1 - panel) / block;
    return B * O * (ptrdiff_t)sizeof(real) <= FM_CACHE ? 1 : 1 + FM_CACHE / block;
}

// A part of the weight tiles of one layer. Of the first layer it is the tiles [from, to) in an
// order that goes panel by panel, of the others the whole panels [from, to), since the owner of one
// also renews its transpose.
static void R(weights_layer)(fm_run *run, const fm_layer *layer, ptrdiff_t from, ptrdiff_t to,
                             R(ahead) *ahead)
{
    const fm_layer *layers = R(layers)(run);
    const int first_layer = layer == layers, last_layer = layer == layers + run->net.n_layers - 1;
    const real *dZ = R(at)(run, last_layer ? layer->out : layer[1].din);
    const ptrdiff_t n_panels = (layer->vectors + 1) / 2, n = R(n_tiles)(layer->I);
    const ptrdiff_t I = layer->I, group = R(blocks_at_a_time)(run->B, layer->O) * FM_BLOCK;
    const R(blocks) whole = R(blocks_of)(FM_BLOCK), rest = R(blocks_of)(I % FM_BLOCK);
    if (from == 0)
        R(bias)(run, layer, dZ);
    for (ptrdiff_t start = 0; start < I; start += group)
        for (ptrdiff_t p = 0; p < n_panels; p++) {
            const real *panel = dZ + R(column)(R(block_stride)(run), p * WIDTH);
            ptrdiff_t at = first_layer ? p * n + start / FM_BLOCK * R(TILES_OF_BLOCK) : p;
            for (ptrdiff_t f = start; f < R(min)(I, start + group); f += FM_BLOCK) {
                const R(blocks) tiles = I - f < FM_BLOCK ? rest : whole;
                for (ptrdiff_t j = 0; j < tiles.n; j++, at += first_layer) {
                    if (at < from || at >= to)
                        continue;
                    if (first_layer)
                        R(prefetch)(run, ahead);
                    R(weights_tile)(run, layer, panel, p, f + R(block_start)(tiles, j),
                                    R(block_rows)(tiles, j));
                }
            }
        }
    for (ptrdiff_t p = from; !first_layer && !run->store_gradients && p < to; p++)
        R(transpose_panel)((real *)run->state + layer->WT,
                           (real *)run->state + layer->W + p * WIDTH * (layer->I + 1), layer, p);
}

// Part `part` of `n_parts` of all weight tiles: a stretch of equal cost of an order that goes layer
// by layer and panel by panel.
static void R(weights_part)(fm_run *run, int part, int n_parts)
{
    const fm_layer *layers = R(layers)(run);
    ptrdiff_t total = 0;
    for (ptrdiff_t l = 0; l < run->net.n_layers; l++)
        total += layers[l].I * layers[l].vectors;
    const ptrdiff_t from = total * part / n_parts, to = total * (part + 1) / n_parts;

    const ptrdiff_t B = R(min)(run->n_ahead, run->B), row = B * part / n_parts;
    R(ahead) ahead = {.rows = run->rows ? run->rows + run->B + row : NULL, .n = B * (part + 1) / n_parts - row};
    ptrdiff_t cost = 0;
    for (const fm_layer *layer = layers; layer < layers + run->net.n_layers; layer++) {
        // Where the stretch begins and ends, in units of this layer.
        const ptrdiff_t n_panels = (layer->vectors + 1) / 2;
        const ptrdiff_t units = n_panels * (layer > layers ? 1 : R(n_tiles)(layer->I));
        const ptrdiff_t whole = layer->I * layer->vectors;
        const ptrdiff_t first = (from - cost) * units / whole, last = (to - cost) * units / whole;
        const ptrdiff_t begin = first > 0 ? R(min)(first, units) : 0;
        const ptrdiff_t end = to >= cost + whole ? units : last > 0 ? last : 0;
        ahead.tiles = layer > layers ? 0 : end - begin;
        if (begin < end)
            R(weights_layer)(run, layer, begin, end, &ahead);
        cost += whole;
    }
}

// -- inference ----------------------------------------------------------------------------------

// C (B, O) = A (B, I) W (I, O) + b for flat parameters; A has rows lda and blocks `stride` apart. The
// columns that do not fill a panel are copied into `rest`, (I + 1) rows of one.
static void R(linear_forward)(real *C, const real *A, const real *flat, real *rest,
                              const fm_layer *layer, ptrdiff_t B, ptrdiff_t lda, ptrdiff_t stride,
                              ptrdiff_t out_stride, int epilogue)
{
    const ptrdiff_t I = layer->I, O = layer->O;
    const R(blocks) blocks = R(blocks_of)(B);
    const real *bias = flat + I * O;
    ptrdiff_t o = 0;
    while (B == 1 && O - o >= 4 * FM_LANES) {
        real row[FM_ONE_ROW * FM_LANES];
        const ptrdiff_t left = (O - o) / FM_LANES;
        const ptrdiff_t n = left >= FM_ONE_ROW ? FM_ONE_ROW : left >= 8 ? 8 : 4;
        if (n == FM_ONE_ROW)
            R(one_row_of)(row, A, flat + o, bias + o, stride, O, I, FM_ONE_ROW);
        else if (n == 8)
            R(one_row_of)(row, A, flat + o, bias + o, stride, O, I, 8);
        else
            R(one_row_of)(row, A, flat + o, bias + o, stride, O, I, 4);
        for (ptrdiff_t j = 0; j < n * FM_LANES; j += FM_LANES) {
            V c = vload(row + j);
            vstore(C + R(column)(out_stride, o + j), epilogue == FM_STORE_RELU ? vkeep(c, c) : c);
        }
        o += n * FM_LANES;
    }
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
        for (ptrdiff_t i = 0; i < blocks.n; i++) {
            ptrdiff_t b = R(block_start)(blocks, i);
            R(row_tile_strided)((int)R(block_rows)(blocks, i), NV,
                                C + R(column)(out_stride, o) + b * FM_BLOCK, A + b * lda, P, init,
                                lda, stride, ldp, I, epilogue);
        }
    }
}

static void R(forward)(const fm_run *run, void *out, const void *X, ptrdiff_t B)
{
    const fm_layer *layers = R(layers)(run);
    const fm_net *net = &run->net;
    const real *A = X;
    const ptrdiff_t out_stride = R(block_stride)(run), O = net->sizes[net->n_layers];
    ptrdiff_t lda = net->sizes[0], stride = FM_BLOCK;
    real *C = NULL;
    for (const fm_layer *layer = layers; layer < layers + net->n_layers; layer++) {
        int hidden = layer < layers + net->n_layers - 1;
        C = R(at)(run, layer->out);
        R(linear_forward)(C, A, (const real *)run->params + layer->flat, R(rest)(run), layer, B, lda,
                          stride, out_stride,
                          hidden && net->activation == FM_RELU ? FM_STORE_RELU : FM_STORE);
        if (hidden && (net->activation == FM_TANH || net->activation == FM_LOGISTIC))
            R(activation_forward)(C, B, layer->O, out_stride, net->activation);
        A = C;
        lda = FM_BLOCK;
        stride = out_stride;
    }
    for (ptrdiff_t b = 0; b < B; b++)
        for (ptrdiff_t o = 0; o < O; o += FM_BLOCK)
            memcpy((real *)out + b * O + o, C + R(column)(out_stride, o) + b * FM_BLOCK,
                   (size_t)R(min)(FM_BLOCK, O - o) * sizeof(real));
}

static const fm_functions R(functions) = {
    .lanes = FM_LANES, .rows = FM_ROWS, .layout = R(layout), .prepare = R(prepare),
    .load = R(load), .store = R(store), .finite = R(finite), .forward = R(forward),
    .rows_part = R(rows_part), .weights_part = R(weights_part), .loss = R(loss), .math = R(math),
};
