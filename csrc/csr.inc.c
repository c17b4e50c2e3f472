// Inputs that come as a sparse matrix, in compressed rows. The first layer goes by the numbers that are there:
// forward row by row, and for the gradients of its weights column by column. They are the chains of
// multiply-adds of the other tiles, without the links whose input is not there.

// A number of the batch and its row; in memory column by column, and by rows within one.
typedef struct R(entry) {
    real value;
    int32_t row;
} R(entry);

INLINE int R(is_csr)(const fm_run *run, const fm_layer *layer)
{
    return run->is_sparse && layer == R(layers)(run);
}

// Where the entries of each column end.
INLINE uint32_t *R(ends)(const fm_run *run) { return (uint32_t *)R(at)(run, R(layers)(run)->ends); }

// acc (NV vectors, the last of them so many lanes) += *x p.
INLINE void R(add_entry)(V acc[FM_PANEL], const real *x, const real *p, const int lanes, const int NV)
{
    const V number = vset1(*x);
    FM_UNROLL
    for (int j = 0; j < NV; j++) {
        const real *at = p + j * FM_LANES;
        acc[j] = vfma(number, j < NV - 1 || lanes == FM_LANES ? vload(at) : vload_n(at, lanes), acc[j]);
    }
}

INLINE void R(ask_for_weights)(const real *p, const int NV)
{
    enum { LINE = FM_ALIGN / sizeof(real) };
    FM_UNROLL
    for (int j = 0; j < NV * FM_LANES; j += LINE)
        FM_PREFETCH(p + j);
}

// C (B, NV vectors) = init + A P, where A are rows of X: those of `rows` or, without, the first. Two at a time,
// or each multiply-add would wait for the one before.
INLINE void R(csr_panel_of)(const R(strip) *of, real *restrict C, const fm_rows *X, const ptrdiff_t *rows,
                            ptrdiff_t B, const int lanes, const int NV)
{
    const ptrdiff_t *at = of->at, ldp = of->ldp;
    const int asks = of->K * ldp * (ptrdiff_t)sizeof(real) > FM_CACHE;
    const real *const P = of->P;
    for (ptrdiff_t b = 0; b < B; b += 2) {
        const real *x[2];
        const int32_t *columns[2];
        ptrdiff_t n[2] = {0, 0};
        V acc[2][FM_PANEL];
        for (int r = 0; r < R(min)(2, B - b); r++) {
            const ptrdiff_t row = rows ? rows[b + r] : b + r, start = (ptrdiff_t)X->starts[row];
            x[r] = (const real *)X->values + start;
            columns[r] = X->columns + start;
            n[r] = (ptrdiff_t)X->starts[row + 1] - start;
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                acc[r][j] = vload(of->init + j * FM_LANES);
        }
        const ptrdiff_t both = R(min)(n[0], n[1]);
        for (ptrdiff_t i = 0; i < both; i++)
            FM_UNROLL
            for (int r = 0; r < 2; r++) {
                if (asks)
                    R(ask_for_weights)(P + columns[r][i + FM_CSR_AHEAD] * ldp, NV);
                R(add_entry)(acc[r], x[r] + i, P + columns[r][i] * ldp, lanes, NV);
            }
        for (int r = 0; r < R(min)(2, B - b); r++) {
            for (ptrdiff_t i = both; i < n[r]; i++) {
                if (asks)
                    R(ask_for_weights)(P + columns[r][i + FM_CSR_AHEAD] * ldp, NV);
                R(add_entry)(acc[r], x[r] + i, P + columns[r][i] * ldp, lanes, NV);
            }
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                vstore(C + at[j] + (b + r) * FM_BLOCK,
                       of->epilogue == FM_STORE_RELU ? vkeep(acc[r][j], acc[r][j]) : acc[r][j]);
        }
    }
}

// The gradients of the weights of the features [f, f + M), NV vectors each: into errands->dW where they are
// stored, else into the weights at once, since there is not much to put an update beside.
INLINE void R(csr_column_tile_of)(R(errands) *errands, const fm_run *run, ptrdiff_t f, const real *D,
                                  const ptrdiff_t at[FM_PANEL], int M, const int NV)
{
    const uint32_t *ends = R(ends)(run);
    const R(entry) *entry = (const R(entry) *)run->entries + (f ? ends[f - 1] : 0);
    const R(waiting) *of = &errands->waiting;
    for (int r = 0; r < M; r++) {
        const R(entry) *const end = (const R(entry) *)run->entries + ends[f + r];
        V acc[FM_PANEL];
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[j] = vset1(0);
        for (; entry < end; entry++) {
            const V number = vset1(entry->value);
            const real *d = D + entry->row * FM_BLOCK;
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                acc[j] = vfma(number, vload(d + at[j]), acc[j]);
        }
        FM_UNROLL
        for (int j = 0; j < NV; j++) {
            const ptrdiff_t to = (r * NV + j) * FM_LANES;
            if (run->store_gradients)
                vstore(errands->dW + to, acc[j]);
            else if (errands->is_plain)
                R(momentum)(of->own_W + to, of->own_moment1 + to, acc[j], &errands->rule);
            else
                R(update_vector)(of->own_W + to, of->own_moment1 + to, of->own_moment2 + to,
                                 errands->shift, acc[j], &errands->rule, 1);
        }
    }
}

#define DEFINE(nv)                                                                                \
    static void R(csr_panel_##nv)(const R(strip) *of, real *C, const fm_rows *X,                  \
                                  const ptrdiff_t *rows, ptrdiff_t B, int lanes)                  \
    {                                                                                             \
        if (nv <= FM_PANEL && lanes == FM_LANES)                                                  \
            R(csr_panel_of)(of, C, X, rows, B, FM_LANES, nv);                                     \
        else if (nv <= FM_PANEL)                                                                  \
            R(csr_panel_of)(of, C, X, rows, B, lanes, nv);                                        \
    }                                                                                             \
    static void R(csr_column_tile_##nv)(R(errands) *errands, const fm_run *run, ptrdiff_t f,      \
                                        const real *D, const ptrdiff_t *at, int M)                \
    {                                                                                             \
        if (nv <= FM_PANEL)                                                                       \
            R(csr_column_tile_of)(errands, run, f, D, at, M, nv);                                 \
    }
DEFINE(1) DEFINE(2) DEFINE(3)
#undef DEFINE

static void (*const R(csr_panels)[3])(const R(strip) *of, real *C, const fm_rows *X, const ptrdiff_t *rows,
                                      ptrdiff_t B, int lanes) = {
    R(csr_panel_1), R(csr_panel_2), R(csr_panel_3)};
static void (*const R(csr_column_tiles)[3])(R(errands) *errands, const fm_run *run, ptrdiff_t f, const real *D,
                                            const ptrdiff_t *at, int M) = {
    R(csr_column_tile_1), R(csr_column_tile_2), R(csr_column_tile_3)};

// The sums of the panels [from, to) of the first layer for the rows [first, last) of the batch.
static void R(csr_forward)(const fm_run *run, const fm_layer *layer, ptrdiff_t first, ptrdiff_t last,
                           ptrdiff_t from, ptrdiff_t to, int epilogue)
{
    const R(form) W = R(W_of)(layer);
    fm_rows X = run->X;
    if (!run->rows)
        X.starts += first;
    for (ptrdiff_t p = from; p < to; p++) {
        const real *panel = (const real *)run->state + W.at + R(row_at)(&W, p, 0);
        R(strip) strip = {.P = panel, .init = panel - R(width)(&W, p), .ldp = R(width)(&W, p), .K = layer->I,
                          .epilogue = epilogue};
        R(columns)(strip.at, R(block_stride)(run), R(first_column)(&W, p), R(panel_size)(W.widths, p));
        R(csr_panels)[R(panel_size)(W.widths, p) - 1](&strip, R(at)(run, layer->out + first * FM_BLOCK), &X,
                                                      run->rows ? run->rows + first : NULL, last - first,
                                                      FM_LANES);
    }
}

// C (B, O) = X W + b for flat parameters.
static void R(csr_linear_forward)(real *C, const fm_rows *X, const real *flat, const fm_layer *layer,
                                  ptrdiff_t B, ptrdiff_t out_stride, int epilogue)
{
    const ptrdiff_t I = layer->I, O = layer->O;
    const R(panels) widths = R(panels_of)(R(vectors)(O), 1);
    for (ptrdiff_t p = 0; p < widths.n; p++) {
        const int NV = R(panel_size)(widths, p);
        const ptrdiff_t o = R(panel_start)(widths, p) * FM_LANES;
        const int lanes = (int)R(min)(FM_LANES, O - o - (NV - 1) * FM_LANES);
        _Alignas(FM_ALIGN) real bias[WIDTH];
        for (int j = 0; j < NV; j++)
            vstore(bias + j * FM_LANES,
                   vload_n(flat + I * O + o + j * FM_LANES, j < NV - 1 ? FM_LANES : lanes));
        R(strip) strip = {.P = flat + o, .init = bias, .ldp = O, .K = I, .epilogue = epilogue};
        R(columns)(strip.at, out_stride, o, NV);
        R(csr_panels)[NV - 1](&strip, C, X, NULL, B, lanes);
    }
}

// The numbers [*first, *end) of row b of the batch that are in the columns [from, to).
INLINE void R(part_of_row)(const fm_run *run, ptrdiff_t b, ptrdiff_t from, ptrdiff_t to, ptrdiff_t *first,
                           ptrdiff_t *end)
{
    const ptrdiff_t row = R(row_of)(run, b);
    const int32_t *columns = run->X.columns;
    const ptrdiff_t start = (ptrdiff_t)run->X.starts[row];
    *first = start;
    *end = (ptrdiff_t)run->X.starts[row + 1];
    for (ptrdiff_t after = *end; from > 0 && *first < after;) { // the first from there on is in [*first, after]
        const ptrdiff_t middle = *first + (after - *first) / 2;
        if (columns[middle] < from)
            *first = middle + 1;
        else
            after = middle;
    }
    for (ptrdiff_t before = *first; to < run->net.sizes[0] && before < *end;) { // and the last before `to`
        const ptrdiff_t middle = before + (*end - before) / 2;
        if (columns[middle] < to)
            before = middle + 1;
        else
            *end = middle;
    }
}

// Asks for row b of this batch or the next ones.
INLINE void R(ask_for_row)(const fm_run *run, ptrdiff_t b)
{
    if (!run->rows || b >= run->B + run->n_ahead)
        return;
    const ptrdiff_t row = run->rows[b], start = (ptrdiff_t)run->X.starts[row];
    const ptrdiff_t end = (ptrdiff_t)run->X.starts[row + 1];
    for (ptrdiff_t i = start; i < end; i += FM_ALIGN / (ptrdiff_t)sizeof(int32_t))
        FM_PREFETCH(run->X.columns + i);
    for (ptrdiff_t i = start; i < end; i += FM_ALIGN / (ptrdiff_t)sizeof(real))
        FM_PREFETCH((const real *)run->X.values + i);
}

// The numbers of the batch in the order of their columns: of a part of the columns, with a look at all rows.
static void R(list_entries)(fm_run *run, int part, int n_parts)
{
    enum { AHEAD = 6 };
    const ptrdiff_t I = run->net.sizes[0], from = I * part / n_parts, to = I * (part + 1) / n_parts;
    const int32_t *columns = run->X.columns;
    const real *values = run->X.values;
    uint32_t *ends = R(ends)(run), before = 0;
    R(entry) *entries = run->entries;
    memset(ends + from, 0, (size_t)(to - from) * sizeof *ends);
    for (ptrdiff_t b = 0; b < run->B; b++) {
        ptrdiff_t i, end;
        R(ask_for_row)(run, b + AHEAD);
        R(part_of_row)(run, b, from, to, &i, &end);
        before += (uint32_t)(i - (ptrdiff_t)run->X.starts[R(row_of)(run, b)]);
        for (; i < end; i++)
            ends[columns[i]]++;
    }
    for (ptrdiff_t k = from; k < to; k++) { // where each column begins
        const uint32_t n = ends[k];
        ends[k] = before;
        before += n;
    }
    for (ptrdiff_t b = 0; b < run->B; b++) {
        ptrdiff_t i, end;
        R(part_of_row)(run, b, from, to, &i, &end);
        for (; i < end; i++)
            entries[ends[columns[i]]++] = (R(entry)){values[i], (int32_t)b};
    }
}
