// The memory of the engine: where things lie in it. fused.h describes it.

INLINE const fm_layer *R(layers)(const fm_run *run) { return (const fm_layer *)run->workspace; }
INLINE real *R(at)(const fm_run *run, ptrdiff_t offset) { return (real *)run->workspace + offset; }

// Vectors in a row of n outputs.
INLINE ptrdiff_t R(vectors)(ptrdiff_t n) { return (n + FM_LANES - 1) / FM_LANES; }

// `length` in `n` parts, none larger than `most`, as even as can be: the first `rest` of them are by
// one larger than the others' `size`.
typedef struct R(parts) {
    ptrdiff_t n, size, rest;
} R(parts);
INLINE R(parts) R(parts_of)(ptrdiff_t length, ptrdiff_t most)
{
    if (length <= most) // without a division: steps of the smallest networks consist of such
        return (R(parts)){length > 0, length, 0};
    const ptrdiff_t n = (length + most - 1) / most;
    return (R(parts)){n, length / n, length % n};
}
INLINE ptrdiff_t R(part_start)(R(parts) parts, ptrdiff_t i)
{
    return i * parts.size + R(min)(i, parts.rest);
}
INLINE int R(part_size)(R(parts) parts, ptrdiff_t i) { return (int)parts.size + (i < parts.rest); }

// Elements from one block of activations to the next: an odd number of cache lines, so that the
// blocks of a few rows spread over all sets of the cache.
INLINE ptrdiff_t R(stride_of)(ptrdiff_t max_rows)
{
    return max_rows * FM_BLOCK + FM_ALIGN / (ptrdiff_t)sizeof(real);
}
INLINE ptrdiff_t R(block_stride)(const fm_run *run) { return R(stride_of)(run->max_rows); }

// Where column o >= 0 of a row begins, and the vectors of a panel that begins with it: beyond its NV,
// that of the last.
INLINE ptrdiff_t R(column)(ptrdiff_t stride, ptrdiff_t o)
{
    return (ptrdiff_t)((size_t)o / FM_BLOCK) * stride + (ptrdiff_t)((size_t)o % FM_BLOCK);
}
INLINE void R(columns)(ptrdiff_t at[FM_PANEL], ptrdiff_t stride, ptrdiff_t o, int NV)
{
    for (int j = 0; j < FM_PANEL; j++)
        at[j] = R(column)(stride, o + R(min)(j, NV - 1) * FM_LANES);
}

// Elements of a matrix of n columns.
INLINE ptrdiff_t R(matrix)(ptrdiff_t max_rows, ptrdiff_t n)
{
    return (n + FM_BLOCK - 1) / FM_BLOCK * R(stride_of)(max_rows);
}
// `n` elements rounded up to whole cache lines.
INLINE ptrdiff_t R(lines)(ptrdiff_t n)
{
    const ptrdiff_t line = FM_ALIGN / (ptrdiff_t)sizeof(real);
    return (n + line - 1) / line * line;
}

INLINE ptrdiff_t R(take)(ptrdiff_t *total, ptrdiff_t n)
{
    ptrdiff_t start = *total;
    *total += R(lines)(n);
    return start;
}

INLINE ptrdiff_t R(widest)(const fm_net *net)
{
    ptrdiff_t widest = 0;
    for (ptrdiff_t l = 0; l <= net->n_layers; l++)
        widest = net->sizes[l] > widest ? net->sizes[l] : widest;
    return widest;
}

// The workspace begins with the layers, then the rows' losses and a row of zeros; that of a run that only
// infers with the layers, then a panel for the columns that do not fill one, or some panels of a stretch.
INLINE ptrdiff_t R(layers_room)(const fm_net *net)
{
    return R(lines)((net->n_layers * (ptrdiff_t)sizeof(fm_layer) + (ptrdiff_t)sizeof(real) - 1) /
                    (ptrdiff_t)sizeof(real));
}
INLINE real *R(losses)(const fm_run *run) { return R(at)(run, R(layers_room)(&run->net)); }
INLINE real *R(zeros)(const fm_run *run) { return R(losses)(run) + R(lines)(run->max_rows); }
INLINE real *R(rest)(const fm_run *run) { return R(at)(run, R(layers_room)(&run->net)); }

// Shuffled rows of X that are this long and more lie mostly on a page each, and to find a page takes
// longer than to read from it: they are gathered ahead.
enum { R(LONG_ROW) = 512 / sizeof(real) };

// Layers of this many inputs and more may be shared out by their outputs.
enum { R(WIDE) = 1024 / sizeof(real) };

// In how many groups a layer has its outputs. Wide layers go by columns where there are threads, and a group
// for each of them, or for a few, keeps panels from belonging to two; unless they were narrow then.
static ptrdiff_t R(groups_of)(const fm_layer *layer, int n_threads)
{
    ptrdiff_t groups = layer->I < R(WIDE) ? 1 : R(min)(n_threads, layer->vectors / 2);
    while (groups > 1 && (n_threads % groups || layer->vectors % groups))
        groups--;
    return R(max)(1, groups);
}

// Whether an update of layer l changes W^T: where it has an eighth fewer vectors at least. The first layer has
// no other use for W^T, so that the batch has to be large enough to be worth renewing W; and with several
// threads it might else go by columns, which is worth more unless there is only one column of vectors.
static int R(is_turned)(const fm_run *run, const fm_layer *layer, ptrdiff_t l)
{
    enum { RENEWAL = 16 * FM_LANES }; // multiply-adds, more than renewing a square of vectors is worth
    const ptrdiff_t in_vectors = R(vectors)(layer->I);
    const ptrdiff_t of_WT = layer->O * in_vectors, of_W = layer->I * layer->vectors; // so many vectors
    if (8 * of_WT > 7 * of_W)
        return 0;
    return l > 0 || (!run->is_sparse && (run->n_threads <= 1 || layer->vectors == 1) &&
                     run->max_rows * (of_W - of_WT) >= RENEWAL * in_vectors * layer->vectors);
}

// Elements of a layer's weights in panels: of W with the biases, of W^T, and of a moment of what is updated.
INLINE ptrdiff_t R(size_of_W)(const fm_layer *layer) { return layer->vectors * FM_LANES * (layer->I + 1); }
INLINE ptrdiff_t R(size_of_WT)(const fm_layer *layer)
{
    return R(vectors)(layer->I) * FM_LANES * layer->O;
}
INLINE ptrdiff_t R(size_of_moment)(const fm_layer *layer)
{
    return layer->turned ? R(size_of_WT)(layer) + layer->vectors * FM_LANES : R(size_of_W)(layer);
}

// Whether the outputs of hidden layer l do not tell their slopes.
INLINE int R(keeps_slopes)(const fm_net *net, ptrdiff_t l)
{
    return net->dropout > 0 || net->activations[l] == FM_GELU || net->activations[l] == FM_SILU;
}

// Whether a batch is small: its weights are then updated at once, not one tile beside the sums of the next.
INLINE int R(is_small)(const fm_run *run) { return run->B <= FM_SMALL_BATCH; }

// Inputs that are 0 are looked for in so many numbers at a time, where a row has more than twice as many; and
// what there is room for in the list of a row of I.
enum { R(AT_ONCE) = 32 };
INLINE ptrdiff_t R(room_of_row)(ptrdiff_t I) { return I + R(AT_ONCE); }

// Lays out what a sparse batch takes, or one of dense rows where it is worth to list them.
static fm_lists R(lay_out_lists)(const fm_run *run, const fm_layer *first, ptrdiff_t *total)
{
    const ptrdiff_t I = first->I, room = run->max_rows * R(room_of_row)(I);
    fm_lists lists = {0};
    if (run->is_sparse)
        lists.ends = R(take)(total, I);
    else if (I > 2 * R(AT_ONCE) && !first->turned && room <= FM_MOST_LISTS / (4 * (ptrdiff_t)sizeof(real))) {
        lists.ends = R(take)(total, I);
        lists.starts = R(take)(total, 2 * run->max_rows * (ptrdiff_t)(sizeof(int64_t) / sizeof(real)));
        lists.values = R(take)(total, room);
        lists.columns = R(take)(total, room);
        lists.entries = R(take)(total, 2 * room);
    }
    return lists;
}

// A row tile sums over so many rows of a panel at a time, whole blocks of columns, which take the first-level
// cache.
enum { R(SUMMED) = FM_CACHE_1 / (WIDTH * (int)sizeof(real) * FM_BLOCK) * FM_BLOCK };

// Predictions list so many rows at a time, from as many on.
enum { R(ROWS_LISTED) = 32 };

// Whether predictions copy a layer's weights, O outputs, into panels, a stretch of so many at a time, and rows
// of users into blocks. Narrow panels take little of a row of weights at a time, and the rows may lie whole
// kilobytes apart and share a few sets of the caches. With few rows it is not worth it.
enum {
    R(IS_NARROW) = WIDTH * sizeof(real) <= FM_ALIGN,
    R(ROWS_TO_PACK) = 32,
    R(PANELS_PACKED) = 4,
    R(ROOM_OF_PANELS) = R(PANELS_PACKED) * (1 + R(SUMMED)) * WIDTH,
};
INLINE int R(is_packed)(ptrdiff_t O, ptrdiff_t rows)
{
    return R(IS_NARROW) && rows >= R(ROWS_TO_PACK) && O > WIDTH;
}

// What they are copied to, elements: panels, and behind them blocks of rows of I inputs of users.
INLINE ptrdiff_t R(room_of_stretch)(ptrdiff_t max_rows, ptrdiff_t I)
{
    return R(lines)(R(ROOM_OF_PANELS)) + R(matrix)(max_rows, R(min)(I, R(SUMMED)));
}

// `layout` of a run that only infers.
static ptrdiff_t R(layout_to_infer)(const fm_run *run, fm_layer *layers)
{
    const fm_net *net = &run->net;
    ptrdiff_t total = R(layers_room)(net), flat = 0, rest = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        if (net->sizes[l + 1] % FM_LANES != 0 && !(l == 0 && run->is_sparse))
            rest = R(max)(rest, (net->sizes[l] + 1) * WIDTH); // the bias first
        if (R(is_packed)(net->sizes[l + 1], run->max_rows))
            rest = R(max)(rest, R(room_of_stretch)(run->max_rows, l > 0 ? 0 : net->sizes[0]));
    }
    R(take)(&total, rest);
    fm_lists lists = {0};
    if (net->sizes[0] > 2 * R(AT_ONCE) && run->max_rows >= R(ROWS_LISTED) && !run->is_sparse) {
        lists.values = R(take)(&total, R(ROWS_LISTED) * R(room_of_row)(net->sizes[0]));
        lists.columns = R(take)(&total, R(ROWS_LISTED) * R(room_of_row)(net->sizes[0]));
    }
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const ptrdiff_t I = net->sizes[l], O = net->sizes[l + 1];
        const ptrdiff_t out = R(take)(&total, R(matrix)(run->max_rows, O));
        if (layers)
            layers[l] = (fm_layer){.I = I, .O = O, .flat = flat, .out = out};
        flat += (I + 1) * O;
    }
    if (layers)
        layers->lists = lists;
    return total;
}

// Lays out state and workspace; writes the layers if there is room for them. Returns the elements
// of the workspace, *state those of the state.
static ptrdiff_t R(layout)(const fm_run *run, fm_layer *layers, ptrdiff_t *state)
{
    const fm_net *net = &run->net;
    const ptrdiff_t L = net->n_layers, max_rows = run->max_rows;
    ptrdiff_t total = R(layers_room)(net), flat = 0;
    *state = 0;
    if (run->rule.kind == FM_NONE)
        return R(layout_to_infer)(run, layers);
    R(take)(&total, max_rows);
    R(take)(&total, R(widest)(net) + WIDTH);
    ptrdiff_t in = run->is_sparse ? 0 : R(take)(&total, R(matrix)(max_rows, net->sizes[0]));
    for (ptrdiff_t l = 0; l < L; l++) {
        fm_layer layer = {.I = net->sizes[l], .O = net->sizes[l + 1], .flat = flat, .in = in};
        layer.vectors = R(vectors)(layer.O);
        layer.n_groups = R(groups_of)(&layer, run->n_threads);
        layer.turned = R(is_turned)(run, &layer, l);
        const ptrdiff_t n_W = R(size_of_W)(&layer);
        const ptrdiff_t n_WT = R(size_of_WT)(&layer), n_moments = R(size_of_moment)(&layer);
        if (l == 0)
            layer.lists = R(lay_out_lists)(run, &layer, &total);
        if (l == 0 && layer.I >= R(LONG_ROW) && !run->is_sparse)
            layer.ahead = R(take)(&total, R(matrix)(max_rows, layer.I));
        layer.W = R(take)(state, n_W);
        layer.moment1 = R(take)(state, n_moments);
        layer.moment2 = R(take)(state, run->rule.kind == FM_ADAM ? n_moments : 0);
        layer.WT = R(take)(state, l || layer.turned ? n_WT : 0);
        layer.out = in = R(take)(&total, R(matrix)(max_rows, layer.O));
        if (l < L - 1 && R(keeps_slopes)(net, l))
            layer.slope = R(take)(&total, R(matrix)(max_rows, layer.O));
        layer.din = l ? R(take)(&total, R(matrix)(max_rows, layer.I)) : 0;
        flat += (layer.I + 1) * layer.O;
        if (layers)
            layers[l] = layer;
    }
    return total;
}

static void R(prepare)(fm_run *run)
{
    const fm_layer *first = R(layers)(run);
    if (run->rule.kind == FM_NONE)
        return;
    memset(R(zeros)(run), 0, (size_t)(R(widest)(&run->net) + WIDTH) * sizeof(real));
    if (!first->turned)
        return;
    // what pads the inputs, whose vectors are multiplied whole: nothing is written there later
    const ptrdiff_t last = R(column)(R(block_stride)(run), (first->I - 1) / FM_BLOCK * FM_BLOCK);
    const size_t block = (size_t)(run->max_rows * FM_BLOCK) * sizeof(real);
    memset(R(at)(run, first->in + last), 0, block);
    if (first->ahead)
        memset(R(at)(run, first->ahead + last), 0, block);
}
