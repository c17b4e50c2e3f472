// Losses and activations on rows of a padded matrix: what is not a product.

// The sum of 16 virtual lanes by one fixed tree, the same for any real number of lanes.
INLINE real R(tree_sum)(const real *lanes)
{
    real s[FM_VIRTUAL_LANES / 2];
    for (int i = 0; i < 8; i++)
        s[i] = lanes[i] + lanes[i + 8];
    for (int i = 0; i < 4; i++)
        s[i] += s[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

// dZ = (softmax(z) - onehot(label)) scale, in place, for one row of O logits with room for a
// multiple of 16. Returns exp's sum; *shifted is the label's logit less the largest.
INLINE real R(softmax_row)(real *z, ptrdiff_t O, int64_t label, real scale, real *shifted)
{
    enum { S = FM_VIRTUAL_LANES / FM_LANES };
    ptrdiff_t end = (O + FM_VIRTUAL_LANES - 1) / FM_VIRTUAL_LANES * FM_VIRTUAL_LANES;
    real lanes[FM_VIRTUAL_LANES];
    for (ptrdiff_t o = O; o < end; o++)
        z[o] = (real)-INFINITY; // exp makes it 0, and so dZ

    V top[S], sum[S];
    FM_UNROLL
    for (int i = 0; i < S; i++)
        top[i] = vload(z + i * FM_LANES);
    for (ptrdiff_t o = FM_VIRTUAL_LANES; o < end; o += FM_VIRTUAL_LANES)
        FM_UNROLL
        for (int i = 0; i < S; i++)
            top[i] = vmax(top[i], vload(z + o + i * FM_LANES));
    FM_UNROLL
    for (int i = 0; i < S; i++)
        vstore(lanes + i * FM_LANES, top[i]);
    for (int half = FM_VIRTUAL_LANES / 2; half >= 1; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    V largest = vset1(lanes[0]);
    *shifted = z[label] - lanes[0];

    FM_UNROLL
    for (int i = 0; i < S; i++)
        sum[i] = vset1(0);
    for (ptrdiff_t o = 0; o < end; o += FM_VIRTUAL_LANES)
        FM_UNROLL
        for (int i = 0; i < S; i++) {
            V e = R(vexp)(vsub(vload(z + o + i * FM_LANES), largest));
            vstore(z + o + i * FM_LANES, e);
            sum[i] = vadd(sum[i], e);
        }
    FM_UNROLL
    for (int i = 0; i < S; i++)
        vstore(lanes + i * FM_LANES, sum[i]);
    real total = R(tree_sum)(lanes);

    V factor = vset1(scale / total);
    for (ptrdiff_t o = 0; o < end; o += FM_LANES)
        vstore(z + o, vmul(vload(z + o), factor));
    z[label] -= scale;
    return total;
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
                                     ptrdiff_t O, ptrdiff_t ld, real scale)
{
    enum { CHUNK = 64 };
    real totals[CHUNK], shifted[CHUNK];
    for (ptrdiff_t start = 0; start < B; start += CHUNK) {
        ptrdiff_t n = B - start < CHUNK ? B - start : CHUNK;
        for (ptrdiff_t i = 0; i < n; i++) {
            ptrdiff_t at = start + i;
            int64_t label = y[rows ? rows[at] : first + at];
            totals[i] = R(softmax_row)(Z + at * ld, O, label, scale, &shifted[i]);
        }
        R(math)(R(MATH_LOG), totals, totals, n);
        for (ptrdiff_t i = 0; i < n; i++)
            losses[start + i] = totals[i] - shifted[i];
    }
}

// Squared error of B rows likewise, with targets T (n, O).
static void R(squared_error)(real *Z, real *losses, const real *T, const ptrdiff_t *rows,
                             ptrdiff_t first, ptrdiff_t B, ptrdiff_t O, ptrdiff_t ld, real scale)
{
    enum { S = FM_VIRTUAL_LANES / FM_LANES };
    V factor = vset1(scale), half = vset1((real)0.5);
    for (ptrdiff_t i = 0; i < B; i++) {
        real *z = Z + i * ld, lanes[FM_VIRTUAL_LANES];
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
                V error = vsub(vload_n(z + at, valid), vload_n(t + at, valid));
                sum[s] = vfma(vmul(half, error), error, sum[s]);
                vstore(z + at, vmul(error, factor)); // beyond O, zero
            }
        FM_UNROLL
        for (int s = 0; s < S; s++)
            vstore(lanes + s * FM_LANES, sum[s]);
        losses[i] = R(tree_sum)(lanes);
    }
}

// A = activation(A) for B padded rows
static void R(activation_forward)(real *A, ptrdiff_t B, ptrdiff_t width, ptrdiff_t ld,
                                  int activation)
{
    for (ptrdiff_t i = 0; i < B; i++)
        for (ptrdiff_t o = 0; o < width; o += FM_LANES) {
            real *a = A + i * ld + o;
            vstore(a, activation == FM_TANH ? R(vtanh)(vload(a)) : R(vlogistic)(vload(a)));
        }
}

// dA = dA activation'(from the output A) for B padded rows
static void R(activation_backward)(real *dA, const real *A, ptrdiff_t B, ptrdiff_t width,
                                   ptrdiff_t ld, int activation)
{
    V one = vset1(1);
    for (ptrdiff_t i = 0; i < B; i++)
        for (ptrdiff_t o = 0; o < width; o += FM_LANES) {
            V a = vload(A + i * ld + o), d = vload(dA + i * ld + o);
            V slope = activation == FM_TANH ? vfnma(a, a, one) : vmul(a, vsub(one, a));
            vstore(dA + i * ld + o, vmul(d, slope));
        }
}
