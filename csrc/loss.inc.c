// Losses on rows of a matrix in blocks of columns, `stride` apart. What of dZ is subnormal becomes 0: all
// products with it would be slow on some CPUs, and sure outputs have much of it.

// dZ = (softmax(z) - onehot(label)) scale, in place, for one row of O logits with room for a
// multiple of 16; up to there dZ becomes 0. Returns exp's sum; *shifted is the label's logit less
// the largest.
static real R(softmax_row)(real *z, ptrdiff_t O, ptrdiff_t stride, int64_t label, real scale,
                           real *shifted)
{
    enum { S = FM_VIRTUAL_LANES / FM_LANES };
    const real logit = z[R(column)(stride, label)];
    real most;
    const real total = R(exp_row)(z, O, stride, &most), factor = scale / total;
    *shifted = logit - most;
    for (ptrdiff_t o = 0; o < O; o += FM_VIRTUAL_LANES)
        FM_UNROLL
        for (int i = 0; i < S; i++) {
            real *at = z + R(column)(stride, o) + i * FM_LANES;
            V at_label = R(before)(vset1(0), o, i * FM_LANES, label, scale);
            at_label = R(before)(at_label, o, i * FM_LANES, label + 1, 0);
            V dZ = vsub(vmul(vload(at), vset1(factor)), at_label);
            vstore(at, R(at_least)(dZ, R(least_normal)));
        }
    return total;
}

// The same for up to FM_LANES rows of at most 16 logits.
static void R(softmax_rows)(real *Z, ptrdiff_t n, ptrdiff_t O, const int64_t *labels,
                            const real *scales, real *totals, real *shifted)
{
    V e[FM_VIRTUAL_LANES], most;
    real at_label[FM_LANES] = {0}, label_numbers[FM_LANES] = {0};
    for (ptrdiff_t r = 0; r < n; r++) {
        at_label[r] = Z[r * FM_BLOCK + labels[r]];
        label_numbers[r] = (real)labels[r];
    }
    const V total = R(exp_rows)(e, Z, n, O, &most), label = vload(label_numbers);
    vstore(shifted, vsub(vload(at_label), most));
    vstore(totals, total);
    const V scale = vload_n(scales, (int)n), factor = vdiv(scale, total);
    for (ptrdiff_t o = 0; o < O; o++) {
        V not_less = vselect_lt(label, vset1((real)o), vset1(0), scale);
        V onehot = vselect_lt(label, vset1((real)(o + 1)), not_less, vset1(0));
        e[o] = R(at_least)(vsub(vmul(e[o], factor), onehot), R(least_normal));
    }
    R(store_rows)(Z, e, n);
}

// y = log(x), exp(x), ... for n numbers, a multiple of the lanes or not. y may be x.
enum { R(MATH_EXP), R(MATH_LOG), R(MATH_TANH), R(MATH_LOGISTIC), R(MATH_NORMAL_CDF) };
static void R(math)(int function, void *y, const void *x, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += FM_LANES) {
        int valid = n - i < FM_LANES ? (int)(n - i) : FM_LANES;
        V a = vload_n((const real *)x + i, valid), density;
        a = function == R(MATH_EXP)        ? R(vexp)(a)
            : function == R(MATH_LOG)      ? R(vlog)(a)
            : function == R(MATH_TANH)     ? R(vtanh)(a)
            : function == R(MATH_LOGISTIC) ? R(vlogistic)(a)
                                           : R(vnormal_cdf)(a, &density);
        vstore_n((real *)y + i, a, valid);
    }
}

// The rows of a batch in chunks: what the losses know of them.
enum { R(CHUNK) = 64 };
typedef struct R(loss_of) {
    int loss;
    real parameter;
    real clip, least, most;      // of probabilities, and what that leaves of a loss: fm_net
    real scale;                  // of dZ
    const real *sample_weight;   // or NULL
    const ptrdiff_t *rows;       // or NULL for those from `first` on
    ptrdiff_t first, O, stride;
} R(loss_of);

INLINE ptrdiff_t R(data_row)(const R(loss_of) *of, ptrdiff_t b)
{
    return of->rows ? of->rows[b] : of->first + b;
}
INLINE real R(weight_of)(const R(loss_of) *of, ptrdiff_t b)
{
    return of->sample_weight ? of->sample_weight[R(data_row)(of, b)] : 1;
}

// Softmax cross-entropy of B rows: Z becomes dZ of the mean over batch rows; losses (B,) are the
// rows' own.
static void R(softmax_cross_entropy)(real *Z, real *losses, const int64_t *y, ptrdiff_t B,
                                     const R(loss_of) *of)
{
    real totals[R(CHUNK)], shifted[R(CHUNK)], scales[R(CHUNK)];
    int64_t labels[R(CHUNK)];
    for (ptrdiff_t start = 0; start < B; start += R(CHUNK)) {
        ptrdiff_t n = R(min)(R(CHUNK), B - start);
        for (ptrdiff_t i = 0; i < n; i++) {
            labels[i] = y[R(data_row)(of, start + i)];
            scales[i] = of->scale * R(weight_of)(of, start + i);
            if ((uint64_t)labels[i] >= (uint64_t)of->O) { // changed since it was checked
                labels[i] = 0;
                scales[i] = (real)NAN;
            }
        }
        for (ptrdiff_t i = 0; of->O > FM_VIRTUAL_LANES && i < n; i++)
            totals[i] = R(softmax_row)(Z + (start + i) * FM_BLOCK, of->O, of->stride, labels[i],
                                       scales[i], &shifted[i]);
        for (ptrdiff_t i = 0; of->O <= FM_VIRTUAL_LANES && i < n; i += FM_LANES)
            R(softmax_rows)(Z + (start + i) * FM_BLOCK, R(min)(FM_LANES, n - i), of->O, labels + i,
                            scales + i, totals + i, shifted + i);
        R(math)(R(MATH_LOG), totals, totals, n);
        for (ptrdiff_t i = 0; i < n; i++) {
            real loss = totals[i] - shifted[i];
            loss = loss < of->least ? of->least : loss > of->most ? of->most : loss; // NaN stays
            loss *= R(weight_of)(of, start + i);
            losses[start + i] = isnan(scales[i]) ? (real)NAN : loss;
        }
    }
}

// The loss of outputs z for targets t, and its derivative.
INLINE V R(loss_of_value)(V z, V t, const R(loss_of) *of, V *derivative)
{
    const V zero = vset1(0), one = vset1(1), parameter = vset1(of->parameter);
    const V error = vsub(z, t);
    V loss, e, u;
    switch (of->loss) {
    case FM_SQUARED_ERROR:
        *derivative = error;
        return vmul(vmul(vset1((real)0.5), error), error);
    case FM_BINARY_CROSS_ENTROPY: // max(z, 0) - t z + log(1 + exp(-|z|))
        e = R(vexp)(vmin(z, vsub(zero, z)));
        u = vdiv(one, vadd(one, e));
        u = vselect_lt(z, zero, vmul(e, u), u);
        *derivative = vsub(u, t);
        if (of->clip > 0) { // as scikit-learn has it, with the probability as it is rounded
            u = vmin(vset1(1 - of->clip), vmax(vset1(of->clip), u));
            loss = vmul(vsub(one, t), R(vlog)(vsub(one, u)));
            return vsub(zero, vfma(t, R(vlog)(u), loss));
        }
        return vadd(vsub(vmax(zero, z), vmul(t, z)), R(vlog1p)(e));
    case FM_POISSON: // exp(z) - t z + t log(t) - t, where 0 log(0) = 0
        e = R(vexp)(z);
        *derivative = vsub(e, t);
        loss = vselect_lt(zero, t, vmul(t, vsub(R(vlog)(t), z)), zero);
        return vadd(loss, *derivative);
    case FM_HUBER: // error^2 / 2, linear beyond the parameter
        u = vmin(parameter, vmax(vsub(zero, parameter), error));
        *derivative = u;
        return vmul(u, vfnma(vset1((real)0.5), u, error));
    case FM_ABSOLUTE_ERROR:
        u = vselect_lt(error, zero, vset1(-1), vselect_lt(zero, error, one, zero));
        break;
    default: // FM_QUANTILE: what is too low counts by the parameter, too high by the rest
        u = vselect_lt(error, zero, vsub(zero, parameter),
                       vselect_lt(zero, error, vsub(one, parameter), zero));
        break;
    }
    *derivative = u;
    return vmul(u, error);
}

// A loss of values for B rows likewise, with targets T (n, O).
static void R(loss_of_values)(real *Z, real *losses, const real *T, ptrdiff_t B,
                              const R(loss_of) *of)
{
    enum { S = FM_VIRTUAL_LANES / FM_LANES };
    const ptrdiff_t O = of->O;
    for (ptrdiff_t i = 0; i < B; i++) {
        real *z = Z + i * FM_BLOCK;
        const real *t = T + R(data_row)(of, i) * O;
        const real weight = R(weight_of)(of, i);
        const V factor = vset1(of->scale * weight);
        V sum[S];
        FM_UNROLL
        for (int s = 0; s < S; s++)
            sum[s] = vset1(0);
        for (ptrdiff_t o = 0; o < O; o += FM_VIRTUAL_LANES)
            FM_UNROLL
            for (int s = 0; s < S; s++) {
                ptrdiff_t at = o + s * FM_LANES, left = O - at;
                int valid = left >= FM_LANES ? FM_LANES : left > 0 ? (int)left : 0;
                real *out = z + R(column)(of->stride, o) + s * FM_LANES;
                V derivative;
                V loss = R(loss_of_value)(vload_n(out, valid), vload_n(t + at, valid), of, &derivative);
                // beyond O, zero
                sum[s] = vadd(R(before)(loss, o, s * FM_LANES, O, 0), sum[s]);
                V dZ = R(at_least)(vmul(derivative, factor), R(least_normal));
                vstore(out, R(before)(dZ, o, s * FM_LANES, O, 0));
            }
        losses[i] = R(tree_sum)(sum) * weight;
    }
}
