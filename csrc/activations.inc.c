// What hidden layers do with their outputs beside relu, which the tiles do by themselves: on rows in
// blocks of columns, `stride` apart.

// A = activation(z) and its slope dA/dz
INLINE V R(activate)(V z, int activation, V *slope)
{
    const V zero = vset1(0), one = vset1(1);
    V a = z, p;
    *slope = one;
    switch (activation) {
    case FM_RELU:
        a = vkeep(z, z);
        *slope = vselect_lt(zero, z, one, zero);
        break;
    case FM_LEAKY_RELU:
        *slope = vselect_lt(zero, z, one, vset1((real)FM_LEAK));
        a = vmul(z, *slope);
        break;
    case FM_TANH:
        a = R(vtanh)(z);
        *slope = vfnma(a, a, one);
        break;
    case FM_LOGISTIC:
        a = R(vlogistic)(z);
        *slope = vmul(a, vsub(one, a));
        break;
    case FM_SILU: // z s(z) with s = logistic; s + z s (1 - s)
        p = R(vlogistic)(z);
        a = vmul(z, p);
        *slope = vfma(a, vsub(one, p), p);
        break;
    case FM_GELU: { // z times the share of the normal distribution below z
        V e;
        p = R(vnormal_cdf)(z, &e);
        a = vmul(z, p);
        *slope = vfma(vmul(z, vset1((real)0.39894228040143267794)), e, p);
        break;
    }
    default:
        break;
    }
    return a;
}

// A = activation(A) for B rows of n columns and what pads them; their slopes too, where there is room.
// Written out for each activation, so that the choice is made once.
static void R(activation_forward)(real *A, real *slopes, ptrdiff_t B, ptrdiff_t n, ptrdiff_t stride,
                                  int activation)
{
    for (ptrdiff_t o = 0; o < n; o += FM_BLOCK, A += stride, slopes += slopes ? stride : 0)
        switch (activation) {
#define CASE(name)                                                                            \
    case name:                                                                                \
        for (ptrdiff_t i = 0; i < B * FM_BLOCK; i += FM_LANES) {                              \
            V slope;                                                                          \
            vstore(A + i, R(activate)(vload(A + i), name, &slope));                           \
            if (slopes)                                                                       \
                vstore(slopes + i, slope);                                                    \
        }                                                                                     \
        break;
            CASE(FM_IDENTITY)
            CASE(FM_RELU)
            CASE(FM_LEAKY_RELU)
            CASE(FM_TANH)
            CASE(FM_LOGISTIC)
            CASE(FM_SILU)
            CASE(FM_GELU)
#undef CASE
        }
}

// Makes zero again what pads B rows of n columns to whole vectors, which logistic made a half.
static void R(clear_padding)(real *A, ptrdiff_t B, ptrdiff_t n, ptrdiff_t stride)
{
    const ptrdiff_t last = (R(vectors)(n) - 1) * FM_LANES;
    A += R(column)(stride, last);
    for (ptrdiff_t b = 0; last + FM_LANES > n && b < B; b++, A += FM_BLOCK)
        vstore(A, vload_n(A, (int)(n - last)));
}

// Dropout of layer l: the outputs A of the rows [first, first + B) of the batch, and their slopes, to
// zero or up by 1 / (1 - dropout).
static void R(drop)(const fm_run *run, ptrdiff_t l, real *A, real *slopes, ptrdiff_t first,
                    ptrdiff_t B, ptrdiff_t n, ptrdiff_t stride)
{
    const uint32_t threshold = fm_dropout_threshold(run->net.dropout);
    const real up = (real)(1 / (1 - run->net.dropout));
    for (ptrdiff_t o = 0; o < n; o += FM_DROPOUT_WORDS)
        for (ptrdiff_t b = 0; b < B; b++) {
            uint32_t words[FM_DROPOUT_WORDS];
            real factors[FM_DROPOUT_WORDS];
            fm_dropout_words(words, run->dropout_key, run->step, l, first + b, o / FM_DROPOUT_WORDS);
            for (int i = 0; i < FM_DROPOUT_WORDS; i++)
                factors[i] = words[i] < threshold ? 0 : up;
            for (int i = 0; i < R(min)(FM_DROPOUT_WORDS, n - o); i += FM_LANES) {
                const ptrdiff_t at = R(column)(stride, o + i) + b * FM_BLOCK;
                const V factor = vload(factors + i);
                vstore(A + at, vmul(vload(A + at), factor));
                vstore(slopes + at, vmul(vload(slopes + at), factor));
            }
        }
}

// dA = dA dA/dZ for B rows of n columns and what pads them, from the slopes or, without, from A.
static void R(activation_backward)(real *dA, const real *A, const real *slopes, ptrdiff_t B,
                                   ptrdiff_t n, ptrdiff_t stride, int activation)
{
    const V zero = vset1(0), one = vset1(1), leak = vset1((real)FM_LEAK);
    for (ptrdiff_t o = 0; o < n; o += FM_BLOCK, A += stride, dA += stride,
                   slopes += slopes ? stride : 0)
        for (ptrdiff_t i = 0; i < B * FM_BLOCK; i += FM_LANES) {
            const V a = vload(A + i);
            const V slope = slopes                          ? vload(slopes + i)
                            : activation == FM_TANH         ? vfnma(a, a, one)
                            : activation == FM_LEAKY_RELU   ? vselect_lt(zero, a, one, leak)
                                                            : vmul(a, vsub(one, a));
            vstore(dA + i, vmul(vload(dA + i), slope));
        }
}
