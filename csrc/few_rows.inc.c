// Few rows: through several panels at a time, and updates of small batches.

// C (M, N vectors) = init + A (M, K) P (K, N vectors), then relu, or the mask of dA. Vectors of P lie
// together or in panels of NV. A panel at a time, they would wait for their own sums, and for weights of which
// little lies together.
INLINE void R(few_rows_of)(const R(strip) *of, real *restrict C, const real *restrict A,
                           const real *restrict mask, ptrdiff_t out_stride, ptrdiff_t o, const int M,
                           const int N, const int NV)
{
    V acc[4][16];
    const real *P = of->P;
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < N; j++)
            acc[r][j] = vload(of->init + j / NV * of->init_panel + j % NV * FM_LANES);
    for (ptrdiff_t left = of->K; left > 0; left -= FM_BLOCK, A += of->stride)
        for (ptrdiff_t k = 0; k < (left < FM_BLOCK ? left : FM_BLOCK); k++, P += of->ldp) {
            V x[4];
            FM_UNROLL
            for (int r = 0; r < M; r++)
                x[r] = vset1(A[r * of->lda + k]);
            FM_UNROLL
            for (int j = 0; j < N; j++) {
                const V p = vload(P + j / NV * of->panel + j % NV * FM_LANES);
                FM_UNROLL
                for (int r = 0; r < M; r++)
                    acc[r][j] = vfma_in_place(x[r], p, acc[r][j]);
            }
        }
    FM_UNROLL
    for (int j = 0; j < N; j++) {
        const ptrdiff_t column = R(column)(out_stride, o + j * FM_LANES);
        FM_UNROLL
        for (int r = 0; r < M; r++) {
            const ptrdiff_t to = column + r * FM_BLOCK;
            vstore(C + to, R(finished)(acc[r][j], mask + to, of->epilogue));
        }
    }
}

// As many of `left` vectors of columns from o on as B rows go well with; returns how many, or 0.
static ptrdiff_t R(few_rows)(const R(strip) *of, real *C, const real *A, ptrdiff_t out_stride, ptrdiff_t o,
                             ptrdiff_t B, ptrdiff_t left)
{
#define TAKE(m, n)                                                                             \
    if (B == (m) && left >= (n) && (m) <= FM_FEW_ROWS && (m) * ((n) + 1) < FM_REGISTERS) {     \
        R(few_rows_of)(of, C, A, A, out_stride, o, m, n, n);                                   \
        return n;                                                                              \
    }
    TAKE(1, FM_ONE_ROW)
    TAKE(1, 8)
    TAKE(1, 4)
    TAKE(2, 12)
    TAKE(2, 8)
    TAKE(2, 6)
    TAKE(2, 4)
    TAKE(3, 8)
    TAKE(3, 4)
    TAKE(4, 6)
    TAKE(4, 4)
#undef TAKE
    return 0;
}

// The same of `left` panels of NV vectors; returns how many panels.
static ptrdiff_t R(few_rows_of_panels)(const R(strip) *of, real *C, const real *A, const real *mask,
                                       ptrdiff_t stride, ptrdiff_t o, ptrdiff_t B, ptrdiff_t left, int NV)
{
#define TAKE(m, n, nv)                                                                                    \
    if (B == (m) && left >= (n) && NV == (nv) && (nv) <= FM_PANEL && (m) * ((n) * (nv) + 1) < FM_REGISTERS) { \
        R(few_rows_of)(of, C, A, mask, stride, o, m, (n) * (nv), nv);                                     \
        return n;                                                                                         \
    }
    TAKE(1, 4, 2)
    TAKE(1, 3, 3)
    TAKE(1, 2, 2)
    TAKE(1, 2, 3)
    TAKE(2, 2, 2)
    TAKE(2, 2, 3)
    TAKE(3, 2, 2)
#undef TAKE
    return 0;
}

// An update of the weights of a panel by a small batch: their gradient is A^T D, where A (B, the panel's rows)
// and D, of which the columns `at` count, are in blocks.
typedef struct R(small_update) {
    real *W, *moment1, *moment2; // of the panel's first row
    const real *A, *D;
    ptrdiff_t at[FM_PANEL];
    ptrdiff_t stride;            // from block to block of A
    ptrdiff_t B;
    R(rule) rule;
    int is_plain;                // momentum and nothing else, in place
    ptrdiff_t shift;             // from parameters and moments to where the new ones go
} R(small_update);

// Of M rows from f on, all of a block, of NV vectors.
INLINE void R(update_tile)(const R(small_update) *of, ptrdiff_t f, const int is_plain, const int M,
                           const int NV)
{
    V acc[FM_MOST_ROWS][FM_PANEL];
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[r][j] = vset1(0);
    const real *D = of->D, *const end = D + of->B * FM_BLOCK;
    const ptrdiff_t a = of->A + R(column)(of->stride, f) - D;
    for (; D < end; D += FM_BLOCK)
        R(add_product)(acc, D, a, of->at, M, NV);
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++) {
            const ptrdiff_t to = ((f + r) * NV + j) * FM_LANES;
            if (is_plain)
                R(momentum)(of->W + to, of->moment1 + to, acc[r][j], &of->rule);
            else
                R(update_vector)(of->W + to, of->moment1 + to, of->moment2 + to, of->shift, acc[r][j],
                                 &of->rule, 1);
        }
}

// Of the rows [f, end), tile by tile without a call or an errand in between, of which a sum of few rows has
// hardly any use.
INLINE void R(update_rows)(const R(small_update) *given, ptrdiff_t f, ptrdiff_t end, const int is_plain,
                           const int NV)
{
    enum { M = 4 };
    const R(small_update) of = *given; // no store can change it, so that it stays in registers
    for (; f < end && f % M; f++)
        R(update_tile)(&of, f, is_plain, 1, NV);
    for (; f + M <= end; f += M)
        R(update_tile)(&of, f, is_plain, M, NV);
    for (; f < end; f++)
        R(update_tile)(&of, f, is_plain, 1, NV);
}

#define DEFINE(nv)                                                                             \
    static void R(update_rows_##nv)(const R(small_update) *of, ptrdiff_t f, ptrdiff_t end)     \
    {                                                                                          \
        if (nv <= FM_PANEL && of->is_plain)                                                    \
            R(update_rows)(of, f, end, 1, nv);                                                 \
        else if (nv <= FM_PANEL)                                                               \
            R(update_rows)(of, f, end, 0, nv);                                                 \
    }
DEFINE(1) DEFINE(2) DEFINE(3)
#undef DEFINE
static void (*const R(updates_of_rows)[3])(const R(small_update) *of, ptrdiff_t f, ptrdiff_t end) = {
    R(update_rows_1), R(update_rows_2), R(update_rows_3)};
