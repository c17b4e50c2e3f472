// The register tiles: where the flops are. Written once over a vector type; R(name) carries the
// dtype, FM_PANEL is the widest tile in vectors, FM_ROWS(NV) the tallest of NV vectors that the
// instruction set's registers hold.
//
// Every output is one chain of fused multiply-adds in increasing k, whatever the tile: that is
// what makes the results the same to the bit for any thread count and instruction set.

// acc (NV vectors) += *a p.
INLINE void R(add_multiple)(V *acc, const real *a, const V *p, const int NV)
{
    const V number = vset1(*a);
    FM_UNROLL
    for (int j = 0; j < NV; j++)
        acc[j] = vfma_in_place(number, p[j], acc[j]);
}

// A result as it is stored: relu of it, or where the mask is positive, which is read only where there is one.
INLINE V R(finished)(V c, const real *mask, int epilogue)
{
    if (epilogue == FM_STORE_RELU)
        return vkeep(c, c);
    return epilogue == FM_STORE_MASKED ? vkeep(vload(mask), c) : c;
}

// What the row tiles of a panel have in common.
typedef struct R(strip) {
    const real *P;               // (K, NV vectors), ldp between its rows
    const real *init;            // one row, or NULL for what C has
    ptrdiff_t at[FM_PANEL];      // the columns of C and of the mask
    ptrdiff_t stride;            // from block to block of A
    ptrdiff_t lda, ldp;
    ptrdiff_t panel, init_panel; // from panel to panel of P and of init
    ptrdiff_t K;
    int epilogue;
    int is_far;                  // whether rows of P are to be asked for before their turn
} R(strip);

// acc (M, NV vectors) += the number k of every row of A times p, the row of P at *P, which is left at the
// next.
INLINE void R(add_row)(V acc[FM_MOST_ROWS][FM_PANEL], const real *const *four, ptrdiff_t lda,
                       ptrdiff_t k, const real **P, ptrdiff_t ldp, const int M, const int NV)
{
    V p[FM_PANEL];
    FM_UNROLL
    for (int j = 0; j < NV; j++)
        p[j] = vload(*P + j * FM_LANES);
    *P += ldp;
    FM_UNROLL
    for (int r = 0; r < M; r++)
        R(add_multiple)(acc[r], four[r / 4] + (r % 4) * lda + k, p, NV);
}

INLINE R(parts) R(stretches_of_blocks)(ptrdiff_t K)
{
    return R(parts_of)((K + FM_BLOCK - 1) / FM_BLOCK, R(SUMMED) / FM_BLOCK);
}
// A column tile sums over a stretch of so many rows of a panel, which take half of it; or over fewer than
// LONG at once.
enum { R(STRETCH) = FM_CACHE_1 / 2 / (WIDTH * (int)sizeof(real)), R(LONG) = 4 * R(STRETCH) };

// C (M, NV vectors) = init + A (M, K) P (K, NV vectors), then relu, or the mask of dA by A > 0. A comes in
// blocks of columns; the mask, which is read only where there is one, is in C's place of another matrix.
// Meanwhile it asks for what comes next: every second k for a line of the next block of A; in every block for
// as many of `ahead`, or none where that is NULL, and for a row of the place of the next results, `next` after
// C, and of the mask. P of users, which is_flat, has rows far apart: where these come from beyond the
// second-level cache, it asks for them.
INLINE void R(row_tile_of)(const R(strip) *of, real *restrict C, const real *restrict A,
                           const real *restrict mask, const real *ahead, ptrdiff_t next,
                           const ptrdiff_t lda, const ptrdiff_t ldp, const int is_flat, const int M,
                           const int NV)
{
    enum { LINE = FM_ALIGN / sizeof(real) };
    const ptrdiff_t soon = (256 / (M * NV) + 2) * ldp; // some 250 cycles
    const int asks_for_P = is_flat && of->is_far;
    const real *P = of->P;
    const ptrdiff_t *at = of->at, asks = of->K > 4 * FM_BLOCK ? M : 0; // else all that is near
    V acc[FM_MOST_ROWS][FM_PANEL];
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[r][j] = vload(of->init ? of->init + j * FM_LANES : C + at[j] + r * FM_BLOCK);
    for (ptrdiff_t left = of->K, row = 0; left > 0; left -= FM_BLOCK, A += of->stride, row++) {
        const real *four[(FM_MOST_ROWS + 3) / 4]; // every fourth row: few registers address them all
        FM_UNROLL
        for (int r = 0; r < M; r += 4)
            four[r / 4] = A + r * lda;
        for (int j = 0; row < asks && j < NV; j++) {
            FM_PREFETCH_TO_WRITE(C + next + at[j] + row * FM_BLOCK);
            if (of->epilogue == FM_STORE_MASKED)
                FM_PREFETCH(mask + at[j] + row * FM_BLOCK);
        }
        const ptrdiff_t n = left < FM_BLOCK ? left : FM_BLOCK;
        const real *next_A = left > FM_BLOCK ? A + of->stride : A;
        if (!is_flat && ahead) {
            FM_UNROLL
            for (int j = 0; j < FM_BLOCK / 2; j++, ahead += LINE)
                FM_PREFETCH(ahead);
        }
        ptrdiff_t k = 0;
        for (; k + 1 < n; k += 2, next_A += LINE) {
            for (int j = 0; asks_for_P && j < NV * FM_LANES; j += LINE) {
                FM_PREFETCH(P + soon + j);
                FM_PREFETCH(P + soon + ldp + j);
            }
            R(add_row)(acc, four, lda, k, &P, ldp, M, NV);
            FM_PREFETCH(next_A);
            R(add_row)(acc, four, lda, k + 1, &P, ldp, M, NV);
        }
        if (k < n)
            R(add_row)(acc, four, lda, k, &P, ldp, M, NV);
    }
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++) {
            const ptrdiff_t to = at[j] + r * FM_BLOCK;
            vstore(C + to, R(finished)(acc[r][j], mask + to, of->epilogue));
        }
}

// acc (M, NV vectors) += a^T d, where d is a row of D, columns `at`, and a lies at D + a.
INLINE void R(add_product)(V acc[FM_MOST_ROWS][FM_PANEL], const real *D, ptrdiff_t a,
                           const ptrdiff_t at[FM_PANEL], const int M, const int NV)
{
    V d[FM_PANEL];
    FM_UNROLL
    for (int j = 0; j < NV; j++)
        d[j] = vload(D + at[j]);
    FM_UNROLL
    for (int r = 0; r < M; r++)
        R(add_multiple)(acc[r], D + a + r, d, NV);
}

// The same for K rows of D from *D on, which is left behind them, and beside each of the first ones an
// update of what waits; of the first `pairs` beside two rows, since it is better not to have one in each.
INLINE void R(add_with_updates)(V acc[FM_MOST_ROWS][FM_PANEL], const real **D, ptrdiff_t a,
                                const ptrdiff_t at[FM_PANEL], const R(errands) *errands,
                                const R(waiting) *of, ptrdiff_t updates, ptrdiff_t pairs,
                                const int is_plain, const int M, const int NV)
{
    for (ptrdiff_t i = 0; i < updates; i++, *D += FM_BLOCK) {
        R(update)(errands, of, i, is_plain);
        R(add_product)(acc, *D, a, at, M, NV);
        if (i < pairs) {
            *D += FM_BLOCK;
            R(add_product)(acc, *D, a, at, M, NV);
        }
    }
}

// sums (M, NV vectors) += A^T (M, K) D (K, NV vectors), where A is columns of a block and D the columns `at`
// of its rows. Meanwhile it asks for A some rows ahead, and beside every second row for what lies `ask` behind
// a row of D.
INLINE void R(stretch_tile_of)(real *restrict sums, const real *A, const real *D,
                               const ptrdiff_t at[FM_PANEL], ptrdiff_t K, ptrdiff_t ask, const int M,
                               const int NV)
{
    enum { AHEAD = 8 * FM_BLOCK };
    V acc[FM_MOST_ROWS][FM_PANEL];
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[r][j] = vload(sums + (r * NV + j) * FM_LANES);
    const ptrdiff_t a = A - D; // both in the workspace: one pointer for the two of them
    const real *const end = D + K * FM_BLOCK;
    for (; D + FM_BLOCK < end; D += FM_BLOCK) {
        FM_PREFETCH(D + a + AHEAD);
        R(add_product)(acc, D, a, at, M, NV);
        D += FM_BLOCK;
        FM_PREFETCH(D + a + AHEAD);
        FM_PREFETCH(D + ask);
        R(add_product)(acc, D, a, at, M, NV);
    }
    if (D < end)
        R(add_product)(acc, D, a, at, M, NV);
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            vstore(sums + (r * NV + j) * FM_LANES, acc[r][j]);
}

// The gradient dW (M, NV vectors) = errands->so_far + A^T D, likewise, of M weight rows, into errands->dW,
// once what waits there has been used. Meanwhile the errands are run: the copies first, since the sums that
// wait are the last thing the tile before computed.
INLINE void R(column_tile_of)(R(errands) *errands, const real *A, const real *D,
                              const ptrdiff_t at[FM_PANEL], ptrdiff_t K, const int M, const int NV)
{
    enum { SOON = 8 };
    V acc[FM_MOST_ROWS][FM_PANEL];
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[r][j] = vset1(0);
    if (errands->so_far)
        FM_UNROLL
        for (int r = 0; r < M; r++)
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                acc[r][j] = vload(errands->so_far + (r * NV + j) * FM_LANES);
    // what the loops go by is copied, so that no store can change it and it stays in registers
    const R(waiting) waiting = errands->waiting;
    const R(copying) copying = errands->copying;
    ptrdiff_t columns[FM_PANEL];
    for (int j = 0; j < FM_PANEL; j++)
        columns[j] = at[j];
    const ptrdiff_t a = A - D;
    const real *const end = D + K * FM_BLOCK;
    const ptrdiff_t soon = R(min)(SOON, R(max)(0, K - errands->updates));
    const ptrdiff_t copies = errands->copies, first = R(max)(copies, soon);
    const ptrdiff_t updates = R(min)(K - first, errands->updates), pairs = K - first - updates;
    for (ptrdiff_t i = 0; i < first; i++, D += FM_BLOCK) {
        if (i < copies)
            R(copy)(&copying, i);
        R(add_product)(acc, D, a, columns, M, NV);
    }
    if (errands->is_plain)
        R(add_with_updates)(acc, &D, a, columns, errands, &waiting, updates, pairs, 1, M, NV);
    else
        R(add_with_updates)(acc, &D, a, columns, errands, &waiting, updates, pairs, 0, M, NV);
    FM_UNROLL_TWICE
    for (; D < end; D += FM_BLOCK)
        R(add_product)(acc, D, a, columns, M, NV);
    R(update_all)(errands, &waiting, updates);
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            vstore(errands->dW + (r * NV + j) * FM_LANES, acc[r][j]);
}

// db = the sum of the columns `at` of K rows of D.
static void R(column_sum)(real db[WIDTH], const real *D, const ptrdiff_t at[FM_PANEL], ptrdiff_t K)
{
    V sum[FM_PANEL];
    FM_UNROLL
    for (int j = 0; j < FM_PANEL; j++)
        sum[j] = vset1(0);
    for (ptrdiff_t k = 0; k < K; k++, D += FM_BLOCK)
        FM_UNROLL
        for (int j = 0; j < FM_PANEL; j++)
            sum[j] = vadd(sum[j], vload(D + at[j]));
    FM_UNROLL
    for (int j = 0; j < FM_PANEL; j++)
        vstore(db + j * FM_LANES, sum[j]);
}

// The tiles for M and NV known at run time, each in a function of its own: that is how compilers
// share out the registers best.
#define FOR_EACH_M(DO, NV)                                                                     \
    DO(1, NV) DO(2, NV) DO(3, NV) DO(4, NV) DO(5, NV) DO(6, NV) DO(7, NV) DO(8, NV) DO(9, NV)  \
    DO(10, NV) DO(11, NV) DO(12, NV) DO(13, NV) DO(14, NV) DO(15, NV) DO(16, NV)
#define FOR_EACH_TILE(DO) FOR_EACH_M(DO, 1) FOR_EACH_M(DO, 2) FOR_EACH_M(DO, 3)
#define EXISTS(M, NV) ((NV) <= FM_PANEL && (M) <= FM_ROWS(NV))

#define DEFINE(m, nv)                                                                          \
    static void R(row_tile_##m##_##nv)(const R(strip) *of, real *C, const real *A,             \
                                       const real *mask, const real *ahead, ptrdiff_t next)     \
    {                                                                                          \
        if (EXISTS(m, nv))                                                                     \
            R(row_tile_of)(of, C, A, mask, ahead, next, FM_BLOCK, (nv) * FM_LANES, 0, m, nv);  \
    }                                                                                          \
    static void R(strided_row_tile_##m##_##nv)(const R(strip) *of, real *C, const real *A)     \
    {                                                                                          \
        if (EXISTS(m, nv))                                                                     \
            R(row_tile_of)(of, C, A, A, A, 0, of->lda, of->ldp, 1, m, nv);                     \
    }                                                                                          \
    static void R(column_tile_##m##_##nv)(R(errands) *errands, const real *A, const real *D,   \
                                          const ptrdiff_t *at, ptrdiff_t K)                    \
    {                                                                                          \
        if (EXISTS(m, nv))                                                                     \
            R(column_tile_of)(errands, A, D, at, K, m, nv);                                    \
    }                                                                                          \
    static void R(stretch_tile_##m##_##nv)(real *sums, const real *A, const real *D,           \
                                           const ptrdiff_t *at, ptrdiff_t K, ptrdiff_t ask)    \
    {                                                                                          \
        if (EXISTS(m, nv))                                                                     \
            R(stretch_tile_of)(sums, A, D, at, K, ask, m, nv);                                 \
    }
FOR_EACH_TILE(DEFINE)
#undef DEFINE

// By NV and M: C = init + A P, as row_tile_of has it, of a panel in blocks;
#define NAME(m, nv) R(row_tile_##m##_##nv),
static void (*const R(row_tiles)[3][16])(const R(strip) *of, real *C, const real *A,
                                         const real *mask, const real *ahead,
                                         ptrdiff_t next) = {
    {FOR_EACH_M(NAME, 1)}, {FOR_EACH_M(NAME, 2)}, {FOR_EACH_M(NAME, 3)}};
#undef NAME
// of matrices of users, with rows lda apart and P with rows ldp apart;
#define NAME(m, nv) R(strided_row_tile_##m##_##nv),
static void (*const R(strided_row_tiles)[3][16])(const R(strip) *of, real *C, const real *A) = {
    {FOR_EACH_M(NAME, 1)}, {FOR_EACH_M(NAME, 2)}, {FOR_EACH_M(NAME, 3)}};
#undef NAME
// dW = so_far + A^T D, as column_tile_of has it;
#define NAME(m, nv) R(column_tile_##m##_##nv),
static void (*const R(column_tiles)[3][16])(R(errands) *errands, const real *A, const real *D,
                                            const ptrdiff_t *at, ptrdiff_t K) = {
    {FOR_EACH_M(NAME, 1)}, {FOR_EACH_M(NAME, 2)}, {FOR_EACH_M(NAME, 3)}};
#undef NAME
// and sums += A^T D, as stretch_tile_of has it.
#define NAME(m, nv) R(stretch_tile_##m##_##nv),
static void (*const R(stretch_tiles)[3][16])(real *sums, const real *A, const real *D,
                                             const ptrdiff_t *at, ptrdiff_t K, ptrdiff_t ask) = {
    {FOR_EACH_M(NAME, 1)}, {FOR_EACH_M(NAME, 2)}, {FOR_EACH_M(NAME, 3)}};
#undef NAME


#undef FOR_EACH_M
#undef FOR_EACH_TILE
#undef EXISTS
