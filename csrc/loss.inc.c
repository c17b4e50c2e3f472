// Losses and activations on rows of a matrix in blocks, `stride` apart: what is not a product.

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

// dZ = (softmax(z) - onehot(label)) scale, in place, for one row of O logits with room for a
// multiple of 16; up to there dZ becomes 0. Returns exp's sum; *shifted is the label's logit less
// the largest.
static real R(softmax_row)(real *z, ptrdiff_t O, ptrdiff_t stride, int64_t label, real scale,
                           real *shifted)
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
    const real most = vlargest(top[0]);
    const V largest = vset1(most);
    *shifted = z[R(column)(stride, label)] - most;

    for (ptrdiff_t o = 0; o < O; o += FM_VIRTUAL_LANES)
        FM_UNROLL
        for (int i = 0; i < S; i++) {
            real *at = z + R(column)(stride, o) + i * FM_LANES;
            // exp(0) where there is no logit, not exp(-inf), which some CPUs are slow to find
            V x = R(vexp)(vsub(R(before)(vload(at), o, i * FM_LANES, O, most), largest));
            x = R(before)(x, o, i * FM_LANES, O, 0);
            vstore(at, x);
            sum[i] = vadd(sum[i], x);
        }
    const real total = R(tree_sum)(sum), factor = scale / total;

    for (ptrdiff_t o = 0; o < O; o += FM_VIRTUAL_LANES)
        FM_UNROLL
        for (int i = 0; i < S; i++) {
            real *at = z + R(column)(stride, o) + i * FM_LANES;
            V at_label = R(before)(vset1(0), o, i * FM_LANES, label, scale);
            at_label = R(before)(at_label, o, i * FM_LANES, label + 1, 0);
            vstore(at, vsub(vmul(vload(at), vset1(factor)), at_label));
        }
    return total;
}

// The same for up to FM_LANES rows of at most 16 logits: transposed, a vector holds one class of
// all rows, and what is a tree over lanes above is one over vectors.
static void R(softmax_rows)(real *Z, ptrdiff_t n, ptrdiff_t O, const int64_t *labels, real scale,
                            real *totals, real *shifted)
{
    V e[FM_VIRTUAL_LANES], sum[FM_VIRTUAL_LANES];
    real at_label[FM_LANES] = {0}, label_numbers[FM_LANES] = {0};
    for (ptrdiff_t r = 0; r < n; r++) {
        at_label[r] = Z[r * FM_BLOCK + labels[r]];
        label_numbers[r] = (real)labels[r];
    }
    for (int c = 0; c < FM_VIRTUAL_LANES; c += FM_LANES) {
        for (ptrdiff_t r = 0; r < FM_LANES; r++)
            e[c + r] = vload(Z + (r < n ? r : n - 1) * FM_BLOCK + c);
        vtranspose(e + c);
    }
    V most = e[0], label = vload(label_numbers);
    for (ptrdiff_t o = 1; o < O; o++)
        most = vmax(e[o], most);
    vstore(shifted, vsub(vload(at_label), most));
    for (ptrdiff_t o = 0; o < FM_VIRTUAL_LANES; o++)
        sum[o] = e[o] = o < O ? R(vexp)(vsub(e[o], most)) : vset1(0);
    FM_UNROLL
    for (int half = FM_VIRTUAL_LANES / 2; half >= 1; half /= 2)
        FM_UNROLL
        for (int i = 0; i < half; i++)
            sum[i] = vadd(sum[i], sum[i + half]);
    vstore(totals, sum[0]);
    V factor = vdiv(vset1(scale), sum[0]);
    for (ptrdiff_t o = 0; o < O; o++) {
        V not_less = vselect_lt(label, vset1((real)o), vset1(0), vset1(scale));
        V onehot = vselect_lt(label, vset1((real)(o + 1)), not_less, vset1(0));
        e[o] = vsub(vmul(e[o], factor), onehot);
    }
    for (int c = 0; c < FM_VIRTUAL_LANES; c += FM_LANES) {
        vtranspose(e + c);
        for (ptrdiff_t r = 0; r < n; r++)
            vstore(Z + r * FM_BLOCK + c, e[c + r]);
    }
}

// y = log(x), exp(x), ... for n numbers, a multiple of the lanes or not. y may be x.
enum { R(MATH_EXP), R(MATH_LOG), R(MATH_TANH), R(MATH_LOGISTIC) };
static void R(math)(int function, void *y, const void *x, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += FM_LANES) {
        int valid = n - i < FM_LANES ? (int)(n - i) : FM_LANES;
        V a = vload_n((const real *)x + i, valid);
        a = function == R(MATH_EXP)    ? R(vexp)(a)
            : function == R(MATH_LOG)  ? R(vlog)(a)
            : function == R(MATH_TANH) ? R(vtanh)(a)
                                       : R(vlogistic)(a);
        vstore_n((real *)y + i, a, valid);
    }
}

// Softmax cross-entropy of B rows: Z becomes dZ of the mean over batch rows; losses (B,) are the
// rows' own.
static void R(softmax_cross_entropy)(real *Z, real *losses, const int64_t *y,
                                     const ptrdiff_t *rows, ptrdiff_t first, ptrdiff_t B,
                                     ptrdiff_t O, ptrdiff_t stride, real scale)
{
    enum { CHUNK = 64 };
    real totals[CHUNK], shifted[CHUNK];
    int64_t labels[CHUNK];
    for (ptrdiff_t start = 0; start < B; start += CHUNK) {
        ptrdiff_t n = R(min)(CHUNK, B - start);
        for (ptrdiff_t i = 0; i < n; i++)
            labels[i] = y[rows ? rows[start + i] : first + start + i];
        for (ptrdiff_t i = 0; O > FM_VIRTUAL_LANES && i < n; i++)
            totals[i] = R(softmax_row)(Z + (start + i) * FM_BLOCK, O, stride, labels[i], scale,
                                       &shifted[i]);
        for (ptrdiff_t i = 0; O <= FM_VIRTUAL_LANES && i < n; i += FM_LANES)
            R(softmax_rows)(Z + (start + i) * FM_BLOCK, R(min)(FM_LANES, n - i), O, labels + i,
                            scale, totals + i, shifted + i);
        R(math)(R(MATH_LOG), totals, totals, n);
        for (ptrdiff_t i = 0; i < n; i++)
            losses[start + i] = totals[i] - shifted[i];
    }
}

// Squared error of B rows likewise, with targets T (n, O).
static void R(squared_error)(real *Z, real *losses, const real *T, const ptrdiff_t *rows,
                             ptrdiff_t first, ptrdiff_t B, ptrdiff_t O, ptrdiff_t stride, real scale)
{
    enum { S = FM_VIRTUAL_LANES / FM_LANES };
    V factor = vset1(scale), half = vset1((real)0.5);
    for (ptrdiff_t i = 0; i < B; i++) {
        real *z = Z + i * FM_BLOCK;
        const real *t = T + (rows ? rows[i] : first + i) * O;
        V sum[S];
        FM_UNROLL
        for (int s = 0; s < S; s++)
            sum[s] = vset1(0);
        for (ptrdiff_t o = 0; o < O; o += FM_VIRTUAL_LANES)
            FM_UNROLL
            for (int s = 0; s < S; s++) {
                ptrdiff_t at = o + s * FM_LANES, left = O - at;
                int valid = left >= FM_LANES ? FM_LANES : left > 0 ? (int)left : 0;
                real *out = z + R(column)(stride, o) + s * FM_LANES;
                V error = vsub(vload_n(out, valid), vload_n(t + at, valid));
                sum[s] = vfma(vmul(half, error), error, sum[s]);
                vstore(out, vmul(error, factor)); // beyond O, zero
            }
        losses[i] = R(tree_sum)(sum);
    }
}

// A = activation(A) for B rows of n columns and what pads them
static void R(activation_forward)(real *A, ptrdiff_t B, ptrdiff_t n, ptrdiff_t stride,
                                  int activation)
{
    for (ptrdiff_t o = 0; o < n; o += FM_BLOCK, A += stride)
        for (ptrdiff_t i = 0; i < B * FM_BLOCK; i += FM_LANES) {
            V a = vload(A + i);
            vstore(A + i, activation == FM_TANH ? R(vtanh)(a) : R(vlogistic)(a));
        }
}

// dA = dA activation'(from the output A) for B rows of n columns and what pads them
static void R(activation_backward)(real *dA, const real *A, ptrdiff_t B, ptrdiff_t n,
                                   ptrdiff_t stride, int activation)
{
    V one = vset1(1);
    for (ptrdiff_t o = 0; o < n; o += FM_BLOCK, A += stride, dA += stride)
        for (ptrdiff_t i = 0; i < B * FM_BLOCK; i += FM_LANES) {
            V a = vload(A + i);
            V slope = activation == FM_TANH ? vfnma(a, a, one) : vmul(a, vsub(one, a));
            vstore(dA + i, vmul(vload(dA + i), slope));
        }
}
