// Phase B: the gradients of the weights, tile by tile, and their update.

// Copies the gradients of M rows of a panel of a form, columns n on, to run->gradients.
static void R(copy_gradients)(fm_run *run, const fm_layer *layer, const R(form) *form, const real *dW,
                              ptrdiff_t row, ptrdiff_t M, ptrdiff_t n, ptrdiff_t width)
{
    real *out = (real *)run->gradients + layer->flat;
    const ptrdiff_t valid = R(min)(width, form->columns - n);
    for (ptrdiff_t r = row; r < row + M; r++, dW += width)
        if (form->at == layer->W)
            memcpy(out + r * layer->O + n, dW, (size_t)valid * sizeof(real));
        else
            for (ptrdiff_t j = 0; j < valid; j++)
                out[(n + j) * layer->O + r] = dW[j];
}

// Where the updated parameters go.
INLINE real *R(new_state)(const fm_run *run) { return run->backup ? run->backup : run->state; }

// A gradient is left^T right: of A and dZ or, in a turned layer, of dZ and A. Large batches are summed in
// stretches of rows, of which a panel's part of `right` takes half of the first-level cache: it stays there
// while some blocks of `left` pass by, whose sums are kept meanwhile.
enum {
    R(MOST_BLOCKS) = 8,
    R(MOST_TILES) = R(MOST_BLOCKS) * ((FM_BLOCK + FM_ROWS(FM_PANEL) - 1) / FM_ROWS(FM_PANEL)),
};
typedef real R(tile_sums)[R(MOST_VECTORS) * FM_LANES];

INLINE R(parts) R(stretches_of)(ptrdiff_t B)
{
    return R(parts_of)(B, B < R(LONG) ? B : R(STRETCH));
}

// How many blocks of `left` to go through for one panel of `right`, which has so many columns, before the next:
// where there are stretches, as many as leave room in the second-level cache. Else as many as fit the first
// level together with the panel; else one, while all of `right` stays in the second level; else as many as that
// one holds.
static ptrdiff_t R(blocks_at_a_time)(ptrdiff_t B, ptrdiff_t columns)
{
    const ptrdiff_t block = B * FM_BLOCK * (ptrdiff_t)sizeof(real);
    const ptrdiff_t panel = B * WIDTH * (ptrdiff_t)sizeof(real);
    if (R(stretches_of)(B).n > 1)
        return R(min)(R(MOST_BLOCKS), 1 + FM_CACHE / block);
    if (panel + block <= FM_CACHE_1)
        return (FM_CACHE_1 - panel) / block;
    return B * columns * (ptrdiff_t)sizeof(real) <= FM_CACHE ? 1 : 1 + FM_CACHE / block;
}

// The update of the biases of panel p of W.
static void R(update_bias)(const fm_run *run, const fm_layer *layer, ptrdiff_t p, const real db[WIDTH],
                           ptrdiff_t shift, const R(rule) *rule)
{
    const R(form) form = R(W_of)(layer);
    const ptrdiff_t moment = R(bias_moment)(layer, R(first_column)(&form, p));
    real *state = run->state, *bias = state + form.at + R(row_at)(&form, p, -1);
    for (ptrdiff_t j = 0; j < R(width)(&form, p); j += FM_LANES)
        R(update_vector)(bias + j, state + layer->moment1 + moment + j, state + layer->moment2 + moment + j,
                         shift, vload(db + j), rule, 0);
}

// The biases of panel p of W, from all of dZ.
static void R(bias)(fm_run *run, const fm_layer *layer, const R(errands) *errands, const real *dZ,
                    ptrdiff_t p)
{
    const R(form) form = R(W_of)(layer);
    const ptrdiff_t o = R(first_column)(&form, p);
    _Alignas(FM_ALIGN) real db[WIDTH];
    ptrdiff_t at[FM_PANEL];
    R(columns)(at, R(block_stride)(run), o, R(panel_size)(form.widths, p));
    R(column_sum)(db, dZ, at, run->B);
    if (run->store_gradients)
        R(copy_gradients)(run, layer, &form, db, layer->I, 1, o, R(width)(&form, p));
    else
        R(update_bias)(run, layer, p, db, errands->shift, &errands->rule);
}

// A panel p of the form that an update changes, over its rows [start, end), tile by tile, and which of the
// tiles are whose: as they count, from `unit` on, those in [from, to).
typedef struct R(tiling) {
    const fm_layer *layer;
    R(form) form;
    const real *left, *right;
    ptrdiff_t p, panel;          // where in the form its rows begin
    int NV;
    ptrdiff_t at[FM_PANEL];      // the columns of `right`
    ptrdiff_t start, end;
    ptrdiff_t unit, from, to;
    int counts;                  // by tiles: else all of them are one unit
} R(tiling);

// Rows [f, f + M) of the panel: the last rows of the sums, from row b of the batch on, and the update.
static void R(weights_tile)(fm_run *run, const R(tiling) *of, R(errands) *errands, const real *so_far,
                            ptrdiff_t f, int M, ptrdiff_t b)
{
    const fm_layer *layer = of->layer;
    const ptrdiff_t width = of->NV * FM_LANES, rows = run->B - b;
    const real *left = of->left + R(column)(R(block_stride)(run), f) + b * FM_BLOCK;
    real *state = (real *)run->state + of->panel + f * width;
    errands->waiting.own_W = state + of->form.at;
    errands->waiting.own_moment1 = state + layer->moment1;
    errands->waiting.own_moment2 = state + (errands->rule.adam ? layer->moment2 : layer->moment1);
    errands->copies = R(next_copies)(errands, rows);
    errands->so_far = so_far;
    const int is_listed = R(is_listed)(run, layer);
    if (is_listed) {
        R(ask_on)(run, &errands->asking);
        R(csr_column_tiles)[of->NV - 1](errands, run, f, of->right, of->at, M);
    } else {
        R(column_tiles)[of->NV - 1][M - 1](errands, left, of->right + b * FM_BLOCK, of->at, rows);
    }
    R(gather_on)(run, errands);
    errands->updates = 0;
    if (run->store_gradients) {
        R(copy_gradients)(run, layer, &of->form, errands->dW, f, M, R(first_column)(&of->form, of->p),
                           width);
    } else if (!is_listed) { // whose tiles end with their own update
        errands->waiting.W = state + of->form.at;
        errands->waiting.moment1 = state + layer->moment1;
        errands->waiting.moment2 = state + layer->moment2;
        errands->updates = M * of->NV;
    }
}

// The tiles of a tiling over the rows [b, b + n) of the batch. The sums are kept for the next stretch of rows,
// whose part of `right` the last tiles ask for, two each for a column; the last stretch ends in updates.
static void R(weights_stretch)(fm_run *run, const R(tiling) *of, R(errands) *errands, R(tile_sums) *sums,
                               ptrdiff_t b, ptrdiff_t n)
{
    const R(parts) whole = R(parts_of)(FM_BLOCK, FM_ROWS(of->NV));
    const ptrdiff_t stride = R(block_stride)(run);
    const int first = b == 0, last = b + n == run->B;
    ptrdiff_t unit = of->unit, left = R(n_tiles)(of->end - of->start, of->NV);
    for (ptrdiff_t f = of->start; f < of->end; f += FM_BLOCK) {
        const R(parts) tiles =
            of->end - f < FM_BLOCK ? R(parts_of)(of->end - f, FM_ROWS(of->NV)) : whole;
        if (f == 0 && last && !of->layer->turned && unit >= of->from && unit < of->to)
            R(bias)(run, of->layer, errands, of->right, of->p);
        for (ptrdiff_t t = 0; t < tiles.n; t++, unit += of->counts, sums += !(first && last)) {
            left--;
            if (unit < of->from || unit >= of->to)
                continue;
            const ptrdiff_t row = f + R(part_start)(tiles, t);
            const int M = R(part_size)(tiles, t);
            if (last) {
                R(weights_tile)(run, of, errands, first ? NULL : *sums, row, M, b);
                continue;
            }
            if (first)
                memset(*sums, 0, sizeof *sums);
            const ptrdiff_t ask = left < 2 * of->NV ? of->at[left / 2] + (n + left % 2) * FM_BLOCK : 0;
            R(stretch_tiles)[of->NV - 1][M - 1](*sums, of->left + R(column)(stride, row) + b * FM_BLOCK,
                                                of->right + b * FM_BLOCK, of->at, n, ask);
        }
    }
}

// The row of the panel that tile t of a tiling begins with.
INLINE ptrdiff_t R(row_of_tile)(const R(tiling) *of, ptrdiff_t t)
{
    const ptrdiff_t n = R(parts_of)(FM_BLOCK, FM_ROWS(of->NV)).n;
    const ptrdiff_t f = R(min)(of->start + t / n * FM_BLOCK, of->end);
    return f + R(part_start)(R(parts_of)(R(min)(FM_BLOCK, of->end - f), FM_ROWS(of->NV)), t % n);
}

// The tiles of a tiling for a small batch.
static void R(small_weights)(fm_run *run, const R(tiling) *of, const R(errands) *errands)
{
    const fm_layer *layer = of->layer;
    const ptrdiff_t n = R(n_tiles)(of->end - of->start, of->NV);
    const int bias = of->start == 0 && of->unit >= of->from && !layer->turned;
    real *state = (real *)run->state + of->panel;
    R(small_update) update = {
        .W = state + of->form.at, .moment1 = state + layer->moment1,
        .moment2 = state + (errands->rule.adam ? layer->moment2 : layer->moment1),
        .A = of->left, .D = of->right, .stride = R(block_stride)(run), .B = run->B,
        .rule = errands->rule, .is_plain = errands->is_plain, .shift = errands->shift,
    };
    memcpy(update.at, of->at, sizeof update.at);
    if (bias)
        R(bias)(run, layer, errands, of->right, of->p);
    R(updates_of_rows)[of->NV - 1](
        &update, of->counts ? R(row_of_tile)(of, R(max)(0, of->from - of->unit)) : of->start,
        of->counts ? R(row_of_tile)(of, R(min)(n, of->to - of->unit)) : of->end);
}

// A part of the weight tiles of one layer: the units [from, to), which are tiles in an order that goes panel
// by panel, or whole panels.
static void R(weights_layer)(fm_run *run, const fm_layer *layer, R(errands) *errands,
                             ptrdiff_t from, ptrdiff_t to)
{
    if (from == to)
        return;
    _Alignas(FM_ALIGN) R(tile_sums) sums[R(MOST_TILES)];
    const fm_layer *layers = R(layers)(run);
    const int last_layer = layer == layers + run->net.n_layers - 1, counts = !R(has_both)(run, layer);
    const real *A = R(at)(run, layer->in), *dZ = R(at)(run, last_layer ? layer->out : layer[1].din);
    const R(form) form = R(updated)(layer);
    const int is_small = R(is_small)(run) && !run->store_gradients && !R(is_listed)(run, layer);
    const R(parts) stretches = R(is_listed)(run, layer) ? R(parts_of)(run->B, run->B) : R(stretches_of)(run->B);
    const ptrdiff_t group = R(blocks_at_a_time)(run->B, form.columns) * FM_BLOCK;
    R(tiling) of = {.layer = layer, .form = form, .from = from, .to = to, .counts = counts,
                    .left = layer->turned ? dZ : A, .right = layer->turned ? A : dZ};
    if (R(is_listed)(run, layer))
        R(ask_ahead)(run, errands, from, to, R(n_units)(run, layer));
    if (layer == layers && R(gathers_ahead)(run))
        R(gather_ahead)(run, errands, from, to, R(n_units)(run, layer));
    for (ptrdiff_t p = 0; layer->turned && from == 0 && p < R(W_of)(layer).widths.n; p++)
        R(bias)(run, layer, errands, dZ, p);
    for (of.start = 0; of.start < form.rows; of.start = of.end) {
        of.end = R(min)(form.rows, of.start + group);
        for (of.p = 0; of.p < form.widths.n; of.p++) {
            of.NV = R(panel_size)(form.widths, of.p);
            of.unit = of.p;
            if (counts)
                of.unit = R(tiles_before)(form.widths, of.p, form.rows) + R(n_tiles)(of.start, of.NV);
            const ptrdiff_t units = counts ? R(n_tiles)(of.end - of.start, of.NV) : 1;
            if (of.unit + units <= from || of.unit >= to)
                continue;
            of.panel = R(row_at)(&form, of.p, 0);
            R(columns)(of.at, R(block_stride)(run), R(first_column)(&form, of.p), of.NV);
            if (is_small) {
                R(small_weights)(run, &of, errands);
                continue;
            }
            for (ptrdiff_t s = 0; s < stretches.n; s++)
                R(weights_stretch)(run, &of, errands, sums, R(part_start)(stretches, s),
                                   R(part_size)(stretches, s));
        }
    }
    R(gather_rest)(run, errands);
    R(flush)(errands);
    for (ptrdiff_t p = from; R(has_both)(run, layer) && !run->store_gradients && p < to; p++)
        R(renew)(R(new_state)(run), layer, p);
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
