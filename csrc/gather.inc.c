// The rows of a batch: gathered as its step begins or, where they are long, by the weight tiles of the
// step before.

// The row of X that is row b of the batch.
INLINE ptrdiff_t R(row_of)(const fm_run *run, ptrdiff_t b) { return run->rows ? run->rows[b] : b; }

// n numbers of a row to its places in blocks, `stride` apart.
INLINE void R(to_blocks)(real *to, const real *row, ptrdiff_t n, ptrdiff_t stride)
{
    for (; n >= FM_BLOCK; n -= FM_BLOCK, row += FM_BLOCK, to += stride)
        FM_UNROLL
        for (int j = 0; j < FM_BLOCK; j += FM_LANES)
            vstore(to + j, vload(row + j));
    if (n > 0)
        memcpy(to, row, (size_t)n * sizeof(real));
}

// Row `out` of the blocks that begin at `at` = row b of the batch, from column k on, a whole number
// of blocks.
INLINE void R(gather_row)(const fm_run *run, ptrdiff_t at, ptrdiff_t out, ptrdiff_t b, ptrdiff_t k)
{
    const ptrdiff_t I = run->net.sizes[0], stride = R(block_stride)(run);
    const real *row = (const real *)run->X.values + R(row_of)(run, b) * I;
    R(to_blocks)(R(at)(run, at + out * FM_BLOCK) + R(column)(stride, k), row + k, I - k, stride);
}

// A_0 = X[rows] for the rows [first, last) of the batch. Shuffled rows lie anywhere in memory, so
// that some later ones are asked for while one is copied; at the end of the batch, those of the next.
static void R(gather)(fm_run *run, ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t ahead = R(min)(12, last - first); // so that the last ask for the first of the next
    const ptrdiff_t line = FM_ALIGN / (ptrdiff_t)sizeof(real), I = run->net.sizes[0];
    const ptrdiff_t known = last == run->B ? last + run->n_ahead : last;
    for (ptrdiff_t b = first; b < last; b++) {
        if (run->rows && b + ahead < known) {
            const real *next = (const real *)run->X.values + run->rows[b + ahead] * I;
            for (ptrdiff_t k = 0; k < I; k += line)
                FM_PREFETCH(next + k);
        }
        R(gather_row)(run, R(layers)(run)->in, b, b, 0);
    }
}

// -- ahead --------------------------------------------------------------------------------------

// From the row that is copied to the one asked for; and rows whose pages are asked for at once.
enum { R(AHEAD) = 2, R(GROUP) = 16 };

static int R(gathers_ahead)(const fm_run *run)
{
    return run->n_ahead > 0 && !R(is_small)(run) && run->net.sizes[0] >= R(LONG_ROW) && !run->store_gradients &&
           !run->is_sparse && !run->skips_zeros;
}

// Asks for the pages of the rows [b, end) of the next batch: all at once takes hardly longer than
// one.
static void R(ask_for_pages)(const fm_run *run, ptrdiff_t b, ptrdiff_t end)
{
    enum { PAGE = 4096 / sizeof(real) };
    const ptrdiff_t I = run->net.sizes[0];
    for (; b < end; b++) {
        const real *row = (const real *)run->X.values + R(row_of)(run, run->B + b) * I;
        for (ptrdiff_t k = 0; k < I; k += PAGE)
            FM_PREFETCH(row + k);
        FM_PREFETCH(row + I - 1);
    }
}

// Sets out to copy row `b` of the next batch.
static void R(gather_from)(const fm_run *run, R(errands) *errands, ptrdiff_t b)
{
    const ptrdiff_t I = run->net.sizes[0];
    errands->row = b;
    errands->copying.copied = 0;
    if (b >= errands->end)
        return;
    if (b % R(GROUP) == 0)
        R(ask_for_pages)(run, R(min)(b + R(AHEAD), errands->end),
                         R(min)(b + R(AHEAD) + R(GROUP), errands->end));
    const ptrdiff_t later = R(min)(b + R(AHEAD), errands->end - 1);
    errands->copying.from = (const real *)run->X.values + R(row_of)(run, run->B + b) * I;
    errands->copying.later = (const real *)run->X.values + R(row_of)(run, run->B + later) * I;
    errands->copying.to = R(at)(run, R(layers)(run)->ahead + b * FM_BLOCK);
}

// A thread that does the units [first, last) of the `n_units` of the first layer, each a tile at least, gathers
// as large a part of the next batch along with them.
static void R(gather_ahead)(const fm_run *run, R(errands) *errands, ptrdiff_t first, ptrdiff_t last,
                            ptrdiff_t n_units)
{
    const ptrdiff_t rows = R(min)(run->n_ahead, run->B), begin = rows * first / n_units;
    errands->end = rows * last / n_units;
    errands->copying.stride = R(block_stride)(run);
    errands->copying.blocks = run->net.sizes[0] / FM_BLOCK;
    const ptrdiff_t copies = (errands->end - begin) * errands->copying.blocks;
    errands->copies_of_tile = (copies + last - first - 1) / (last - first);
    const ptrdiff_t group = (begin + R(GROUP) - 1) / R(GROUP) * R(GROUP); // gather_from asks from here
    R(ask_for_pages)(run, begin, R(min)(group + R(AHEAD), errands->end));
    R(gather_from)(run, errands, begin);
}

// How much of it the next tile does, beside so many rows of its sum; and after that tile, on to the next row
// where one is done.
INLINE ptrdiff_t R(next_copies)(const R(errands) *errands, ptrdiff_t rows)
{
    if (errands->row >= errands->end)
        return 0;
    const ptrdiff_t left = errands->copying.blocks - errands->copying.copied;
    return R(min)(R(min)(errands->copies_of_tile, left), rows);
}
INLINE void R(gather_on)(const fm_run *run, R(errands) *errands)
{
    const ptrdiff_t b = errands->row;
    errands->copying.copied += errands->copies;
    if (b >= errands->end || errands->copying.copied < errands->copying.blocks)
        return;
    R(gather_row)(run, R(layers)(run)->ahead, b, run->B + b, errands->copying.copied * FM_BLOCK);
    R(gather_from)(run, errands, b + 1);
}

// What the tiles did not get to.
static void R(gather_rest)(const fm_run *run, R(errands) *errands)
{
    for (ptrdiff_t b = errands->row; b < errands->end; b++, errands->copying.copied = 0)
        R(gather_row)(run, R(layers)(run)->ahead, b, run->B + b, errands->copying.copied * FM_BLOCK);
    errands->row = errands->end = 0;
}
