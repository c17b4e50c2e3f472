// The register tiles: where the flops are. Written once over a vector type; R(name) carries the
// dtype, FM_ROWS is the tallest tile that the instruction set's registers hold.
//
// Every output is one chain of fused multiply-adds in increasing k, whatever the tile: that is
// what makes the results the same to the bit for any thread count and instruction set.

// C (M, NV vectors) = init + A (M, K) P (K, NV vectors), then relu, or the mask of dA by A > 0.
// A comes in blocks of columns, `stride` apart, with lda between its rows; C and the mask are in one
// block; ldp lies between the rows of P; init is one row; the mask is read only where there is one.
// From `ahead` on, a cache line is asked for in every k.
INLINE void R(row_tile_of)(real *restrict C, const real *restrict A, const real *restrict P,
                           const real *restrict init, const real *restrict mask, const real *ahead,
                           ptrdiff_t lda, ptrdiff_t stride, ptrdiff_t ldp, ptrdiff_t K,
                           int epilogue, const int M, const int NV)
{
    V acc[FM_ROWS][2];
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[r][j] = vload(init + j * FM_LANES);
    for (ptrdiff_t left = K; left > 0; left -= FM_BLOCK, A += stride) {
        const real *four[(FM_ROWS + 3) / 4]; // every fourth row: few registers address all of them
        FM_UNROLL
        for (int r = 0; r < M; r += 4)
            four[r / 4] = A + r * lda;
        const ptrdiff_t n = left < FM_BLOCK ? left : FM_BLOCK;
        for (ptrdiff_t k = 0; k < n; k++, P += ldp, ahead += FM_ALIGN / sizeof(real)) {
            FM_PREFETCH(ahead);
            V p[2];
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                p[j] = vload(P + j * FM_LANES);
            FM_UNROLL
            for (int r = 0; r < M; r++) {
                V a = vset1(four[r / 4][(r % 4) * lda + k]);
                FM_UNROLL
                for (int j = 0; j < NV; j++)
                    acc[r][j] = vfma(a, p[j], acc[r][j]);
            }
        }
    }
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++) {
            V c = acc[r][j];
            if (epilogue == FM_STORE_RELU)
                c = vkeep(c, c);
            else if (epilogue == FM_STORE_MASKED)
                c = vkeep(vload(mask + r * FM_BLOCK + j * FM_LANES), c);
            vstore(C + r * FM_BLOCK + j * FM_LANES, c);
        }
}

// One row: C (N vectors) = init + a (K,) P (K, N vectors), a in blocks like A above. With few outputs
// at a time a single row would wait for its own sums.
INLINE void R(one_row_of)(real *restrict C, const real *restrict a, const real *restrict P,
                          const real *restrict init, ptrdiff_t stride, ptrdiff_t ldp, ptrdiff_t K,
                          const int N)
{
    V acc[FM_ONE_ROW];
    FM_UNROLL
    for (int j = 0; j < N; j++)
        acc[j] = vload(init + j * FM_LANES);
    for (ptrdiff_t left = K; left > 0; left -= FM_BLOCK, a += stride)
        for (ptrdiff_t k = 0; k < (left < FM_BLOCK ? left : FM_BLOCK); k++, P += ldp) {
            V x = vset1(a[k]);
            FM_UNROLL
            for (int j = 0; j < N; j++)
                acc[j] = vfma(x, vload(P + j * FM_LANES), acc[j]);
        }
    FM_UNROLL
    for (int j = 0; j < N; j++)
        vstore(C + j * FM_LANES, acc[j]);
}

// The gradient dW (M, NV vectors) = A^T (M, K) D (K, NV vectors) of M weight rows, where A and D are
// columns of blocks, into errands->dW, once what waits there has been used; with_bias, before it a
// row that is the sum of the rows of D. Meanwhile the errands are run.
INLINE void R(column_tile_of)(R(errands) *errands, const real *restrict A, const real *restrict D,
                              ptrdiff_t K, const int with_bias, const int M, const int NV)
{
    enum { SOON = 8 };
    V acc[FM_ROWS][2], db[2] = {vset1(0), vset1(0)};
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            acc[r][j] = vset1(0);
    // The copies come first, since the sums that wait are the last thing the tile before computed.
    const size_t copies = (size_t)errands->copies;
    const ptrdiff_t soon = R(min)(SOON, R(max)(0, K - errands->updates));
    const ptrdiff_t first = R(max)(errands->copies, soon);
    const size_t updates = (size_t)R(min)(K - first, errands->updates);
    for (ptrdiff_t k = 0; k < K; k++, A += FM_BLOCK, D += FM_BLOCK) {
        if ((size_t)(k - first) < updates)
            R(update)(errands, k - first);
        else if ((size_t)k < copies)
            R(copy)(errands, k);
        V d[2];
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            d[j] = vload(D + j * FM_LANES);
        if (with_bias)
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                db[j] = vadd(db[j], d[j]);
        FM_UNROLL
        for (int r = 0; r < M; r++) {
            V a = vset1(A[r]);
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                acc[r][j] = vfma(a, d[j], acc[r][j]);
        }
    }
    for (ptrdiff_t i = (ptrdiff_t)updates; i < errands->updates; i++)
        R(update)(errands, i);
    real *dW = errands->dW;
    if (with_bias) {
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            vstore(dW + j * FM_LANES, db[j]);
        dW += NV * FM_LANES;
    }
    FM_UNROLL
    for (int r = 0; r < M; r++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            vstore(dW + (r * NV + j) * FM_LANES, acc[r][j]);
}

// The tiles for M and NV known at run time.
#if FM_ROWS == 12
#define FOR_EACH_M(DO, NV) DO(1, NV) DO(2, NV) DO(3, NV) DO(4, NV) DO(5, NV) DO(6, NV) DO(7, NV) \
    DO(8, NV) DO(9, NV) DO(10, NV) DO(11, NV) DO(12, NV)
#elif FM_ROWS == 6
#define FOR_EACH_M(DO, NV) DO(1, NV) DO(2, NV) DO(3, NV) DO(4, NV) DO(5, NV) DO(6, NV)
#else
#define FOR_EACH_M(DO, NV) DO(1, NV) DO(2, NV) DO(3, NV) DO(4, NV)
#endif

static void R(row_tile)(int M, int NV, real *C, const real *A, const real *P, const real *init,
                        const real *mask, const real *ahead, ptrdiff_t stride, ptrdiff_t K,
                        int epilogue)
{
    switch (2 * M + NV - 1) {
#define CASE(m, nv)                                                                          \
    case 2 * m + nv - 1:                                                                     \
        R(row_tile_of)(C, A, P, init, mask, ahead, FM_BLOCK, stride, nv * FM_LANES, K,       \
                       epilogue, m, nv);                                                     \
        break;
        FOR_EACH_M(CASE, 1)
        FOR_EACH_M(CASE, 2)
#undef CASE
    }
}

// For matrices of users: rows lda apart, and P with rows ldp apart.
static void R(row_tile_strided)(int M, int NV, real *C, const real *A, const real *P,
                                const real *init, ptrdiff_t lda, ptrdiff_t stride, ptrdiff_t ldp,
                                ptrdiff_t K, int epilogue)
{
    switch (2 * M + NV - 1) {
#define CASE(m, nv)                                                                          \
    case 2 * m + nv - 1:                                                                     \
        R(row_tile_of)(C, A, P, init, P, P, lda, stride, ldp, K, epilogue, m, nv);           \
        break;
        FOR_EACH_M(CASE, 1)
        FOR_EACH_M(CASE, 2)
#undef CASE
    }
}

static void R(column_tile)(int M, int NV, R(errands) *errands, const real *A, const real *D,
                           ptrdiff_t K, int with_bias)
{
    switch (4 * M + 2 * (NV - 1) + with_bias) {
#define CASE(m, nv)                                                                          \
    case 4 * m + 2 * (nv - 1):                                                               \
        R(column_tile_of)(errands, A, D, K, 0, m, nv);                                       \
        break;                                                                               \
    case 4 * m + 2 * (nv - 1) + 1:                                                           \
        R(column_tile_of)(errands, A, D, K, 1, m, nv);                                       \
        break;
        FOR_EACH_M(CASE, 1)
        FOR_EACH_M(CASE, 2)
#undef CASE
    }
}

#undef FOR_EACH_M
