// Inputs that are a sparse matrix, or dense rows listed as one (zeros.inc.c). The first layer goes by the
// numbers that are there: forward row by row, and for the gradients of its weights column by column. They are
// the chains of multiply-adds of the other tiles, without the links whose input is not there.

// Rows [starts, ends) of numbers and their columns, which increase; and which of them are the batch's, or NULL
// where all are, in their order.
typedef struct R(csr) {
    const real *values;
    const int32_t *columns;
    const int64_t *starts, *ends;
    const ptrdiff_t *rows;
} R(csr);

// A number of the batch and its row; in memory column by column, and by rows within one.
typedef struct R(entry) {
    real value;
    int32_t row;
} R(entry);

INLINE int R(is_listed)(const fm_run *run, const fm_layer *layer)
{
    return (run->is_sparse || run->skips_zeros) && layer == R(layers)(run);
}

// Those of the batch from row `first` on.
INLINE R(csr) R(csr_of)(const fm_run *run, ptrdiff_t first)
{
    const fm_rows *X = &run->X;
    if (run->is_sparse && run->rows)
        return (R(csr)){X->values, X->columns, X->starts, X->starts + 1, run->rows + first};
    if (run->is_sparse)
        return (R(csr)){X->values, X->columns, X->starts + first, X->starts + first + 1, NULL};
    const fm_lists *lists = &R(layers)(run)->lists;
    const int64_t *starts = (const int64_t *)R(at)(run, lists->starts) + first;
    return (R(csr)){R(at)(run, lists->values), (const int32_t *)R(at)(run, lists->columns), starts,
                    starts + run->max_rows, NULL};
}

// Where the entries of each column end, and the entries.
INLINE uint32_t *R(column_ends)(const fm_run *run)
{
    return (uint32_t *)R(at)(run, R(layers)(run)->lists.ends);
}
INLINE R(entry) *R(entries)(const fm_run *run)
{
    return run->is_sparse ? run->entries : (R(entry) *)R(at)(run, R(layers)(run)->lists.entries);
}

// acc (N vectors) += *x p, of whose last vector there are `lanes` lanes.
INLINE void R(add_entry)(V *acc, const real *x, const real *p, const int lanes, const int N)
{
    const V number = vset1(*x);
    FM_UNROLL
    for (int j = 0; j < N; j++) {
        const real *at = p + j * FM_LANES;
        acc[j] = vfma(number, j < N - 1 || lanes == FM_LANES ? vload(at) : vload_n(at, lanes), acc[j]);
    }
}

INLINE void R(ask_for_weights)(const real *p, const int N)
{
    enum { LINE = FM_ALIGN / sizeof(real) };
    FM_UNROLL
    for (int j = 0; j < N * FM_LANES; j += LINE)
        FM_PREFETCH(p + j);
}

// Whether the weights of a strip are so far away that they are better asked for.
INLINE int R(is_far)(const R(strip) *of) { return of->K * of->ldp * (ptrdiff_t)sizeof(real) > FM_CACHE; }

// C (B, NV vectors) = init + A P. Two rows of A at a time, or each multiply-add would wait for the one before.
INLINE void R(csr_panel_of)(const R(strip) *of, real *restrict C, const R(csr) *A, ptrdiff_t B, const int NV)
{
    const ptrdiff_t *at = of->at, ldp = NV * FM_LANES;
    const int asks = R(is_far)(of);
    const real *const P = of->P;
    for (ptrdiff_t b = 0; b < B; b += 2) {
        const real *x[2];
        const int32_t *columns[2];
        ptrdiff_t n[2] = {0, 0};
        V acc[2][FM_PANEL];
        for (int r = 0; r < R(min)(2, B - b); r++) {
            const ptrdiff_t row = A->rows ? A->rows[b + r] : b + r, start = (ptrdiff_t)A->starts[row];
            x[r] = A->values + start;
            columns[r] = A->columns + start;
            n[r] = (ptrdiff_t)A->ends[row] - start;
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
                R(add_entry)(acc[r], x[r] + i, P + columns[r][i] * ldp, FM_LANES, NV);
            }
        for (int r = 0; r < R(min)(2, B - b); r++) {
            for (ptrdiff_t i = both; i < n[r]; i++) {
                if (asks)
                    R(ask_for_weights)(P + columns[r][i + FM_CSR_AHEAD] * ldp, NV);
                R(add_entry)(acc[r], x[r] + i, P + columns[r][i] * ldp, FM_LANES, NV);
            }
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                vstore(C + at[j] + (b + r) * FM_BLOCK,
                       of->epilogue == FM_STORE_RELU ? vkeep(acc[r][j], acc[r][j]) : acc[r][j]);
        }
    }
}

// The same for N vectors of flat weights, of whose last one there are `lanes` lanes; the columns of C are those
// from o on. What is read of a row of weights is read at once.
enum { R(MOST_FLAT) = 8 };
INLINE void R(csr_flat_of)(const R(strip) *of, real *restrict C, ptrdiff_t o, const R(csr) *A, ptrdiff_t B,
                           ptrdiff_t out_stride, const int lanes, const int N)
{
    const int asks = R(is_far)(of);
    for (ptrdiff_t b = 0; b < B; b++) {
        const real *x = A->values + A->starts[b];
        const int32_t *columns = A->columns + A->starts[b];
        const ptrdiff_t n = (ptrdiff_t)(A->ends[b] - A->starts[b]);
        V acc[R(MOST_FLAT)];
        FM_UNROLL
        for (int j = 0; j < N; j++)
            acc[j] = vload(of->init + j * FM_LANES);
        for (ptrdiff_t i = 0; i < n; i++) {
            if (asks)
                R(ask_for_weights)(of->P + columns[i + FM_CSR_AHEAD] * of->ldp, N);
            R(add_entry)(acc, x + i, of->P + columns[i] * of->ldp, lanes, N);
        }
        FM_UNROLL
        for (int j = 0; j < N; j++)
            vstore(C + R(column)(out_stride, o + j * FM_LANES) + b * FM_BLOCK,
                   of->epilogue == FM_STORE_RELU ? vkeep(acc[j], acc[j]) : acc[j]);
    }
}

// The gradients of the weights of the features [f, f + M), NV vectors each: into errands->dW where they are
// stored, else into the weights at once, since there is not much to put an update beside.
INLINE void R(csr_column_tile_of)(R(errands) *errands, const fm_run *run, ptrdiff_t f, const real *D,
                                  const ptrdiff_t at[FM_PANEL], int M, const int NV)
{
    const uint32_t *ends = R(column_ends)(run);
    const R(entry) *const entries = R(entries)(run), *entry = entries + (f ? ends[f - 1] : 0);
    const R(waiting) *of = &errands->waiting;
    for (int r = 0; r < M; r++) {
        const R(entry) *const end = entries + ends[f + r];
        V acc[FM_PANEL];
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[j] = vset1(0);
        for (; entry < end; entry++) {
            const V number = vset1(entry->value);
            const real *d = D + (ptrdiff_t)entry->row * FM_BLOCK;
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
    static void R(csr_panel_##nv)(const R(strip) *of, real *C, const R(csr) *A, ptrdiff_t B)      \
    {                                                                                             \
        if (nv <= FM_PANEL)                                                                       \
            R(csr_panel_of)(of, C, A, B, nv);                                                     \
    }                                                                                             \
    static void R(csr_column_tile_##nv)(R(errands) *errands, const fm_run *run, ptrdiff_t f,      \
                                        const real *D, const ptrdiff_t *at, int M)                \
    {                                                                                             \
        if (nv <= FM_PANEL)                                                                       \
            R(csr_column_tile_of)(errands, run, f, D, at, M, nv);                                 \
    }
DEFINE(1) DEFINE(2) DEFINE(3)
#undef DEFINE
static void (*const R(csr_panels)[3])(const R(strip) *of, real *C, const R(csr) *A, ptrdiff_t B) = {
    R(csr_panel_1), R(csr_panel_2), R(csr_panel_3)};
static void (*const R(csr_column_tiles)[3])(R(errands) *errands, const fm_run *run, ptrdiff_t f, const real *D,
                                            const ptrdiff_t *at, int M) = {
    R(csr_column_tile_1), R(csr_column_tile_2), R(csr_column_tile_3)};

#define DEFINE(n)                                                                                 \
    static void R(csr_flat_##n)(const R(strip) *of, real *C, ptrdiff_t o, const R(csr) *A,        \
                                ptrdiff_t B, ptrdiff_t out_stride, int lanes)                     \
    {                                                                                             \
        if (lanes == FM_LANES)                                                                    \
            R(csr_flat_of)(of, C, o, A, B, out_stride, FM_LANES, n);                              \
        else                                                                                      \
            R(csr_flat_of)(of, C, o, A, B, out_stride, lanes, n);                                 \
    }
DEFINE(1) DEFINE(2) DEFINE(3) DEFINE(4) DEFINE(5) DEFINE(6) DEFINE(7) DEFINE(8)
#undef DEFINE
static void (*const R(csr_flat)[])(const R(strip) *of, real *C, ptrdiff_t o, const R(csr) *A, ptrdiff_t B,
                                   ptrdiff_t out_stride, int lanes) = {
    R(csr_flat_1), R(csr_flat_2), R(csr_flat_3), R(csr_flat_4),
    R(csr_flat_5), R(csr_flat_6), R(csr_flat_7), R(csr_flat_8)};

// The sums of the panels [from, to) of the first layer for the rows [first, last) of the batch.
static void R(csr_forward)(const fm_run *run, const fm_layer *layer, ptrdiff_t first, ptrdiff_t last,
                           ptrdiff_t from, ptrdiff_t to, int epilogue)
{
    const R(form) W = R(W_of)(layer);
    const R(csr) A = R(csr_of)(run, first);
    for (ptrdiff_t p = from; p < to; p++) {
        const real *panel = (const real *)run->state + W.at + R(row_at)(&W, p, 0);
        R(strip) strip = {.P = panel, .init = panel - R(width)(&W, p), .ldp = R(width)(&W, p), .K = layer->I,
                          .epilogue = epilogue};
        R(columns)(strip.at, R(block_stride)(run), R(first_column)(&W, p), R(panel_size)(W.widths, p));
        R(csr_panels)[R(panel_size)(W.widths, p) - 1](&strip, R(at)(run, layer->out + first * FM_BLOCK), &A,
                                                      last - first);
    }
}

// C (B, O) = X W + b for flat parameters.
static void R(csr_linear_forward)(real *C, const fm_rows *X, const real *flat, const fm_layer *layer,
                                  ptrdiff_t B, ptrdiff_t out_stride, int epilogue)
{
    const ptrdiff_t I = layer->I, O = layer->O;
    const R(parts) parts = R(parts_of)(R(vectors)(O), R(MOST_FLAT));
    const R(csr) A = {X->values, X->columns, X->starts, X->starts + 1, NULL};
    for (ptrdiff_t p = 0; p < parts.n; p++) {
        const int N = R(part_size)(parts, p);
        const ptrdiff_t o = R(part_start)(parts, p) * FM_LANES;
        const int lanes = (int)R(min)(FM_LANES, O - o - (N - 1) * FM_LANES);
        real bias[R(MOST_FLAT) * FM_LANES];
        for (int j = 0; j < N; j++)
            vstore(bias + j * FM_LANES,
                   vload_n(flat + I * O + o + j * FM_LANES, j < N - 1 ? FM_LANES : lanes));
        const R(strip) strip = {.P = flat + o, .init = bias, .ldp = O, .K = I, .epilogue = epilogue};
        R(csr_flat)[N - 1](&strip, C, o, &A, B, out_stride, lanes);
    }
}

// The first of the columns [i, end), which increase, that is not below k.
INLINE ptrdiff_t R(first_from)(const int32_t *columns, ptrdiff_t i, ptrdiff_t end, ptrdiff_t k)
{
    while (i < end) {
        const ptrdiff_t middle = i + (end - i) / 2;
        if (columns[middle] < k)
            i = middle + 1;
        else
            end = middle;
    }
    return i;
}

// Lists the batch in the order of its columns: a part of the columns, with a look at all rows.
static void R(list_columns)(fm_run *run, int part, int n_parts)
{
    const ptrdiff_t I = run->net.sizes[0], from = I * part / n_parts, to = I * (part + 1) / n_parts;
    const R(csr) A = R(csr_of)(run, 0);
    const int32_t *columns = A.columns;
    uint32_t *ends = R(column_ends)(run), before = 0;
    R(entry) *entries = R(entries)(run);
    memset(ends + from, 0, (size_t)(to - from) * sizeof *ends);
    for (int lists = 0; lists < 2; lists++) { // it counts them first
        for (ptrdiff_t b = 0; b < run->B; b++) {
            const ptrdiff_t row = A.rows ? A.rows[b] : b;
            ptrdiff_t i = (ptrdiff_t)A.starts[row], end = (ptrdiff_t)A.ends[row];
            if (n_parts > 1) {
                const ptrdiff_t start = i;
                i = R(first_from)(columns, i, end, from);
                end = R(first_from)(columns, i, end, to);
                before += lists ? 0 : (uint32_t)(i - start);
            }
            if (lists)
                for (; i < end; i++)
                    entries[ends[columns[i]]++] = (R(entry)){A.values[i], (int32_t)b};
            else
                for (; i < end; i++)
                    ends[columns[i]]++;
        }
        for (ptrdiff_t k = from; !lists && k < to; k++) { // where each column begins
            const uint32_t n = ends[k];
            ends[k] = before;
            before += n;
        }
    }
}

// -- ahead --------------------------------------------------------------------------------------

// A thread that does the units [first, last) of the `n_units` of the first layer, each a tile at least, asks
// for as large a part of the next batch meanwhile, whose rows lie anywhere in memory.
static void R(ask_ahead)(const fm_run *run, R(errands) *errands, ptrdiff_t first, ptrdiff_t last,
                         ptrdiff_t n_units)
{
    const ptrdiff_t line = FM_ALIGN / (ptrdiff_t)sizeof(real), rows = R(min)(run->n_ahead, run->B);
    const ptrdiff_t all = rows ? rows * R(parts_of)(run->net.sizes[0], line).n : 0;
    errands->asking = (R(asking)){rows * first / n_units, rows * last / n_units, 0,
                                  (all + n_units - 1) / n_units};
}

// What one tile asks for: so many lines, or whole rows of a sparse matrix that have as many.
INLINE void R(ask_on)(const fm_run *run, R(asking) *asking)
{
    enum { LINE = FM_ALIGN / sizeof(real) };
    for (ptrdiff_t n = asking->lines_of_tile; n > 0 && asking->row < asking->end;) {
        const ptrdiff_t row = R(row_of)(run, run->B + asking->row);
        if (run->is_sparse) {
            const ptrdiff_t end = (ptrdiff_t)run->X.starts[row + 1];
            for (ptrdiff_t i = (ptrdiff_t)run->X.starts[row]; i < end; i += LINE, n -= 2) {
                FM_PREFETCH(run->X.columns + i);
                FM_PREFETCH((const real *)run->X.values + i);
            }
            n--; // of an empty one, too
            asking->row++;
            continue;
        }
        const real *x = (const real *)run->X.values + row * run->net.sizes[0];
        for (; n > 0 && asking->column < run->net.sizes[0]; asking->column += LINE, n--)
            FM_PREFETCH(x + asking->column);
        if (asking->column >= run->net.sizes[0]) {
            asking->column = 0;
            asking->row++;
        }
    }
}
