// Inputs that are 0, as most of a picture's are, of counts and of categories. Where a batch has many, the tiles
// of the first layer leave out the inputs that are 0 in all of their rows and, for the weights, the rows in
// which all of their inputs are 0. It is the same chain of multiply-adds without links that change no number as
// long as the other factor is finite: at most the sign of one that is 0.

INLINE uint32_t *R(words)(const fm_run *run) { return (uint32_t *)R(at)(run, R(layers)(run)->nonzero); }

// The words of the block of column k and of the rows from b on, or NULL where all of what a layer reads counts.
INLINE const uint32_t *R(words_of)(const fm_run *run, const fm_layer *layer, ptrdiff_t k, ptrdiff_t b)
{
    const int skips = run->skips_zeros && layer == R(layers)(run);
    return skips ? R(words)(run) + k / FM_BLOCK * run->max_rows + b : NULL;
}

// The bits that n columns from k on have in them.
INLINE uint32_t R(features)(ptrdiff_t k, int n) { return ((UINT32_C(1) << n) - 1) << k % FM_BLOCK; }

// Which of n <= 32 numbers are not 0.
INLINE uint32_t R(nonzero)(const real *x, ptrdiff_t n)
{
    uint32_t bits = 0;
    for (ptrdiff_t j = 0; j < n; j += FM_LANES)
        bits |= vnonzero(n - j < FM_LANES ? vload_n(x + j, (int)(n - j)) : vload(x + j)) << j;
    return bits;
}

// Writes the words of the rows [first, last).
static void R(mark_nonzero)(fm_run *run, ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t I = run->net.sizes[0];
    uint32_t *words = R(words)(run);
    for (ptrdiff_t k = 0; k < I; k += FM_BLOCK, words += run->max_rows) {
        const real *A = R(at)(run, R(layers)(run)->in + R(column)(R(block_stride)(run), k));
        for (ptrdiff_t b = first; b < last; b++)
            words[b] = R(nonzero)(A + b * FM_BLOCK, R(min)(FM_BLOCK, I - k));
    }
}

// Whether it is worth it: what the tiles would have left of the first rows of a batch.
static int R(has_many_zeros)(const fm_run *run)
{
    enum { TALL = FM_ROWS(FM_PANEL), ROWS = 2 * TALL, WORTH_PERCENT = 75 };
    const fm_layer *layer = R(layers)(run);
    const ptrdiff_t I = layer->I, n = R(min)(ROWS, run->B);
    ptrdiff_t left = 0;
    if (!layer->nonzero)
        return 0;
    for (ptrdiff_t k = 0; k < I; k += FM_BLOCK) {
        const real *A = R(at)(run, layer->in + R(column)(R(block_stride)(run), k));
        for (ptrdiff_t first = 0; first < n; first += TALL) {
            const ptrdiff_t last = R(min)(n, first + TALL);
            uint32_t any = 0;
            for (ptrdiff_t b = first; b < last; b++) {
                const uint32_t bits = R(nonzero)(A + b * FM_BLOCK, R(min)(FM_BLOCK, I - k));
                any |= bits;
                for (int f = 0; f < FM_BLOCK; f += TALL)
                    left += (bits >> f & ((1u << TALL) - 1)) != 0 ? TALL : 0;
            }
            for (; any; any &= any - 1)
                left += last - first;
        }
    }
    return 100 * left < 2 * WORTH_PERCENT * n * I;
}
