// Phase B: the gradients of the weights, tile by tile, and their update.

// Copies the gradients of M rows of a panel, columns n on, to run->gradients.
static void R(store_gradients)(fm_run *run, const fm_layer *layer, const real *dW, ptrdiff_t row,
                               ptrdiff_t M, ptrdiff_t n, ptrdiff_t width)
{
    real *out = (real *)run->gradients + layer->flat + row * layer->O + n;
    size_t bytes = (size_t)R(min)(width, layer->O - n) * sizeof(real);
    for (ptrdiff_t r = 0; r < M; r++)
        memcpy(out + r * layer->O, dW + r * width, bytes);
}

// Where the updated parameters go.
INLINE real *R(new_state)(const fm_run *run) { return run->backup ? run->backup : run->state; }

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
        R(transpose_panel)(R(new_state)(run) + layer->WT,
                           R(new_state)(run) + layer->W + p * WIDTH * (layer->I + 1), layer, p);
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
    errands.shift = R(new_state)(run) - (real *)run->state;
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
