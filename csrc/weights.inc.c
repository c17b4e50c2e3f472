// Phase B: the gradients of the weights, each used up at once by the update. Also inference from
// the flat parameters, without panels.

// Copies the gradients of M rows of a panel, columns n on, to run->gradients.
static void R(store_gradients)(fm_run *run, const fm_layer *layer, const real *dW, ptrdiff_t row,
                               ptrdiff_t M, ptrdiff_t n, ptrdiff_t width)
{
    real *out = (real *)run->gradients + layer->flat + row * layer->O + n;
    size_t bytes = (size_t)R(min)(width, layer->O - n) * sizeof(real);
    for (ptrdiff_t r = 0; r < M; r++)
        memcpy(out + r * layer->O, dW + r * width, bytes);
}

// Rows of X of this many columns and more lie on pages of their own, and to find a page takes longer
// than to read from it: they are gathered ahead.
enum { R(WIDE) = 1024 / sizeof(real) };

// From the row that is copied to the one asked for; and rows whose pages are asked for at once.
enum { R(AHEAD) = 2, R(GROUP) = 16 };

static int R(gathers_ahead)(const fm_run *run)
{
    return run->n_ahead > 0 && run->net.sizes[0] >= R(WIDE) && !run->store_gradients;
}

// Asks for the pages of the rows [b, end) of the next batch: all at once takes hardly longer than
// one.
static void R(ask_for_pages)(const fm_run *run, ptrdiff_t b, ptrdiff_t end)
{
    enum { PAGE = 4096 / sizeof(real) };
    const ptrdiff_t I = run->net.sizes[0];
    for (; b < end; b++) {
        const real *row = (const real *)run->X + R(row_of)(run, run->B + b) * I;
        for (ptrdiff_t k = 0; k < I; k += PAGE)
            FM_PREFETCH(row + k);
        FM_PREFETCH(row + I - 1);
    }
}

// Sets out to copy row `b` of the next batch.
static void R(gather_from)(const fm_run *run, R(errands) *errands, ptrdiff_t b)
{
    const ptrdiff_t I = run->net.sizes[0];
    errands->row = b;
    errands->copied = 0;
    if (b >= errands->end)
        return;
    if (b % R(GROUP) == 0)
        R(ask_for_pages)(run, R(min)(b + R(AHEAD), errands->end),
                         R(min)(b + R(AHEAD) + R(GROUP), errands->end));
    const ptrdiff_t later = R(min)(b + R(AHEAD), errands->end - 1);
    errands->from = (const real *)run->X + R(row_of)(run, run->B + b) * I;
    errands->later = (const real *)run->X + R(row_of)(run, run->B + later) * I;
    errands->to = R(at)(run, R(layers)(run)->ahead + b * FM_BLOCK);
}

// A thread that does the tiles [first, last) of the `n_tiles` of the first layer gathers as large a
// part of the next batch along with them.
static void R(gather_ahead)(const fm_run *run, R(errands) *errands, ptrdiff_t first, ptrdiff_t last,
                            ptrdiff_t n_tiles)
{
    const ptrdiff_t rows = R(min)(run->n_ahead, run->B), begin = rows * first / n_tiles;
    errands->end = rows * last / n_tiles;
    errands->stride = R(block_stride)(run);
    const ptrdiff_t vectors = (errands->end - begin) * (run->net.sizes[0] / FM_LANES);
    errands->copies_of_tile = (vectors + last - first - 1) / (last - first);
    R(ask_for_pages)(run, begin, R(min)(begin + R(AHEAD) + R(GROUP), errands->end));
    R(gather_from)(run, errands, begin);
}

// How much of it the next tile does; and after that tile, on to the next row where one is done.
INLINE ptrdiff_t R(next_copies)(const fm_run *run, const R(errands) *errands)
{
    if (errands->row >= errands->end)
        return 0;
    const ptrdiff_t left = run->net.sizes[0] / FM_LANES - errands->copied;
    return R(min)(R(min)(errands->copies_of_tile, left), run->B);
}
INLINE void R(gather_on)(const fm_run *run, R(errands) *errands)
{
    const ptrdiff_t b = errands->row;
    errands->copied += errands->copies;
    if (b >= errands->end || errands->copied < run->net.sizes[0] / FM_LANES)
        return;
    R(gather_row)(run, R(layers)(run)->ahead, b, run->B + b, errands->copied * FM_LANES);
    R(gather_from)(run, errands, b + 1);
}

// What the tiles did not get to.
static void R(gather_rest)(const fm_run *run, R(errands) *errands)
{
    for (ptrdiff_t b = errands->row; b < errands->end; b++, errands->copied = 0)
        R(gather_row)(run, R(layers)(run)->ahead, b, run->B + b, errands->copied * FM_LANES);
    errands->row = errands->end = 0;
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

// Rows [f, f + M) of panel p; D is that panel's columns of dZ. The first rows bring the bias along,
// which lies before them.
static void R(weights_tile)(fm_run *run, const fm_layer *layer, R(errands) *errands, const real *D,
                            ptrdiff_t p, ptrdiff_t f, ptrdiff_t M)
{
    const int NV = R(panel_vectors)(layer->vectors, p), width = NV * FM_LANES, with_bias = f == 0;
    const real *A = R(at)(run, layer->in + R(column)(R(block_stride)(run), f));
    real *state = (real *)run->state + p * WIDTH * (layer->I + 1) + (with_bias ? 0 : 1 + f) * width;
    errands->next_W = state + layer->W;
    errands->next_moment1 = state + layer->moment1;
    errands->copies = R(next_copies)(run, errands);
    R(column_tile)((int)M, NV, errands, A, D, run->B, with_bias);
    R(gather_on)(run, errands);
    errands->updates = 0;
    if (run->store_gradients) {
        if (with_bias)
            R(store_gradients)(run, layer, errands->dW, layer->I, 1, p * WIDTH, width);
        R(store_gradients)(run, layer, errands->dW + with_bias * width, f, M, p * WIDTH, width);
        return;
    }
    errands->W = state + layer->W;
    errands->moment1 = state + layer->moment1;
    errands->moment2 = state + layer->moment2;
    errands->bias_vectors = with_bias * NV;
    errands->updates = (with_bias + M) * NV;
}

// A part of the weight tiles of one layer. Of the first layer it is the tiles [from, to) in an
// order that goes panel by panel, of the others the whole panels [from, to), since the owner of one
// also renews its transpose.
static void R(weights_layer)(fm_run *run, const fm_layer *layer, R(errands) *errands,
                             ptrdiff_t from, ptrdiff_t to)
{
    const fm_layer *layers = R(layers)(run);
    const int first_layer = layer == layers, last_layer = layer == layers + run->net.n_layers - 1;
    const real *dZ = R(at)(run, last_layer ? layer->out : layer[1].din);
    const ptrdiff_t n_panels = (layer->vectors + 1) / 2, n = R(n_tiles)(layer->I);
    const ptrdiff_t I = layer->I, group = R(blocks_at_a_time)(run->B, layer->O) * FM_BLOCK;
    const R(blocks) whole = R(blocks_of)(FM_BLOCK), rest = R(blocks_of)(I % FM_BLOCK);
    if (first_layer && R(gathers_ahead)(run))
        R(gather_ahead)(run, errands, from, to, n * n_panels);
    for (ptrdiff_t start = 0; start < I; start += group)
        for (ptrdiff_t p = 0; p < n_panels; p++) {
            const real *D = dZ + R(column)(R(block_stride)(run), p * WIDTH);
            ptrdiff_t at = first_layer ? p * n + start / FM_BLOCK * R(TILES_OF_BLOCK) : p;
            for (ptrdiff_t f = start; f < R(min)(I, start + group); f += FM_BLOCK) {
                const R(blocks) tiles = I - f < FM_BLOCK ? rest : whole;
                for (ptrdiff_t t = 0; t < tiles.n; t++, at += first_layer)
                    if (at >= from && at < to)
                        R(weights_tile)(run, layer, errands, D, p, f + R(block_start)(tiles, t),
                                        R(block_rows)(tiles, t));
            }
        }
    R(gather_rest)(run, errands);
    R(flush)(errands);
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

    R(errands) errands;
    errands.rule = R(rule_of)(&run->rule);
    errands.updates = errands.row = errands.end = errands.copied = 0;
    ptrdiff_t cost = 0;
    for (const fm_layer *layer = layers; layer < layers + run->net.n_layers; layer++) {
        // Where the stretch begins and ends, in units of this layer.
        const ptrdiff_t n_panels = (layer->vectors + 1) / 2;
        const ptrdiff_t units = n_panels * (layer > layers ? 1 : R(n_tiles)(layer->I));
        const ptrdiff_t whole = layer->I * layer->vectors;
        const ptrdiff_t first = (from - cost) * units / whole, last = (to - cost) * units / whole;
        const ptrdiff_t begin = first > 0 ? R(min)(first, units) : 0;
        const ptrdiff_t end = to >= cost + whole ? units : last > 0 ? last : 0;
        if (begin < end)
            R(weights_layer)(run, layer, &errands, begin, end);
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
    .rows_part = R(rows_part), .weights_part = R(weights_part), .gathers_ahead = R(gathers_ahead), .loss = R(loss), .math = R(math),
};
