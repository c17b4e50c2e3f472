// Inference from the flat parameters, mostly without panels.

// The columns of a strip of NV vectors for B rows, tile by tile: the first asks for what is far.
static void R(strided_tiles)(R(strip) *strip, real *C, const real *A, ptrdiff_t B, int NV)
{
    const R(parts) tiles = R(parts_of)(B, FM_ROWS(NV));
    for (ptrdiff_t i = 0; i < tiles.n; i++, strip->is_far = 0) {
        const ptrdiff_t b = R(part_start)(tiles, i);
        R(strided_row_tiles)[NV - 1][R(part_size)(tiles, i) - 1](strip, C + b * FM_BLOCK, A + b * strip->lda);
    }
}

// B rows of users, K numbers of each, lda apart, to blocks.
static void R(pack_rows)(real *blocks, const real *A, ptrdiff_t B, ptrdiff_t K, ptrdiff_t lda, ptrdiff_t stride)
{
    enum { AHEAD = 8, LINE = FM_ALIGN / sizeof(real) }; // rows, numbers
    for (ptrdiff_t b = 0; b < B; b++, A += lda, blocks += FM_BLOCK) {
        for (ptrdiff_t k = 0; k < K; k += LINE)
            FM_PREFETCH(A + AHEAD * lda + k);
        R(to_blocks)(blocks, A, K, stride);
    }
}

// C (B, O) = A (B, I) W (I, O) + b for flat parameters, by way of panels in `room`: a stretch of some at a
// time, and one of A, unless that is in blocks. A has rows lda and blocks `stride` apart. The tiles ask for the
// weights that come after.
static void R(packed_forward)(real *C, const real *A, const real *flat, real *room, const fm_layer *layer,
                              ptrdiff_t B, ptrdiff_t lda, ptrdiff_t stride, ptrdiff_t out_stride, int epilogue)
{
    const ptrdiff_t I = layer->I, O = layer->O;
    const R(parts) stretches = R(stretches_of_blocks)(I);
    R(form) W = {.columns = O, .widths = R(panels_of)(R(vectors)(O), 1)};
    R(product) of = {.C = C, .widths = W.widths, .B = B, .stride = out_stride,
                     .soon = {.width = R(PANELS_PACKED) * WIDTH, .ld = O}};
    for (ptrdiff_t s = 0; s < stretches.n; s++, A += W.rows / FM_BLOCK * stride) {
        const ptrdiff_t k = R(part_start)(stretches, s) * FM_BLOCK;
        W.heads = of.heads = s == 0;
        W.rows = of.K = R(min)(I - k, R(part_size)(stretches, s) * FM_BLOCK);
        of.epilogue = k + W.rows < I ? FM_STORE : epilogue;
        of.A = of.mask = A;
        if (lda != FM_BLOCK) {
            real *blocks = room + R(lines)(R(ROOM_OF_PANELS));
            R(pack_rows)(blocks, A, B, W.rows, lda, out_stride);
            of.A = of.mask = blocks;
        }
        for (ptrdiff_t p = 0; p < W.widths.n;) {
            const ptrdiff_t last = R(min)(W.widths.n, p + R(PANELS_PACKED));
            R(copy_panels)(room, (real *)flat, layer, &W, k, p, last, 1);
            of.soon.rows = last < W.widths.n || k + W.rows < I ? W.rows / (last - p) : 0;
            of.soon.at = flat + (last < W.widths.n ? k * O + R(first_column)(&W, last) : (k + W.rows) * O);
            const real *P = room;
            for (; p < last; p++, of.soon.at += of.soon.rows * O) {
                const ptrdiff_t width = R(width)(&W, p);
                const real *next = P + (W.heads + W.rows) * width;
                R(panel_product)(&of, p, 0, W.rows, P + W.heads * width, p + 1 < last ? next : NULL);
                P = next;
            }
        }
    }
}

// The columns [o, end) of C (B, O) = A (B, I) W (I, O) + b for flat parameters, whole blocks of them unless
// end is O; A has rows lda and blocks `stride` apart. Those that do not fill a panel are copied into `rest`,
// (I + 1) rows of one, or layers that are packed into panels of it.
static void R(linear_forward)(real *C, const real *A, const real *flat, real *rest,
                              const fm_layer *layer, ptrdiff_t o, ptrdiff_t end, ptrdiff_t B, ptrdiff_t lda,
                              ptrdiff_t stride, ptrdiff_t out_stride, int epilogue)
{
    const ptrdiff_t I = layer->I, O = layer->O;
    if (R(is_packed)(O, B) && end - o == O) {
        R(packed_forward)(C, A, flat, rest, layer, B, lda, stride, out_stride, epilogue);
        return;
    }
    const real *bias = flat + I * O;
    const int is_far = B >= 8 && I * (end - o) * (ptrdiff_t)sizeof(real) > FM_FAR;
    for (ptrdiff_t n = 1; n > 0; o += n * FM_LANES) {
        const R(strip) few = {.P = flat + o, .init = bias + o, .stride = stride, .lda = lda, .ldp = O, .K = I,
                              .epilogue = epilogue};
        n = R(few_rows)(&few, C, A, out_stride, o, B, (end - o) / FM_LANES);
    }
    const R(panels) widths = R(panels_of)(R(vectors)(end - o), 1);
    for (ptrdiff_t p = 0; p < widths.n; p++) {
        const int NV = R(panel_size)(widths, p);
        const real *P = flat + o, *init = bias + o;
        ptrdiff_t ldp = O;
        if (O - o < NV * FM_LANES) {
            const int valid = (int)(O - o - (NV - 1) * FM_LANES);
            for (ptrdiff_t i = -1; i < I; i++) {
                const real *row = i < 0 ? bias + o : flat + i * O + o;
                real *copy = rest + (i + 1) * NV * FM_LANES;
                for (int j = 0; j < NV - 1; j++)
                    vstore(copy + j * FM_LANES, vload(row + j * FM_LANES));
                vstore(copy + (NV - 1) * FM_LANES, vload_n(row + (NV - 1) * FM_LANES, valid));
            }
            ldp = NV * FM_LANES;
            P = rest + ldp;
            init = rest;
        }
        // few outputs are all in `rest` by now; whole vectors of a row may be read where A is in blocks, and of
        // as many inputs as a block has, which lie as if it were
        if (O <= R(FEW) && B >= FM_LANES && lda == FM_BLOCK) {
            R(few_outputs)(C, A, rest, stride, B, I, O, epilogue);
            return;
        }
        R(strip) strip = {.stride = stride, .lda = lda, .ldp = ldp};
        R(columns)(strip.at, out_stride, o, NV);
        // what is far is read once, as much at a time as the first-level cache holds
        const ptrdiff_t most = is_far && B > FM_ROWS(NV) ? R(SUMMED) : I;
        for (ptrdiff_t k = 0; k < I; k += most) {
            strip.P = P + k * ldp;
            strip.init = k == 0 ? init : NULL;
            strip.K = R(min)(most, I - k);
            strip.epilogue = k + most < I ? FM_STORE : epilogue;
            strip.is_far = is_far;
            R(strided_tiles)(&strip, C, A + k / FM_BLOCK * stride, B, NV);
        }
        o += NV * FM_LANES;
    }
}

// What part `part` of n_parts computes of layer l: whole blocks of columns.
static void R(forward_part)(const fm_run *run, const fm_rows *X, ptrdiff_t B, int l, int part, int n_parts)
{
    enum { PIECE = 32 }; // outputs, not to be shared: a multiple of FM_BLOCK
    const fm_net *net = &run->net;
    const fm_layer *layer = R(layers)(run) + l;
    const int activation = R(activation_of)(net, l);
    const int epilogue = activation == FM_RELU ? FM_STORE_RELU : FM_STORE;
    const ptrdiff_t out_stride = R(block_stride)(run), pieces = (layer->O + PIECE - 1) / PIECE;
    const ptrdiff_t first = (pieces * part + n_parts - 1) / n_parts * PIECE;
    const ptrdiff_t end = R(min)((pieces * (part + 1) + n_parts - 1) / n_parts * PIECE, layer->O);
    if (first >= end)
        return;
    real *C = R(at)(run, layer->out);
    const real *A = l == 0 ? X->values : R(at)(run, layer[-1].out);
    const real *flat = (const real *)run->params + layer->flat;
    const ptrdiff_t lda = l == 0 ? net->sizes[0] : FM_BLOCK, stride = l == 0 ? FM_BLOCK : out_stride;
    if (l == 0 && X->columns)
        R(csr_linear_forward)(C, X, flat, layer, B, out_stride, epilogue);
    else if (l > 0 || n_parts > 1 || !R(zeros_linear_forward)(run, C, A, flat, layer, B, out_stride, epilogue))
        R(linear_forward)(C, A, flat, R(rest)(run), layer, first, end, B, lda, stride, out_stride, epilogue);
    if (!R(is_in_tile)(activation))
        R(activation_forward)(C + R(column)(out_stride, first), NULL, B, end - first, out_stride, activation);
}

// The last layer's, or their softmax, as rows.
static void R(outputs)(const fm_run *run, void *out, ptrdiff_t B, int softmax)
{
    const ptrdiff_t stride = R(block_stride)(run), L = run->net.n_layers, O = run->net.sizes[L];
    real *Z = R(at)(run, R(layers)(run)[L - 1].out);
    if (softmax)
        R(softmax)(Z, B, O, stride);
    for (ptrdiff_t b = 0; b < B; b++)
        for (ptrdiff_t o = 0; o < O; o += FM_BLOCK)
            memcpy((real *)out + b * O + o, Z + R(column)(stride, o) + b * FM_BLOCK,
                   (size_t)R(min)(FM_BLOCK, O - o) * sizeof(real));
}
