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

// The bias of the panel of NV vectors that begins with column o: the columns `at` of dZ.
static void R(bias)(fm_run *run, const fm_layer *layer, const R(errands) *errands, const real *dZ,
                    const ptrdiff_t at[FM_PANEL], ptrdiff_t o, int NV)
{
    _Alignas(FM_ALIGN) real db[WIDTH];
    R(column_sum)(db, dZ, at, run->B);
    if (run->store_gradients) {
        R(store_gradients)(run, layer, db, layer->I, 1, o, NV * FM_LANES);
        return;
    }
    real *state = (real *)run->state + o * (layer->I + 1);
    for (ptrdiff_t j = 0; j < NV * FM_LANES; j += FM_LANES)
        R(update_vector)(state + layer->W + j, state + layer->moment1 + j, state + layer->moment2 + j,
                         errands->shift, vload(db + j), &errands->rule, 0);
}

// Rows [f, f + M) of that panel.
static void R(weights_tile)(fm_run *run, const fm_layer *layer, R(errands) *errands, const real *dZ,
                            const ptrdiff_t at[FM_PANEL], ptrdiff_t o, int NV, ptrdiff_t f, int M)
{
    const ptrdiff_t width = NV * FM_LANES;
    const real *A = R(at)(run, layer->in + R(column)(R(block_stride)(run), f));
    real *state = (real *)run->state + o * (layer->I + 1) + (1 + f) * width;
    errands->waiting.next_W = state + layer->W;
    errands->waiting.next_moment1 = state + layer->moment1;
    errands->waiting.next_moment2 = state + (errands->rule.adam ? layer->moment2 : layer->moment1);
    errands->copies = R(next_copies)(run, errands);
    R(column_tiles)[NV - 1][M - 1](errands, A, dZ, at, run->B);
    R(gather_on)(run, errands);
    errands->updates = 0;
    if (run->store_gradients) {
        R(store_gradients)(run, layer, errands->dW, f, M, o, width);
        return;
    }
    errands->waiting.W = state + layer->W;
    errands->waiting.moment1 = state + layer->moment1;
    errands->waiting.moment2 = state + layer->moment2;
    errands->updates = M * NV;
}

// A part of the weight tiles of one layer. Of the first layer it is the tiles [from, to) in an
// order that goes panel by panel, of the others the whole panels [from, to), since the owner of one
// also renews its transpose.
static void R(weights_layer)(fm_run *run, const fm_layer *layer, R(errands) *errands,
                             ptrdiff_t from, ptrdiff_t to)
{
    if (from == to)
        return;
    const fm_layer *layers = R(layers)(run);
    const int first_layer = layer == layers, last_layer = layer == layers + run->net.n_layers - 1;
    const real *dZ = R(at)(run, last_layer ? layer->out : layer[1].din);
    const R(parts) widths = R(panels_of)(layer->vectors);
    const ptrdiff_t I = layer->I, group = R(blocks_at_a_time)(run->B, layer->O) * FM_BLOCK;
    if (first_layer && R(gathers_ahead)(run))
        R(gather_ahead)(run, errands, from, to, R(tiles_before)(widths, widths.n, I));
    for (ptrdiff_t start = 0; start < I; start += group)
        for (ptrdiff_t p = 0; p < widths.n; p++) {
            const ptrdiff_t o = R(part_start)(widths, p) * FM_LANES;
            const int NV = R(part_size)(widths, p);
            const R(parts) whole = R(parts_of)(FM_BLOCK, FM_ROWS(NV));
            const R(parts) rest = R(parts_of)(I % FM_BLOCK, FM_ROWS(NV));
            ptrdiff_t unit = p, at[FM_PANEL];
            if (first_layer)
                unit = R(tiles_before)(widths, p, I) + start / FM_BLOCK * whole.n;
            R(columns)(at, R(block_stride)(run), o, NV);
            for (ptrdiff_t f = start; f < R(min)(I, start + group); f += FM_BLOCK) {
                const R(parts) tiles = I - f < FM_BLOCK ? rest : whole;
                if (f == 0 && unit >= from && unit < to)
                    R(bias)(run, layer, errands, dZ, at, o, NV);
                for (ptrdiff_t t = 0; t < tiles.n; t++, unit += first_layer)
                    if (unit >= from && unit < to)
                        R(weights_tile)(run, layer, errands, dZ, at, o, NV,
                                        f + R(part_start)(tiles, t), R(part_size)(tiles, t));
            }
        }
    R(gather_rest)(run, errands);
    R(flush)(errands);
    real *state = R(new_state)(run);
    for (ptrdiff_t p = from; !first_layer && !run->store_gradients && p < to; p++)
        R(transpose_panel)(state + layer->WT, state + layer->W, layer, p);
}

// Part `part` of `n_parts` of the weight tiles of all layers.
static void R(weights_part)(fm_run *run, int part, int n_parts)
{
    const fm_layer *layers = R(layers)(run);
    R(errands) errands;
    errands.rule = R(rule_of)(run);
    errands.shift = R(new_state)(run) - (real *)run->state;
    errands.is_plain = !errands.rule.adam && !errands.rule.nesterov && !errands.rule.decays &&
                       errands.rule.least == 0 && errands.shift == 0;
    errands.updates = errands.row = errands.end = 0;
    errands.waiting = (R(waiting)){0};
    errands.copying = (R(copying)){0};

    for (const fm_layer *layer = layers; layer < layers + run->net.n_layers; layer++)
        R(weights_layer)(run, layer, &errands, R(first_unit)(run, layer, part, n_parts),
                         R(first_unit)(run, layer, part + 1, n_parts));
}
