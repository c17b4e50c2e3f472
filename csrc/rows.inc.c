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
    if (run->net.dropout > 0)
        R(drop)(run, l, A, slopes, first, B, layer->O, stride);
}

// Where in the panel after this one, of K rows, tile i of n may ask for lines: the last tiles share
// it out, a line of it in every k. The others ask for what they have.
INLINE const real *R(panel_ahead)(const real *panel, ptrdiff_t K, int NV, ptrdiff_t i, ptrdiff_t n)
{
    const ptrdiff_t line = FM_ALIGN / (ptrdiff_t)sizeof(real);
    const ptrdiff_t lines = NV * FM_LANES / line, from_end = n - 1 - i;
    return from_end < lines ? panel + K * NV * FM_LANES + (lines - 1 - from_end) * K * line : panel;
}

// Columns of C for B rows = init + A P, a panel of NV vectors and K rows, in tiles of rows. C's columns
// begin with o, the panel's own, and so do the mask's.
static void R(panel_of_rows)(real *C, const real *A, const real *P, const real *init,
                             const real *mask, ptrdiff_t stride, ptrdiff_t o, ptrdiff_t K, int NV,
                             ptrdiff_t B, int epilogue)
{
    const R(parts) tiles = R(parts_of)(B, FM_ROWS(NV));
    ptrdiff_t at[FM_PANEL];
    R(columns)(at, stride, o, NV);
    for (ptrdiff_t i = 0; i < tiles.n; i++) {
        const ptrdiff_t b = R(part_start)(tiles, i) * FM_BLOCK;
        R(row_tiles)[NV - 1][R(part_size)(tiles, i) - 1](
            C + b, A + b, P, init, mask + b, R(panel_ahead)(P, K, NV, i, tiles.n), at, stride, K,
            epilogue);
    }
}

// Rows [first, last) of the batch forward, their loss, and back.
static void R(rows_part)(fm_run *run, ptrdiff_t first, ptrdiff_t last)
{
    const fm_layer *layers = R(layers)(run), *layer;
    const fm_net *net = &run->net;
    const real *state = run->state;
    const ptrdiff_t B = last - first, L = net->n_layers;
    const ptrdiff_t stride = R(block_stride)(run);

    if (!run->gathered)
        R(gather)(run, first, last);
    for (layer = layers; layer < layers + L; layer++) {
        const int activation = R(activation_of)(net, layer - layers);
        const int in_tile = !layer->slope && R(is_in_tile)(activation);
        const real *A = R(at)(run, layer->in + first * FM_BLOCK);
        real *C = R(at)(run, layer->out + first * FM_BLOCK);
        const R(parts) widths = R(panels_of)(layer->vectors);
        for (ptrdiff_t p = 0; p < widths.n; p++) {
            const int NV = R(part_size)(widths, p);
            const ptrdiff_t o = R(part_start)(widths, p) * FM_LANES;
            const real *panel = state + layer->W + o * (layer->I + 1);
            R(panel_of_rows)(C, A, panel + NV * FM_LANES, panel, A, stride, o, layer->I, NV, B,
                             in_tile && activation == FM_RELU ? FM_STORE_RELU : FM_STORE);
        }
        if (!in_tile)
            R(activate_rows)(run, layer, C, first, B);
    }

    layer = layers + L - 1;
    const real *dZ = R(at)(run, layer->out + first * FM_BLOCK);
    R(loss_rows)(run, R(at)(run, layer->out + first * FM_BLOCK), first, B);

    for (; layer > layers; layer--) {
        const R(parts) widths = R(panels_of)(R(vectors)(layer->I));
        const ptrdiff_t slope = layer[-1].slope;
        const int activation = net->activations[layer - layers - 1];
        const int in_tile = !slope && R(is_in_tile)(activation);
        const real *A = R(at)(run, layer->in + first * FM_BLOCK);
        real *dA = R(at)(run, layer->din + first * FM_BLOCK);
        for (ptrdiff_t p = 0; p < widths.n; p++) {
            const ptrdiff_t i = R(part_start)(widths, p) * FM_LANES;
            R(panel_of_rows)(dA, dZ, state + layer->WT + i * layer->O, R(zeros)(run), A, stride, i,
                             layer->O, R(part_size)(widths, p), B,
                             in_tile && activation == FM_RELU ? FM_STORE_MASKED : FM_STORE);
        }
        if (!in_tile)
            R(activation_backward)(dA, A, slope ? R(at)(run, slope + first * FM_BLOCK) : NULL, B,
                                   layer->I, stride, activation);
        dZ = dA;
    }
}

static double R(loss)(const fm_run *run)
{
    const real *losses = R(losses)(run);
    double sum = 0;
    for (ptrdiff_t b = 0; b < run->B; b++)
        sum += (double)losses[b];
    return sum;
}
