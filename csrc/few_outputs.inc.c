// Forward through a layer of few outputs. The tiles compute a vector of outputs for every row, most of which
// would be padding; here a vector is one output of as many rows, for which the rows are transposed in
// registers. It is the same chain of multiply-adds.

// Transposing n x n numbers takes n log2(n) instructions, and then O n multiply-adds do instead of n n: for up
// to so many outputs that is less, by an eighth at least; with shorter vectors for hardly any.
enum { R(FEW) = FM_LANES == 16 ? 10 : FM_LANES == 8 ? 4 : 0 };

// Z = bias + A W, then perhaps relu, for as many rows of A (K columns, in blocks) as a vector has lanes, and O
// outputs. P (1 + K, one vector) is the panel of bias and W.
INLINE void R(few_outputs_of)(real *restrict Z, const real *restrict A, const real *restrict P,
                              ptrdiff_t stride, ptrdiff_t K, int epilogue, const int O)
{
    V acc[R(FEW) + 1], rows[FM_LANES];
    FM_UNROLL
    for (int o = 0; o < O; o++)
        acc[o] = vset1(P[o]);
    for (ptrdiff_t k = 0; k < K; k += FM_LANES) {
        const real *block = A + R(column)(stride, k);
        const real *p = P + (1 + k) * FM_LANES;
        FM_UNROLL
        for (int r = 0; r < FM_LANES; r++)
            rows[r] = vload(block + r * FM_BLOCK);
        vtranspose(rows);
        if (K - k >= FM_LANES) {
            FM_UNROLL
            for (int j = 0; j < FM_LANES; j++)
                FM_UNROLL
                for (int o = 0; o < O; o++)
                    acc[o] = vfma_in_place(vset1(p[j * FM_LANES + o]), rows[j], acc[o]);
        } else {
            for (int j = 0; j < K - k; j++)
                FM_UNROLL
                for (int o = 0; o < O; o++)
                    acc[o] = vfma_in_place(vset1(p[j * FM_LANES + o]), rows[j], acc[o]);
        }
    }
    FM_UNROLL
    for (int r = 0; r < FM_LANES; r++)
        rows[r] = r >= O ? vset1(0) : epilogue == FM_STORE_RELU ? vkeep(acc[r], acc[r]) : acc[r];
    vtranspose(rows);
    FM_UNROLL
    for (int r = 0; r < FM_LANES; r++)
        vstore(Z + r * FM_BLOCK, rows[r]);
}

// The same for B rows, at least as many as a vector has lanes. The last vector of rows may have some of the
// one before once more.
static void R(few_outputs)(real *Z, const real *A, const real *P, ptrdiff_t stride, ptrdiff_t B, ptrdiff_t K,
                           ptrdiff_t O, int epilogue)
{
    for (ptrdiff_t i = 0; i < B; i += FM_LANES) {
        const ptrdiff_t b = R(min)(i, B - FM_LANES) * FM_BLOCK;
        switch (O) {
#define CASE(n)                                                                                \
    case n:                                                                                    \
        if (n <= R(FEW))                                                                       \
            R(few_outputs_of)(Z + b, A + b, P, stride, K, epilogue, n <= R(FEW) ? n : 0);      \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10)
#undef CASE
        }
    }
}
