// Inputs that are 0, as most of a picture's are, of counts and of categories. Where a batch has many, its rows
// are written down in the form of a sparse matrix, and csr.inc.c does the rest. It is the same chain of
// multiply-adds without links that change no number as long as the other factor is finite: at most the sign of
// one that is 0.

// Where the numbers of X begin that are row b of the batch.
INLINE const real *R(dense_row)(const fm_run *run, ptrdiff_t b)
{
    return (const real *)run->X.values + R(row_of)(run, b) * run->net.sizes[0];
}

// Writes up to where which of n <= 32 numbers x are not 0, each plus `first`; more than that may be written
// over. Returns how many.
INLINE ptrdiff_t R(list_nonzero)(uint32_t *columns, const real *x, ptrdiff_t first, ptrdiff_t n)
{
    uint32_t bits = 0;
    for (ptrdiff_t j = 0; j < n; j += FM_LANES)
        bits |= vnonzero(n - j < FM_LANES ? vload_n(x + j, (int)(n - j)) : vload(x + j)) << j;
    return list_bits(columns, bits, (uint32_t)first);
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
        const real *row = R(dense_row)(run, b);
        starts[b] = n;
        for (ptrdiff_t k = 0; k < I; k += FM_BLOCK)
            n += R(list_nonzero)(columns + n, row + k, k, R(min)(FM_BLOCK, I - k));
        for (ptrdiff_t i = (ptrdiff_t)starts[b]; i < n; i++)
            values[i] = row[columns[i]];
        ends[b] = n;
    }
}

// Whether it is worth it, going by the first rows of a batch.
static int R(has_many_zeros)(const fm_run *run)
{
    enum { ROWS = 16, WORTH_PERCENT = 25 };
    const ptrdiff_t I = run->net.sizes[0], n = R(min)(ROWS, run->B);
    uint32_t columns[2 * FM_BLOCK];
    ptrdiff_t left = 0;
    if (!R(layers)(run)->lists.columns || run->max_rows < ROWS) // where most of a step is the update
        return 0;
    for (ptrdiff_t b = 0; b < n; b++)
        for (ptrdiff_t k = 0; k < I; k += FM_BLOCK)
            left += R(list_nonzero)(columns, R(dense_row)(run, b) + k, k, R(min)(FM_BLOCK, I - k));
    return 100 * left < WORTH_PERCENT * n * I;
}
