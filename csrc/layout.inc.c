// The memory of the engine: where things lie in it, and what moves between it and the flat arrays.
// fused.h describes it.

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
    const ptrdiff_t n = (length + most - 1) / most;
    return (R(parts)){n, n ? length / n : 0, n ? length % n : 0};
}
INLINE ptrdiff_t R(part_start)(R(parts) parts, ptrdiff_t i)
{
    return i * parts.size + R(min)(i, parts.rest);
}
INLINE int R(part_size)(R(parts) parts, ptrdiff_t i) { return (int)parts.size + (i < parts.rest); }

// The panels of a row of so many vectors, of which every group, all as large, has panels of its own.
typedef struct R(panels) {
    ptrdiff_t n, group;          // panels, and vectors of a group
    R(parts) of_group;
} R(panels);
INLINE R(panels) R(panels_of)(ptrdiff_t vectors, ptrdiff_t n_groups)
{
    const ptrdiff_t group = n_groups == 1 ? vectors : vectors / n_groups;
    const R(parts) of_group = R(parts_of)(group, FM_PANEL);
    return (R(panels)){n_groups * of_group.n, group, of_group};
}
INLINE R(panels) R(panels_of_layer)(const fm_layer *layer)
{
    return R(panels_of)(layer->vectors, layer->n_groups);
}
// The group of panel p.
INLINE ptrdiff_t R(group_of)(R(panels) panels, ptrdiff_t p)
{
    return p < panels.of_group.n ? 0 : p / panels.of_group.n;
}
// The first vector of panel p, and how many it has.
INLINE ptrdiff_t R(panel_start)(R(panels) panels, ptrdiff_t p)
{
    const ptrdiff_t g = R(group_of)(panels, p);
    return g * panels.group + R(part_start)(panels.of_group, p - g * panels.of_group.n);
}
INLINE int R(panel_size)(R(panels) panels, ptrdiff_t p)
{
    return R(part_size)(panels.of_group, p - R(group_of)(panels, p) * panels.of_group.n);
}

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

// The workspace begins with the layers, then the rows' losses, a row of zeros, and for `forward`
// a panel for the columns that do not fill one.
INLINE ptrdiff_t R(layers_room)(const fm_net *net)
{
    return R(lines)((net->n_layers * (ptrdiff_t)sizeof(fm_layer) + (ptrdiff_t)sizeof(real) - 1) /
                    (ptrdiff_t)sizeof(real));
}
INLINE real *R(losses)(const fm_run *run) { return R(at)(run, R(layers_room)(&run->net)); }
INLINE real *R(zeros)(const fm_run *run) { return R(losses)(run) + R(lines)(run->max_rows); }
INLINE real *R(rest)(const fm_run *run)
{
    return R(zeros)(run) + R(lines)(R(widest)(&run->net) + WIDTH);
}

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

// Whether the outputs of hidden layer l do not tell their slopes.
INLINE int R(keeps_slopes)(const fm_net *net, ptrdiff_t l)
{
    return net->dropout > 0 || net->activations[l] == FM_GELU || net->activations[l] == FM_SILU;
}

// Lays out state and workspace; writes the layers if there is room for them. Returns the elements
// of the workspace, *state those of the state.
static ptrdiff_t R(layout)(const fm_run *run, fm_layer *layers, ptrdiff_t *state)
{
    const fm_net *net = &run->net;
    const ptrdiff_t L = net->n_layers, max_rows = run->max_rows;
    ptrdiff_t total = R(layers_room)(net), flat = 0;
    *state = 0;
    R(take)(&total, max_rows);
    R(take)(&total, R(widest)(net) + WIDTH);
    ptrdiff_t rest = 0; // inputs of the widest layer that does not fill its last vector
    for (ptrdiff_t l = 0; l < L; l++)
        if (net->sizes[l + 1] % FM_LANES != 0)
            rest = R(max)(rest, net->sizes[l] + 1); // the bias first
    R(take)(&total, rest * WIDTH);
    ptrdiff_t in = R(take)(&total, R(matrix)(max_rows, net->sizes[0]));
    for (ptrdiff_t l = 0; l < L; l++) {
        fm_layer layer = {.I = net->sizes[l], .O = net->sizes[l + 1], .flat = flat, .in = in};
        layer.vectors = R(vectors)(layer.O);
        layer.n_groups = R(groups_of)(&layer, run->n_threads);
        ptrdiff_t n_panels = layer.vectors * FM_LANES * (layer.I + 1);
        layer.ahead = l || layer.I < R(LONG_ROW) ? 0 : R(take)(&total, R(matrix)(max_rows, layer.I));
        layer.W = R(take)(state, n_panels);
        layer.moment1 = R(take)(state, n_panels);
        layer.moment2 = R(take)(state, run->rule.kind == FM_ADAM ? n_panels : 0);
        layer.WT = R(take)(state, l ? R(vectors)(layer.I) * FM_LANES * layer.O : 0);
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
    memset(R(zeros)(run), 0, (size_t)(R(widest)(&run->net) + WIDTH) * sizeof(real));
}

// Copies a layer's flat [W | b] into panels, or back: a few rows of all panels, then the next. Panel by
// panel, every row of a wide layer would be a page of its own.
INLINE void R(copy_panels)(real *panels, real *flat, const fm_layer *layer, const int into)
{
    enum { ROWS = 16 };
    const R(panels) widths = R(panels_of_layer)(layer);
    for (ptrdiff_t first = -1; first < layer->I; first += ROWS)
        for (ptrdiff_t p = 0; p < widths.n; p++) {
            const ptrdiff_t o = R(panel_start)(widths, p) * FM_LANES;
            const ptrdiff_t width = R(panel_size)(widths, p) * FM_LANES;
            real *at = panels + o * (layer->I + 1) + (first + 1) * width;
            for (ptrdiff_t i = first; i < R(min)(first + ROWS, layer->I); i++, at += width) {
                real *row = flat + (i < 0 ? layer->I : i) * layer->O + o; // the bias is the last
                for (ptrdiff_t j = 0; j < width; j += FM_LANES) {
                    const int n = (int)R(min)(FM_LANES, layer->O - o - j);
                    if (into)
                        vstore(at + j, n < FM_LANES ? vload_n(row + j, n) : vload(row + j));
                    else if (n < FM_LANES)
                        vstore_n(row + j, vload(at + j), n);
                    else
                        vstore(row + j, vload(at + j));
                }
            }
        }
}
static void R(to_panels)(real *panels, const real *flat, const fm_layer *layer)
{
    R(copy_panels)(panels, (real *)flat, layer, 1);
}
static void R(from_panels)(real *flat, const real *panels, const fm_layer *layer)
{
    R(copy_panels)((real *)panels, flat, layer, 0);
}

// Renews the rows of W^T, the panels of a layer, that panel p of W holds.
static void R(transpose_panel)(real *WT, const real *W, const fm_layer *layer, ptrdiff_t p)
{
    const R(panels) widths = R(panels_of_layer)(layer);
    const R(panels) in_widths = R(panels_of)(R(vectors)(layer->I), 1);
    const ptrdiff_t n = R(panel_start)(widths, p) * FM_LANES;
    const ptrdiff_t width = R(panel_size)(widths, p) * FM_LANES, last = R(min)(layer->O - n, width);
    const real *from = W + n * (layer->I + 1) + width;
    for (ptrdiff_t q = 0; q < in_widths.n; q++) {
        const ptrdiff_t in_width = R(panel_size)(in_widths, q) * FM_LANES;
        ptrdiff_t i = R(panel_start)(in_widths, q) * FM_LANES;
        real *out = WT + i * layer->O + n * in_width;
        // the next one's place, which may be far away: a line for every one that is written here
        const real *next = WT + (i + in_width) * layer->O + n * in_width;
        for (ptrdiff_t j = 0; j < in_width; j += FM_LANES, i += FM_LANES, from += FM_LANES * width)
            for (ptrdiff_t o = 0; o < last; o += FM_LANES) {
                const ptrdiff_t rows = R(min)(FM_LANES, layer->I - i);
                V block[FM_LANES];
                for (ptrdiff_t r = 0; r < FM_LANES; r++)
                    block[r] = r < rows ? vload(from + r * width + o) : vset1(0);
                vtranspose(block);
                for (ptrdiff_t r = 0; r < R(min)(FM_LANES, last - o); r++) {
                    vstore(out + (o + r) * in_width + j, block[r]);
                    FM_PREFETCH_TO_WRITE(next + (o + r) * in_width + j);
                }
            }
    }
}

static void R(load)(fm_run *run)
{
    const fm_layer *layer = R(layers)(run);
    real *state = run->state;
    for (ptrdiff_t l = 0; l < run->net.n_layers; l++, layer++) {
        R(to_panels)(state + layer->W, (real *)run->params + layer->flat, layer);
        if (run->moment1)
            R(to_panels)(state + layer->moment1, (real *)run->moment1 + layer->flat, layer);
        if (run->moment2)
            R(to_panels)(state + layer->moment2, (real *)run->moment2 + layer->flat, layer);
        for (ptrdiff_t p = 0; l > 0 && p < R(panels_of_layer)(layer).n; p++)
            R(transpose_panel)(state + layer->WT, state + layer->W, layer, p);
    }
}

static void R(store)(const fm_run *run)
{
    const fm_layer *layer = R(layers)(run);
    const real *state = run->state;
    for (ptrdiff_t l = 0; l < run->net.n_layers; l++, layer++) {
        R(from_panels)((real *)run->params + layer->flat, state + layer->W, layer);
        if (run->moment1)
            R(from_panels)((real *)run->moment1 + layer->flat, state + layer->moment1, layer);
        if (run->moment2)
            R(from_panels)((real *)run->moment2 + layer->flat, state + layer->moment2, layer);
    }
}

// Whether so many vectors of numbers are all finite: 0 times a number is 0, but NaN for infinity
// and NaN.
static int R(finite_vectors)(const real *x, ptrdiff_t vectors)
{
    enum { CHAINS = 4 };
    V sum[CHAINS];
    for (int c = 0; c < CHAINS; c++)
        sum[c] = vset1(0);
    ptrdiff_t v = 0;
    for (; v + CHAINS <= vectors; v += CHAINS)
        FM_UNROLL
        for (int c = 0; c < CHAINS; c++, x += FM_LANES)
            sum[c] = vadd(sum[c], vmul(vload(x), vset1(0)));
    for (; v < vectors; v++, x += FM_LANES)
        sum[0] = vadd(sum[0], vmul(vload(x), vset1(0)));
    return vsum(vadd(vadd(sum[0], sum[1]), vadd(sum[2], sum[3]))) == 0;
}

// Whether all parameters are finite, and all mean squares: a parameter with an infinite one would
// never move again.
static int R(finite)(const fm_run *run)
{
    const fm_layer *layer = R(layers)(run), *end = layer + run->net.n_layers;
    const real *state = run->state;
    int all = 1;
    for (; all && layer < end; layer++) {
        const ptrdiff_t vectors = layer->vectors * (layer->I + 1);
        all = R(finite_vectors)(state + layer->W, vectors) &&
              (run->rule.kind != FM_ADAM || R(finite_vectors)(state + layer->moment2, vectors));
    }
    return all;
}
