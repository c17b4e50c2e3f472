// Softmax of rows of a matrix in blocks of columns, `stride` apart, with room for a multiple of 16 columns.

// The sum of 16 virtual lanes, in as many vectors as it takes, by one fixed tree: lane i and lane
// i + 8, then i + 4, i + 2, i + 1. Overwrites the vectors.
INLINE real R(tree_sum)(V *s)
{
    FM_UNROLL
    for (int half = FM_VIRTUAL_LANES / FM_LANES / 2; half >= 1; half /= 2)
        FM_UNROLL
        for (int i = 0; i < half; i++)
            s[i] = vadd(s[i], s[i + half]);
    return vsum(s[0]);
}

static const real R(lane_numbers)[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// x in the columns before O, `other` beyond; x begins with column o
INLINE V R(before)(V x, ptrdiff_t o, ptrdiff_t lane, ptrdiff_t O, real other)
{
    V column = vadd(vload(R(lane_numbers) + lane), vset1((real)o));
    return vselect_lt(column, vset1((real)O), x, vset1(other));
}

// z = exp(z - most), where most is the largest of one row of O logits; up to a multiple of 16 columns it
// becomes 0. Returns their sum.
INLINE real R(exp_row)(real *z, ptrdiff_t O, ptrdiff_t stride, real *most)
{
    enum { S = FM_VIRTUAL_LANES / FM_LANES };
    const real low = (real)-INFINITY;
    V top[S], sum[S];
    FM_UNROLL
    for (int i = 0; i < S; i++) {
        top[i] = vset1(low);
        sum[i] = vset1(0);
    }
    for (ptrdiff_t o = 0; o < O; o += FM_VIRTUAL_LANES)
        FM_UNROLL
        for (int i = 0; i < S; i++)
            top[i] = vmax(R(before)(vload(z + R(column)(stride, o) + i * FM_LANES), o,
                                    i * FM_LANES, O, low),
                          top[i]);
    FM_UNROLL
    for (int i = 1; i < S; i++)
        top[0] = vmax(top[0], top[i]);
    *most = vlargest(top[0]);
    const V largest = vset1(*most);

    for (ptrdiff_t o = 0; o < O; o += FM_VIRTUAL_LANES)
        FM_UNROLL
        for (int i = 0; i < S; i++) {
            real *at = z + R(column)(stride, o) + i * FM_LANES;
            // exp(0) where there is no logit, not exp(-inf), which some CPUs are slow to find
            V x = R(vexp)(vsub(R(before)(vload(at), o, i * FM_LANES, O, *most), largest));
            x = R(before)(x, o, i * FM_LANES, O, 0);
            vstore(at, x);
            sum[i] = vadd(sum[i], x);
        }
    return R(tree_sum)(sum);
}

// The same for up to FM_LANES rows of at most 16 logits: transposed, a vector holds one class of
// all rows, and what is a tree over lanes above is one over vectors.
INLINE V R(exp_rows)(V e[FM_VIRTUAL_LANES], const real *Z, ptrdiff_t n, ptrdiff_t O, V *most)
{
    V sum[FM_VIRTUAL_LANES];
    for (int c = 0; c < FM_VIRTUAL_LANES; c += FM_LANES) {
        for (ptrdiff_t r = 0; r < FM_LANES; r++)
            e[c + r] = vload(Z + (r < n ? r : n - 1) * FM_BLOCK + c);
        vtranspose(e + c);
    }
    *most = e[0];
    for (ptrdiff_t o = 1; o < O; o++)
        *most = vmax(e[o], *most);
    for (ptrdiff_t o = 0; o < FM_VIRTUAL_LANES; o++)
        sum[o] = e[o] = o < O ? R(vexp)(vsub(e[o], *most)) : vset1(0);
    FM_UNROLL
    for (int half = FM_VIRTUAL_LANES / 2; half >= 1; half /= 2)
        FM_UNROLL
        for (int i = 0; i < half; i++)
            sum[i] = vadd(sum[i], sum[i + half]);
    return sum[0];
}
// Back to rows.
INLINE void R(store_rows)(real *Z, V e[FM_VIRTUAL_LANES], ptrdiff_t n)
{
    for (int c = 0; c < FM_VIRTUAL_LANES; c += FM_LANES) {
        vtranspose(e + c);
        for (ptrdiff_t r = 0; r < n; r++)
            vstore(Z + r * FM_BLOCK + c, e[c + r]);
    }
}

// Z = softmax(Z) for B rows of O logits.
static void R(softmax)(real *Z, ptrdiff_t B, ptrdiff_t O, ptrdiff_t stride)
{
    V e[FM_VIRTUAL_LANES], largest;
    real most;
    if (B == 1 || O > FM_VIRTUAL_LANES) {
        for (real *z = Z; z < Z + B * FM_BLOCK; z += FM_BLOCK) {
            const V total = vset1(R(exp_row)(z, O, stride, &most));
            for (ptrdiff_t o = 0; o < O; o += FM_LANES)
                vstore(z + R(column)(stride, o), vdiv(vload(z + R(column)(stride, o)), total));
        }
        return;
    }
    for (ptrdiff_t i = 0; i < B; i += FM_LANES) {
        const ptrdiff_t n = R(min)(FM_LANES, B - i);
        const V total = R(exp_rows)(e, Z + i * FM_BLOCK, n, O, &largest);
        for (ptrdiff_t o = 0; o < O; o++)
            e[o] = vdiv(e[o], total);
        R(store_rows)(Z + i * FM_BLOCK, e, n);
    }
}
