// Inputs that are 0, as most of a picture's are, of counts and of categories. Where a batch has many, its rows
// are written down in the form of a sparse matrix, and csr.inc.c does the rest. It is the same chain of
// multiply-adds without links that change no number as long as the other factor is finite: at most the sign of
// one that is 0.

// Where the numbers of X begin that are row b of the batch.
INLINE const real *R(dense_row)(const fm_run *run, ptrdiff_t b)
{
    return (const real *)run->X.values + R(row_of)(run, b) * run->net.sizes[0];
}

// Lists which of up to AT_ONCE numbers x (n,) are not 0, and their columns, that of the first of x being k. As
// many more of both may be written over. Returns how many.
INLINE ptrdiff_t R(list_block)(uint32_t *columns, real *values, const real *x, ptrdiff_t k, ptrdiff_t n)
{
    uint32_t all = 0;
    ptrdiff_t listed = 0;
    for (ptrdiff_t j = 0; j < n; j += FM_LANES) {
        const V v = n - j < FM_LANES ? vload_n(x + j, (int)(n - j)) : vload(x + j);
        const uint32_t bits = vnonzero(v);
#if FM_STORES_WHERE
        listed += vstore_where(values + listed, v, bits);
#endif
        all |= bits << j;
    }
    const ptrdiff_t count = list_bits(columns, all, (uint32_t)k);
    for (; listed < count; listed++) // where there is no instruction for it
        values[listed] = x[columns[listed] - (uint32_t)k];
    return count;
}

// The same for a row (I,).
INLINE ptrdiff_t R(list_row)(uint32_t *columns, real *values, const real *row, ptrdiff_t I)
{
    ptrdiff_t n = 0;
    for (ptrdiff_t k = 0; k < I; k += R(AT_ONCE))
        n += R(list_block)(columns + n, values + n, row + k, k, R(min)(R(AT_ONCE), I - k));
    return n;
}

// Lists the rows [first, last) of the batch.
static void R(list_rows)(fm_run *run, ptrdiff_t first, ptrdiff_t last)
{
    const fm_lists *lists = &R(layers)(run)->lists;
    const ptrdiff_t I = run->net.sizes[0];
    int64_t *starts = (int64_t *)R(at)(run, lists->starts), *ends = starts + run->max_rows;
    uint32_t *columns = (uint32_t *)R(at)(run, lists->columns);
    real *values = R(at)(run, lists->values);
    ptrdiff_t n = first * R(room_of_row)(I);
    for (ptrdiff_t b = first; b < last; b++) {
        starts[b] = n;
        n += R(list_row)(columns + n, values + n, R(dense_row)(run, b), I);
        ends[b] = n;
    }
}

// Whether of the first rows of a batch so few numbers are not 0 that it is worth to list them.
enum { R(ROWS_TO_LOOK_AT) = 16 };
static int R(has_many_zeros)(const fm_run *run)
{
    enum { WORTH_PERCENT = 25 };
    const ptrdiff_t I = run->net.sizes[0], n = R(min)(R(ROWS_TO_LOOK_AT), run->B);
    V left = vset1(0);
    for (ptrdiff_t b = 0; b < n; b++) {
        const real *row = R(dense_row)(run, b);
        for (ptrdiff_t k = 0; k < I; k += FM_LANES) {
            const V x = I - k < FM_LANES ? vload_n(row + k, (int)(I - k)) : vload(row + k);
            left = vadd(left, vselect_lt(vset1(0), vmax(x, vsub(vset1(0), x)), vset1(1), vset1(0)));
        }
    }
    return 100 * vsum(left) < WORTH_PERCENT * n * I;
}

// Whether to list the next batches. In small ones most of the work is the update.
static int R(lists_pay)(const fm_run *run)
{
    return R(layers)(run)->lists.columns && run->max_rows >= R(ROWS_TO_LOOK_AT) && R(has_many_zeros)(run);
}

// C (B, O) = X W + b for flat parameters and dense rows that are listed, some at a time: where they are many
// and of many zeros, and all weights finite, or NaN would be left out. Returns whether it was so.
static int R(zeros_linear_forward)(const fm_run *run, real *C, const real *X, const real *flat,
                                   const fm_layer *layer, ptrdiff_t B, ptrdiff_t out_stride, int epilogue)
{
    const ptrdiff_t I = layer->I, n_weights = I * layer->O, whole = n_weights / FM_LANES;
    const fm_run batch = {.net = run->net, .X = {.values = X}, .B = B};
    if (!layer->lists.columns || layer->O <= R(FEW) || B < R(ROWS_LISTED) || !R(has_many_zeros)(&batch) ||
        !R(finite_vectors)(flat, whole))
        return 0;
    for (ptrdiff_t i = whole * FM_LANES; i < n_weights; i++)
        if (!isfinite(flat[i]))
            return 0;
    uint32_t *columns = (uint32_t *)R(at)(run, layer->lists.columns);
    real *values = R(at)(run, layer->lists.values);
    int64_t starts[R(ROWS_LISTED) + 1] = {0};
    for (ptrdiff_t b = 0; b < B; b += R(ROWS_LISTED)) {
        const ptrdiff_t n = R(min)(R(ROWS_LISTED), B - b);
        for (ptrdiff_t r = 0; r < n; r++)
            starts[r + 1] = starts[r] + R(list_row)(columns + starts[r], values + starts[r],
                                                    X + (b + r) * I, I);
        R(csr_linear_forward)(C + b * FM_BLOCK, &(fm_rows){values, (const int32_t *)columns, starts}, flat,
                              layer, n, out_stride, epilogue);
    }
    return 1;
}
