// The weights in panels: their two forms, and what moves between these and the flat arrays. fused.h
// describes them.

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

// The weights of a layer in one of their two forms.
typedef struct R(form) {
    ptrdiff_t at;                // in the state
    ptrdiff_t rows, heads;       // of a panel: so many, behind so many
    ptrdiff_t columns;
    R(panels) widths;
} R(form);
INLINE R(form) R(W_of)(const fm_layer *layer)
{
    return (R(form)){layer->W, layer->I, 1, layer->O, R(panels_of)(layer->vectors, layer->n_groups)};
}
INLINE R(form) R(WT_of)(const fm_layer *layer)
{
    return (R(form)){layer->WT, layer->O, 0, layer->I, R(panels_of)(R(vectors)(layer->I), 1)};
}
// The one that an update changes.
INLINE R(form) R(updated)(const fm_layer *layer)
{
    return layer->turned ? R(WT_of)(layer) : R(W_of)(layer);
}
// Columns before panel p, and of it.
INLINE ptrdiff_t R(first_column)(const R(form) *form, ptrdiff_t p)
{
    return R(panel_start)(form->widths, p) * FM_LANES;
}
INLINE ptrdiff_t R(width)(const R(form) *form, ptrdiff_t p)
{
    return R(panel_size)(form->widths, p) * FM_LANES;
}
// Where in the form row i of panel p begins; from -1 on, if it has heads.
INLINE ptrdiff_t R(row_at)(const R(form) *form, ptrdiff_t p, ptrdiff_t i)
{
    return R(first_column)(form, p) * (form->rows + form->heads) + (form->heads + i) * R(width)(form, p);
}

// Where in a moment those of the biases are that begin with output o, the first of a panel.
INLINE ptrdiff_t R(bias_moment)(const fm_layer *layer, ptrdiff_t o)
{
    return layer->turned ? R(size_of_WT)(layer) + o : o * (layer->I + 1);
}

// Copies n rows of NV vectors, which lie O apart, and asks for as many after them.
INLINE void R(copy_rows)(real *restrict to, const real *restrict from, ptrdiff_t O, ptrdiff_t n, const int NV)
{
    for (const real *end = from + n * O; from < end; from += O, to += NV * FM_LANES) {
        FM_UNROLL
        for (int j = 0; j < NV; j += FM_ALIGN / (FM_LANES * (int)sizeof(real)))
            FM_PREFETCH(from + n * O + j * FM_LANES);
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            vstore(to + j * FM_LANES, vload(from + j * FM_LANES));
    }
}

// Copies between a layer's flat [W | b] and the panels [first, last) of it, or of as many rows of W as the form
// has, from k on: a few rows of all panels, then the next. Panel by panel, every row of a wide layer would be a
// page of its own.
INLINE void R(copy_panels)(real *panels, real *flat, const fm_layer *layer, const R(form) *W, ptrdiff_t k,
                           ptrdiff_t first, ptrdiff_t last, const int into)
{
    enum { ROWS = 16 };
    for (ptrdiff_t begin = -W->heads; begin < W->rows; begin += ROWS)
        for (ptrdiff_t p = first; p < last; p++) {
            const ptrdiff_t o = R(first_column)(W, p), width = R(width)(W, p);
            real *at = panels + R(row_at)(W, p, begin) - R(row_at)(W, first, -W->heads);
            const ptrdiff_t end = R(min)(begin + ROWS, W->rows);
            if (into && begin >= 0 && o + width <= layer->O) {
                const real *row = flat + (k + begin) * layer->O + o;
                if (width == FM_LANES)
                    R(copy_rows)(at, row, layer->O, end - begin, 1);
                else if (width == 2 * FM_LANES)
                    R(copy_rows)(at, row, layer->O, end - begin, 2);
                else
                    R(copy_rows)(at, row, layer->O, end - begin, 3);
                continue;
            }
            for (ptrdiff_t i = begin; i < end; i++, at += width) {
                real *row = flat + (i < 0 ? layer->I : k + i) * layer->O + o; // the bias is the last
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

// The same for a moment of a turned layer.
INLINE void R(copy_turned)(real *moment, real *flat, const fm_layer *layer, const int into)
{
    const R(form) WT = R(WT_of)(layer);
    for (ptrdiff_t q = 0; q < WT.widths.n; q++)
        for (ptrdiff_t o = 0; o < layer->O; o++) {
            real *row = moment + R(row_at)(&WT, q, o);
            for (ptrdiff_t j = 0, i = R(first_column)(&WT, q); j < R(width)(&WT, q); j++, i++)
                if (!into && i < layer->I)
                    flat[i * layer->O + o] = row[j];
                else if (into)
                    row[j] = i < layer->I ? flat[i * layer->O + o] : 0;
        }
    real *biases = moment + R(bias_moment)(layer, 0), *flat_biases = flat + layer->I * layer->O;
    if (into)
        memset(biases, 0, (size_t)(layer->vectors * FM_LANES) * sizeof(real));
    memcpy(into ? biases : flat_biases, into ? flat_biases : biases, (size_t)layer->O * sizeof(real));
}

// A layer's parameters or a moment of it between the flat array, where there is one, and the state.
INLINE void R(move)(const fm_run *run, const fm_layer *layer, ptrdiff_t at, void *flat, const int into)
{
    if (flat == NULL)
        return;
    real *in_state = (real *)run->state + at, *in_flat = (real *)flat + layer->flat;
    const R(form) W = R(W_of)(layer);
    if (layer->turned && at != layer->W)
        R(copy_turned)(in_state, in_flat, layer, into);
    else
        R(copy_panels)(in_state, in_flat, layer, &W, 0, 0, W.widths.n, into);
}

// Renews what panel p of one form of a layer's weights holds in the other.
static void R(renew_from)(real *state, R(form) from, R(form) to, ptrdiff_t p)
{
    const ptrdiff_t n = R(first_column)(&from, p), width = R(width)(&from, p);
    const ptrdiff_t last = R(min)(from.columns - n, width);
    const real *in = state + from.at + R(row_at)(&from, p, 0);
    for (ptrdiff_t q = 0, i = 0; q < to.widths.n; q++) {
        const ptrdiff_t to_width = R(width)(&to, q);
        real *out = state + to.at + R(row_at)(&to, q, n);
        // the next one's place, which may be far away: a line for every one that is written here
        const real *next = out + to_width * (to.heads + to.rows);
        for (ptrdiff_t j = 0; j < to_width; j += FM_LANES, i += FM_LANES, in += FM_LANES * width)
            for (ptrdiff_t o = 0; o < last; o += FM_LANES) {
                const ptrdiff_t rows = R(min)(FM_LANES, from.rows - i);
                V block[FM_LANES];
                for (ptrdiff_t r = 0; r < FM_LANES; r++)
                    block[r] = r < rows ? vload(in + r * width + o) : vset1(0);
                vtranspose(block);
                for (ptrdiff_t r = 0; r < R(min)(FM_LANES, last - o); r++) {
                    vstore(out + (o + r) * to_width + j, block[r]);
                    FM_PREFETCH_TO_WRITE(next + (o + r) * to_width + j);
                }
            }
    }
}

// Whether a layer has both forms.
INLINE int R(has_both)(const fm_run *run, const fm_layer *layer)
{
    return layer > R(layers)(run) || layer->turned;
}

// The other form of a layer that has both, after an update of panel p.
static void R(renew)(real *state, const fm_layer *layer, ptrdiff_t p)
{
    const R(form) W = R(W_of)(layer), WT = R(WT_of)(layer);
    R(renew_from)(state, layer->turned ? WT : W, layer->turned ? W : WT, p);
}

static void R(load)(fm_run *run)
{
    const fm_layer *layer = R(layers)(run);
    for (ptrdiff_t l = 0; l < run->net.n_layers; l++, layer++) {
        R(move)(run, layer, layer->W, run->params, 1);
        R(move)(run, layer, layer->moment1, run->moment1, 1);
        R(move)(run, layer, layer->moment2, run->moment2, 1);
        for (ptrdiff_t p = 0; R(has_both)(run, layer) && p < R(W_of)(layer).widths.n; p++)
            R(renew_from)(run->state, R(W_of)(layer), R(WT_of)(layer), p);
    }
}

static void R(store)(const fm_run *run)
{
    const fm_layer *layer = R(layers)(run);
    for (ptrdiff_t l = 0; l < run->net.n_layers; l++, layer++) {
        R(move)(run, layer, layer->W, run->params, 0);
        R(move)(run, layer, layer->moment1, run->moment1, 0);
        R(move)(run, layer, layer->moment2, run->moment2, 0);
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
        all = R(finite_vectors)(state + layer->W, R(size_of_W)(layer) / FM_LANES) &&
              (run->rule.kind != FM_ADAM ||
               R(finite_vectors)(state + layer->moment2, R(size_of_moment)(layer) / FM_LANES));
    }
    return all;
}
