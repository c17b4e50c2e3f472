// Phase A: rows of the batch forward through all layers, their loss, and back.

// The losses of B rows from `first` on, and their logits or values Z replaced by dZ.
static void R(loss_rows)(const fm_run *run, real *Z, ptrdiff_t first, ptrdiff_t B)
{
    const fm_net *net = &run->net;
    const R(loss_of) of = {
        .loss = net->loss,
        .parameter = (real)net->loss_parameter,
        .clip = (real)net->loss_clip,
        .least = net->loss_clip > 0 ? (real)-log1p(-net->loss_clip) : (real)-INFINITY,
        .most = net->loss_clip > 0 ? (real)-log(net->loss_clip) : (real)INFINITY,
        .scale = (real)R(gradient_scale)(run),
        .sample_weight = run->sample_weight,
        .rows = run->rows ? run->rows + first : NULL,
        .first = first,
        .O = net->sizes[net->n_layers],
        .stride = R(block_stride)(run),
    };
    real *losses = R(losses)(run) + first;
    if (net->loss == FM_SOFTMAX_CROSS_ENTROPY)
        R(softmax_cross_entropy)(Z, losses, run->y, B, &of);
    else
        R(loss_of_values)(Z, losses, run->y, B, &of);
}

// The activation of layer l, which for the last is none; and whether the tiles know it.
INLINE int R(activation_of)(const fm_net *net, ptrdiff_t l)
{
    return l < net->n_layers - 1 ? net->activations[l] : FM_IDENTITY;
}
INLINE int R(is_in_tile)(int activation) { return activation == FM_RELU || activation == FM_IDENTITY; }

// What the tiles have left to do for the rows [first, first + B) of a hidden layer, outputs A.
static void R(activate_rows)(const fm_run *run, const fm_layer *layer, real *A, ptrdiff_t first,
                             ptrdiff_t B)
{
    const ptrdiff_t l = layer - R(layers)(run), stride = R(block_stride)(run);
    real *slopes = layer->slope ? R(at)(run, layer->slope + first * FM_BLOCK) : NULL;
    R(activation_forward)(A, slopes, B, layer->O, stride, run->net.activations[l]);
    if (run->net.activations[l] == FM_LOGISTIC)
        R(clear_padding)(A, B, layer->O, stride);
    if (run->net.dropout > 0)
        R(drop)(run, l, A, slopes, first, B, layer->O, stride);
}

// Rows of so many numbers each, ld apart.
typedef struct R(area) {
    const real *at;
    ptrdiff_t rows, width, ld;
} R(area);
INLINE void R(ask_for)(R(area) area, R(parts) of_rows, ptrdiff_t part)
{
    const real *row = area.at + R(part_start)(of_rows, part) * area.ld;
    for (ptrdiff_t i = 0; i < R(part_size)(of_rows, part); i++, row += area.ld)
        for (ptrdiff_t j = 0; j < area.width; j += FM_ALIGN / (ptrdiff_t)sizeof(real))
            FM_PREFETCH(row + j);
}

// C (B, columns of all panels) = init + A (B, K) P.
typedef struct R(product) {
    real *C;                     // in blocks, like A
    const real *A, *mask;        // the mask in C's place
    const real *panels;          // [panel][heads + K][width]
    const real *zeros;           // init, where the panels have no heads,
    ptrdiff_t heads;             // that is one row, the bias, or none
    R(panels) widths;
    ptrdiff_t B, K, stride;
    int epilogue;
    R(area) soon;                // what is needed after a panel and may be far: its tiles ask for it
} R(product);

// Where rows [k, ...) of panel p begin.
INLINE const real *R(panel)(const R(product) *of, ptrdiff_t p, ptrdiff_t k)
{
    const ptrdiff_t width = R(panel_size)(of->widths, p) * FM_LANES;
    return of->panels + R(panel_start)(of->widths, p) * FM_LANES * (of->heads + of->K) +
           (of->heads + k) * width;
}

// Columns of panel p, as far as rows [k, end) of it go, which begin at P: from init or, where k > 0, from what
// C has. Meanwhile the last tiles ask for `next`, as many rows of a panel to be read after this, or NULL.
static void R(panel_product)(const R(product) *of, ptrdiff_t p, ptrdiff_t k, ptrdiff_t end, const real *P,
                             const real *next)
{
    const int NV = R(panel_size)(of->widths, p);
    const ptrdiff_t n = end - k, width = NV * FM_LANES;
    const R(parts) tiles = R(parts_of)(of->B, FM_ROWS(NV));
    const ptrdiff_t asked = n / 2 * (FM_ALIGN / (ptrdiff_t)sizeof(real)); // elements, by one tile
    const real *A = of->A + R(column)(of->stride, k);
    R(parts) soon = {0};
    if (of->soon.rows)
        soon = R(parts_of)(of->soon.rows, (of->soon.rows + tiles.n - 1) / tiles.n);
    R(strip) strip = {.P = P, .stride = of->stride, .K = n,
                      .epilogue = end == of->K ? of->epilogue : FM_STORE};
    if (k == 0)
        strip.init = of->heads ? P - width : of->zeros;
    R(columns)(strip.at, of->stride, R(panel_start)(of->widths, p) * FM_LANES, NV);
    for (ptrdiff_t i = 0; i < tiles.n; i++) {
        const ptrdiff_t b = R(part_start)(tiles, i) * FM_BLOCK, before_end = (tiles.n - i) * asked;
        const ptrdiff_t after = R(part_start)(tiles, R(min)(i + 1, tiles.n - 1)) * FM_BLOCK;
        if (i < soon.n)
            R(ask_for)(of->soon, soon, i);
        R(row_tiles)[NV - 1][R(part_size)(tiles, i) - 1](
            &strip, of->C + b, A + b, of->mask + b,
            next && before_end < n * width + asked ? next + n * width - before_end : NULL,
            after - b);
    }
}

// Some of the panels [p, last) for few rows, which have no use for a panel but once; returns how many.
static ptrdiff_t R(panels_of_few)(const R(product) *of, ptrdiff_t p, ptrdiff_t last)
{
    enum { MOST = 4 };
    const int NV = R(panel_size)(of->widths, p);
    const real *P = R(panel)(of, p, 0);
    const ptrdiff_t width = NV * FM_LANES, size = (of->heads + of->K) * width;
    ptrdiff_t alike = 1;
    while (alike < MOST && p + alike < last && R(panel_size)(of->widths, p + alike) == NV)
        alike++;
    const R(strip) strip = {
        .P = P, .init = of->heads ? P - width : of->zeros, .stride = of->stride, .lda = FM_BLOCK, .ldp = width,
        .panel = size, .init_panel = of->heads ? size : 0, .K = of->K, .epilogue = of->epilogue,
    };
    const ptrdiff_t o = R(panel_start)(of->widths, p) * FM_LANES;
    const ptrdiff_t n = R(few_rows_of_panels)(&strip, of->C, of->A, of->mask, of->stride, o, of->B, alike, NV);
    if (n == 0)
        R(panel_product)(of, p, 0, of->K, P, NULL);
    return R(max)(1, n);
}

// The panels [first, last) of it, in stretches of K: what is read of a panel then stays in the first-level
// cache, and what is read of A in the second.
static void R(multiply)(const R(product) *of, ptrdiff_t first, ptrdiff_t last)
{
    while (first < last && of->B <= FM_FEW_ROWS)
        first += R(panels_of_few)(of, first, last);
    const R(parts) stretches = R(stretches_of_blocks)(of->K);
    for (ptrdiff_t s = 0; s < stretches.n; s++) {
        const ptrdiff_t k = R(part_start)(stretches, s) * FM_BLOCK;
        const ptrdiff_t end = R(min)(of->K, k + R(part_size)(stretches, s) * FM_BLOCK);
        for (ptrdiff_t p = first; p < last; p++)
            R(panel_product)(of, p, k, end, R(panel)(of, p, k),
                             p + 1 < last  ? R(panel)(of, p + 1, k)
                             : end < of->K ? R(panel)(of, first, end)
                                           : NULL);
    }
}

// Whether nothing is left to do for the outputs of a layer after its tiles.
INLINE int R(is_done_in_tile)(const fm_run *run, const fm_layer *layer)
{
    return !layer->slope && R(is_in_tile)(R(activation_of)(&run->net, layer - R(layers)(run)));
}

// The sums of the panels [from, to) of a layer for the rows [first, last) of the batch.
static void R(layer_forward)(const fm_run *run, const fm_layer *layer, ptrdiff_t first, ptrdiff_t last,
                             ptrdiff_t from, ptrdiff_t to)
{
    const int activation = R(activation_of)(&run->net, layer - R(layers)(run));
    const int relu = R(is_done_in_tile)(run, layer) && activation == FM_RELU;
    const ptrdiff_t B = last - first, stride = R(block_stride)(run);
    if (R(is_listed)(run, layer)) {
        R(csr_forward)(run, layer, first, last, from, to, relu ? FM_STORE_RELU : FM_STORE);
        return;
    }
    const real *A = R(at)(run, layer->in + first * FM_BLOCK), *W = (const real *)run->state + layer->W;
    const R(product) of = {
        .C = R(at)(run, layer->out + first * FM_BLOCK), .A = A, .mask = A, .panels = W, .heads = 1,
        .widths = R(W_of)(layer).widths, .B = B, .K = layer->I, .stride = stride,
        .epilogue = relu ? FM_STORE_RELU : FM_STORE,
    };
    if (layer->O <= R(FEW) && B >= FM_LANES && from < to) // which is all of one panel
        R(few_outputs)(of.C, A, W, stride, B, layer->I, layer->O, of.epilogue);
    else
        R(multiply)(&of, from, to);
}

// Rows [first, last) of the batch forward, their loss, and back. The sums of the first `by_columns`
// layers are there already.
static void R(some_rows)(fm_run *run, ptrdiff_t first, ptrdiff_t last, int by_columns)
{
    const fm_layer *layers = R(layers)(run), *layer;
    const fm_net *net = &run->net;
    const real *state = run->state;
    const ptrdiff_t B = last - first, L = net->n_layers;
    const ptrdiff_t stride = R(block_stride)(run);

    if (!by_columns && !run->gathered && !R(is_listed)(run, layers))
        R(gather)(run, first, last);
    for (layer = layers + R(max)(0, by_columns - 1); layer < layers + L; layer++) {
        if (layer - layers >= by_columns)
            R(layer_forward)(run, layer, first, last, 0, R(W_of)(layer).widths.n);
        if (!R(is_done_in_tile)(run, layer))
            R(activate_rows)(run, layer, R(at)(run, layer->out + first * FM_BLOCK), first, B);
    }

    layer = layers + L - 1;
    const real *dZ = R(at)(run, layer->out + first * FM_BLOCK);
    R(loss_rows)(run, R(at)(run, layer->out + first * FM_BLOCK), first, B);

    for (; layer > layers; layer--) {
        const ptrdiff_t slope = layer[-1].slope;
        const int activation = net->activations[layer - layers - 1];
        const int in_tile = R(is_done_in_tile)(run, layer - 1);
        const real *A = R(at)(run, layer->in + first * FM_BLOCK);
        real *dA = R(at)(run, layer->din + first * FM_BLOCK);
        R(multiply)(&(R(product)){
            .C = dA, .A = dZ, .mask = A, .panels = state + layer->WT, .zeros = R(zeros)(run),
            .widths = R(WT_of)(layer).widths, .B = B, .K = layer->O, .stride = stride,
            .epilogue = in_tile && activation == FM_RELU ? FM_STORE_MASKED : FM_STORE,
        }, 0, R(WT_of)(layer).widths.n);
        if (!in_tile)
            R(activation_backward)(dA, A, slope ? R(at)(run, slope + first * FM_BLOCK) : NULL, B,
                                   layer->I, stride, activation);
        dZ = dA;
    }
}

// The same, as many rows at a time as leave their activations in the cache through all layers; but of wide ones
// enough to be worth reading the weights.
static void R(rows_part)(fm_run *run, ptrdiff_t first, ptrdiff_t last, int by_columns)
{
    ptrdiff_t widest = 1;
    for (ptrdiff_t l = 0; l <= run->net.n_layers; l++)
        widest = R(max)(widest, run->net.sizes[l]);
    const ptrdiff_t at_a_time = R(max)(FM_ROWS_AT_LEAST, FM_CACHE / (widest * (ptrdiff_t)sizeof(real)));
    const R(parts) parts = R(parts_of)(last - first, at_a_time);
    for (ptrdiff_t i = 0; i < parts.n; i++)
        R(some_rows)(run, first + R(part_start)(parts, i), first + R(part_start)(parts, i + 1), by_columns);
}

static double R(loss)(const fm_run *run)
{
    const real *losses = R(losses)(run);
    double sum = 0;
    for (ptrdiff_t b = 0; b < run->B; b++)
        sum += (double)losses[b];
    return sum;
}
