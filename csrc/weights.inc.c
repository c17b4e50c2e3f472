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

// Large batches are summed in stretches of rows, of which dZ's part of a panel takes half of the first-level
// cache: it stays there while some blocks of A pass by, whose sums are kept meanwhile.
enum {
    R(STRETCH) = FM_CACHE_1 / 2 / (WIDTH * (int)sizeof(real)),
    R(MOST_BLOCKS) = 8,
    R(MOST_TILES) = R(MOST_BLOCKS) * ((FM_BLOCK + FM_ROWS(FM_PANEL) - 1) / FM_ROWS(FM_PANEL)),
};
typedef real R(tile_sums)[R(MOST_VECTORS) * FM_LANES];

INLINE R(parts) R(stretches_of)(ptrdiff_t B)
{
    return R(parts_of)(B, B < 4 * R(STRETCH) ? B : R(STRETCH));
}

// How many blocks of A to go through for one panel of dZ before the next: where there are stretches, as many
// as leave room in the second-level cache. Else as many as fit the first level together with the panel;
// else one, while all of dZ stays in the second level; else as many as that one holds.
static ptrdiff_t R(blocks_at_a_time)(ptrdiff_t B, ptrdiff_t O)
{
    const ptrdiff_t block = B * FM_BLOCK * (ptrdiff_t)sizeof(real);
    const ptrdiff_t panel = B * WIDTH * (ptrdiff_t)sizeof(real);
    if (R(stretches_of)(B).n > 1)
        return R(min)(R(MOST_BLOCKS), 1 + FM_CACHE / block);
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

// A panel over the features [start, end), tile by tile, and which of the tiles are whose: as they count,
// from `unit` on, those in [from, to).
typedef struct R(tiling) {
    const fm_layer *layer;
    const real *dZ;
    ptrdiff_t at[FM_PANEL], o;   // the panel's columns, and the first of them
    int NV;
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
    const real *A = R(at)(run, layer->in + R(column)(R(block_stride)(run), f) + b * FM_BLOCK);
    real *state = (real *)run->state + of->o * (layer->I + 1) + (1 + f) * width;
    errands->waiting.next_W = state + layer->W;
    errands->waiting.next_moment1 = state + layer->moment1;
    errands->waiting.next_moment2 = state + (errands->rule.adam ? layer->moment2 : layer->moment1);
    errands->copies = R(next_copies)(run, errands, rows);
    errands->so_far = so_far;
    R(column_tiles)[of->NV - 1][M - 1](errands, A, of->dZ + b * FM_BLOCK, of->at, rows);
    R(gather_on)(run, errands);
    errands->updates = 0;
    if (run->store_gradients) {
        R(store_gradients)(run, layer, errands->dW, f, M, of->o, width);
        return;
    }
    errands->waiting.W = state + layer->W;
    errands->waiting.moment1 = state + layer->moment1;
    errands->waiting.moment2 = state + layer->moment2;
    errands->updates = M * of->NV;
}

// The tiles of a tiling over the rows [b, b + n) of the batch. The sums are kept for the next stretch of rows,
// whose part of dZ the last tiles ask for, two each for a column; the last stretch ends in updates.
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
        if (f == 0 && last && unit >= of->from && unit < of->to)
            R(bias)(run, of->layer, errands, of->dZ, of->at, of->o, of->NV);
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
            const ptrdiff_t A = of->layer->in + R(column)(stride, row) + b * FM_BLOCK;
            const ptrdiff_t ask = left < 2 * of->NV ? of->at[left / 2] + (n + left % 2) * FM_BLOCK : 0;
            R(stretch_tiles)[of->NV - 1][M - 1](*sums, R(at)(run, A), of->dZ + b * FM_BLOCK, of->at, n,
                                                ask);
        }
    }
}

// A part of the weight tiles of one layer. Of the first layer it is the tiles [from, to) in an
// order that goes panel by panel, of the others the whole panels [from, to), since the owner of one
// also renews its transpose.
static void R(weights_layer)(fm_run *run, const fm_layer *layer, R(errands) *errands,
                             ptrdiff_t from, ptrdiff_t to)
{
    if (from == to)
        return;
    _Alignas(FM_ALIGN) R(tile_sums) sums[R(MOST_TILES)];
    const fm_layer *layers = R(layers)(run);
    const int first_layer = layer == layers, last_layer = layer == layers + run->net.n_layers - 1;
    const R(panels) widths = R(panels_of_layer)(layer);
    const R(parts) stretches = R(stretches_of)(run->B);
    const ptrdiff_t I = layer->I, group = R(blocks_at_a_time)(run->B, layer->O) * FM_BLOCK;
    R(tiling) of = {.layer = layer, .from = from, .to = to, .counts = first_layer,
                    .dZ = R(at)(run, last_layer ? layer->out : layer[1].din)};
    if (first_layer && R(gathers_ahead)(run))
        R(gather_ahead)(run, errands, from, to, R(tiles_before)(widths, widths.n, I));
    for (of.start = 0; of.start < I; of.start = of.end) {
        of.end = R(min)(I, of.start + group);
        for (ptrdiff_t p = 0; p < widths.n; p++) {
            of.o = R(panel_start)(widths, p) * FM_LANES;
            of.NV = R(panel_size)(widths, p);
            of.unit = first_layer ? R(tiles_before)(widths, p, I) + R(n_tiles)(of.start, of.NV) : p;
            const ptrdiff_t units = first_layer ? R(n_tiles)(of.end - of.start, of.NV) : 1;
            if (of.unit + units <= from || of.unit >= to)
                continue;
            R(columns)(of.at, R(block_stride)(run), of.o, of.NV);
            for (ptrdiff_t s = 0; s < stretches.n; s++)
                R(weights_stretch)(run, &of, errands, sums, R(part_start)(stretches, s),
                                   R(part_size)(stretches, s));
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
