// Who has which outputs of a layer. Layers that go by columns: a thread multiplies with the weights that it
// updates, for the whole batch, so that they need not move from one core to another.

// Tiles over a panel of NV vectors share out the features of a layer; none reaches over the end of a
// block.
INLINE ptrdiff_t R(n_tiles)(ptrdiff_t I, int NV)
{
    return I / FM_BLOCK * R(parts_of)(FM_BLOCK, FM_ROWS(NV)).n +
           R(parts_of)(I % FM_BLOCK, FM_ROWS(NV)).n;
}

// How many tiles the panels before panel p have.
INLINE ptrdiff_t R(tiles_before)(R(panels) widths, ptrdiff_t p, ptrdiff_t I)
{
    const R(parts) of = widths.of_group;
    const ptrdiff_t g = R(group_of)(widths, p), wider = g * of.rest + R(min)(p - g * of.n, of.rest);
    return wider * R(n_tiles)(I, (int)of.size + 1) + (p - wider) * R(n_tiles)(I, (int)of.size);
}

// What the weights of a layer are shared out by: tiles, or whole panels where the owner of one also renews the
// other form from it.
static ptrdiff_t R(n_units)(const fm_run *run, const fm_layer *layer)
{
    const R(panels) widths = R(updated)(layer).widths;
    return R(has_both)(run, layer) ? widths.n : R(tiles_before)(widths, widths.n, layer->I);
}

// Vectors that an update of a layer changes.
INLINE ptrdiff_t R(n_vectors)(const fm_layer *layer)
{
    return layer->turned ? layer->O * R(vectors)(layer->I) : layer->I * layer->vectors;
}

// Whether a layer is shared out for itself: the first where the inputs are wide, others where there are
// many panels.
static int R(is_shared_alone)(const fm_run *run, const fm_layer *layer, int n_parts)
{
    return layer == R(layers)(run) ? layer->I >= R(WIDE) : R(n_units)(run, layer) >= 4 * n_parts;
}

// The first unit of part `part` of n_parts of a layer. Layers that are not shared out for themselves are so
// together, in stretches of equal cost of an order that goes layer by layer and panel by panel.
static ptrdiff_t R(first_unit)(const fm_run *run, const fm_layer *layer, int part, int n_parts)
{
    const fm_layer *layers = R(layers)(run);
    const ptrdiff_t n = R(n_units)(run, layer);
    if (n_parts == 1 || R(is_shared_alone)(run, layer, n_parts))
        return n * part / n_parts;
    ptrdiff_t total = 0, before = 0;
    for (const fm_layer *other = layers; other < layers + run->net.n_layers; other++) {
        before = other == layer ? total : before;
        total += R(is_shared_alone)(run, other, n_parts) ? 0 : R(n_vectors)(other);
    }
    const ptrdiff_t begin = total * part / n_parts - before;
    return R(min)(n, R(max)(0, begin) * n / R(n_vectors)(layer));
}

// How many of the first layers go by columns: wide ones that are shared out for themselves and, after the
// first, have more weights than comes in and goes out; as far as nothing is left to do for the rows in
// between.
static int R(n_by_columns)(const fm_run *run, int n_threads)
{
    const fm_layer *layers = R(layers)(run), *layer = layers, *end = layers + run->net.n_layers;
    if (n_threads == 1)
        return 0;
    for (; layer < end && layer->I >= R(WIDE); layer++)
        if (layer->turned || !R(is_shared_alone)(run, layer, n_threads) ||
            (layer > layers && (!R(is_done_in_tile)(run, layer - 1) ||
                                2 * layer->I * layer->O < run->B * (layer->I + layer->O))))
            break;
    return (int)(layer - layers);
}

// The sums of the panels [from, to) of a layer for the whole batch.
static void R(whole_panels)(const fm_run *run, const fm_layer *layer, ptrdiff_t from, ptrdiff_t to)
{
    const R(parts) rows = R(parts_of)(run->B, FM_ROWS_AT_LEAST);
    for (ptrdiff_t i = 0; i < rows.n; i++)
        R(layer_forward)(run, layer, R(part_start)(rows, i), R(part_start)(rows, i + 1), from, to);
}

// A part of the sums of the first layer: a stretch of equal cost of an order that goes panel by panel, as
// that of its weight tiles does.
static void R(first_columns)(const fm_run *run, int part, int n_parts)
{
    const fm_layer *layer = R(layers)(run);
    const R(panels) widths = R(W_of)(layer).widths;
    const ptrdiff_t B = run->B, total = layer->vectors * B;
    const ptrdiff_t begin = total * part / n_parts, end = total * (part + 1) / n_parts;
    ptrdiff_t whole = 0, n_whole = 0, rows_before = 0;
    for (ptrdiff_t p = 0; p < widths.n; p++) {
        const int size = R(panel_size)(widths, p);
        const ptrdiff_t first = R(max)(0, begin - rows_before) / size;
        const ptrdiff_t last = R(min)(B, R(max)(0, end - rows_before) / size);
        rows_before += B * size;
        if (first == 0 && last == B)
            whole = p - n_whole++;
        else if (first < last) // two threads share the panel: at the same time, or it comes back late
            R(layer_forward)(run, layer, first, last, p, p + 1);
    }
    if (n_whole)
        R(whole_panels)(run, layer, whole, whole + n_whole);
}

// A part of the sums of layer l.
static void R(columns_part)(fm_run *run, int l, int part, int n_parts)
{
    const fm_layer *layer = R(layers)(run) + l;
    if (l == 0)
        R(first_columns)(run, part, n_parts);
    else
        R(whole_panels)(run, layer, R(first_unit)(run, layer, part, n_parts),
                        R(first_unit)(run, layer, part + 1, n_parts));
}
