// The register tiles where many inputs are 0: zeros.inc.c says which, and when.

// C (M, NV vectors) = init + A P, likewise, over the columns that are not 0 in all M rows of A, whose words
// these are, n_words from block to block. Meanwhile it asks for the rows of the next tile.
INLINE void R(sparse_row_tile_of)(const R(strip) *of, real *restrict C, const real *restrict A,
                                  const uint32_t *words, ptrdiff_t n_words, const int M, const int NV)
{
    enum { LINE = FM_ALIGN / sizeof(real), LINES = FM_BLOCK / LINE };
    const ptrdiff_t *at = of->at, stride = of->stride, blocks = (of->K + FM_BLOCK - 1) / FM_BLOCK;
    uint32_t columns[R(BLOCKS) * FM_BLOCK + FM_WORDS];
    int n = 0;
    for (ptrdiff_t block = 0; block < blocks; block++, words += n_words) {
        uint32_t any = 0;
        FM_UNROLL
        for (int r = 0; r < M; r++)
            any |= words[r];
        n += list_bits(columns + n, any, (uint32_t)block * FM_BLOCK);
    }
    V acc[FM_MOST_ROWS][FM_PANEL];
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[r][j] = vload(of->init ? of->init + j * FM_LANES : C + at[j] + r * FM_BLOCK);
    for (int i = 0; i < n; i++) {
        const uint32_t k = columns[i];
        const real *row = A + k / FM_BLOCK * stride + k % FM_BLOCK, *P = of->P + k * (NV * FM_LANES);
        V p[FM_PANEL];
        FM_PREFETCH(A + i / (M * LINES) * stride + M * FM_BLOCK + i % (M * LINES) * LINE);
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            p[j] = vload(P + j * FM_LANES);
        FM_UNROLL
        for (int r = 0; r < M; r++)
            R(add_multiple)(acc[r], row + r * FM_BLOCK, p, NV);
    }
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            vstore(C + at[j] + r * FM_BLOCK,
                   of->epilogue == FM_STORE_RELU ? vkeep(acc[r][j], acc[r][j]) : acc[r][j]);
}

// acc (M, NV vectors) += a^T d, rows of A and D that begin at `row`.
INLINE void R(add_product_at)(V acc[FM_MOST_ROWS][FM_PANEL], const real *A, const real *D, ptrdiff_t row,
                              const ptrdiff_t at[FM_PANEL], const int M, const int NV)
{
    V d[FM_PANEL];
    FM_UNROLL
    for (int j = 0; j < NV; j++)
        d[j] = vload(D + row + at[j]);
    FM_UNROLL
    for (int r = 0; r < M; r++)
        R(add_multiple)(acc[r], A + row + r, d, NV);
}

// sums (M, NV vectors) = so_far + A^T D, likewise, over those of K rows in which not all M columns of A are 0:
// whose words have a bit of `features`. Meanwhile the errands are run.
INLINE void R(sparse_column_tile_of)(R(errands) *errands, real *sums, const real *so_far, const real *A,
                                     const real *D, const ptrdiff_t at[FM_PANEL], ptrdiff_t K,
                                     const uint32_t *words, uint32_t features, const int M, const int NV)
{
    uint32_t rows[R(LONG) + FM_WORDS];
    ptrdiff_t n = 0;
    for (ptrdiff_t k = 0; k < K; k += FM_WORDS) {
        uint32_t with = words_with(words + k, features);
        if (K - k < FM_WORDS)
            with &= (UINT32_C(1) << (K - k)) - 1;
        n += list_bits(rows + n, with, (uint32_t)k);
    }
    V acc[FM_MOST_ROWS][FM_PANEL];
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[r][j] = so_far ? vload(so_far + (r * NV + j) * FM_LANES) : vset1(0);
    const R(waiting) waiting = errands->waiting;
    const R(copying) copying = errands->copying;
    ptrdiff_t columns[FM_PANEL];
    for (int j = 0; j < FM_PANEL; j++)
        columns[j] = at[j];
    for (ptrdiff_t i = 0; i < errands->copies; i++)
        R(copy)(&copying, i);
    const ptrdiff_t updates = R(min)(n, errands->updates);
    ptrdiff_t i = 0;
    if (errands->is_plain)
        for (; i < updates; i++) {
            R(update)(errands, &waiting, i, 1);
            R(add_product_at)(acc, A, D, (ptrdiff_t)rows[i] * FM_BLOCK, columns, M, NV);
        }
    else
        for (; i < updates; i++) {
            R(update)(errands, &waiting, i, 0);
            R(add_product_at)(acc, A, D, (ptrdiff_t)rows[i] * FM_BLOCK, columns, M, NV);
        }
    for (; i < n; i++)
        R(add_product_at)(acc, A, D, (ptrdiff_t)rows[i] * FM_BLOCK, columns, M, NV);
    R(update_all)(errands, &waiting, updates);
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            vstore(sums + (r * NV + j) * FM_LANES, acc[r][j]);
}

#define DEFINE(m, nv)                                                                          \
    static void R(sparse_row_tile_##m##_##nv)(const R(strip) *of, real *C, const real *A,      \
                                              const uint32_t *words, ptrdiff_t n_words)        \
    {                                                                                          \
        if (EXISTS(m, nv))                                                                     \
            R(sparse_row_tile_of)(of, C, A, words, n_words, m, nv);                            \
    }                                                                                          \
    static void R(sparse_column_tile_##m##_##nv)(R(errands) *errands, real *sums, const real *so_far,    \
                                                 const real *A, const real *D, const ptrdiff_t *at,      \
                                                 ptrdiff_t K, const uint32_t *words, uint32_t features)  \
    {                                                                                          \
        if (EXISTS(m, nv))                                                                     \
            R(sparse_column_tile_of)(errands, sums, so_far, A, D, at, K, words, features, m, nv); \
    }
FOR_EACH_TILE(DEFINE)
#undef DEFINE

#define NAME(m, nv) R(sparse_row_tile_##m##_##nv),
static void (*const R(sparse_row_tiles)[3][16])(const R(strip) *of, real *C, const real *A,
                                                const uint32_t *words, ptrdiff_t n_words) = {
    {FOR_EACH_M(NAME, 1)}, {FOR_EACH_M(NAME, 2)}, {FOR_EACH_M(NAME, 3)}};
#undef NAME
#define NAME(m, nv) R(sparse_column_tile_##m##_##nv),
static void (*const R(sparse_column_tiles)[3][16])(R(errands) *errands, real *sums, const real *so_far,
                                                   const real *A, const real *D, const ptrdiff_t *at,
                                                   ptrdiff_t K, const uint32_t *words,
                                                   uint32_t features) = {
    {FOR_EACH_M(NAME, 1)}, {FOR_EACH_M(NAME, 2)}, {FOR_EACH_M(NAME, 3)}};
#undef NAME
