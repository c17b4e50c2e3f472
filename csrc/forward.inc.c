// Inference from the flat parameters, without panels.

// C (B, O) = A (B, I) W (I, O) + b for flat parameters; A has rows lda and blocks `stride` apart. The
// columns that do not fill a panel are copied into `rest`, (I + 1) rows of one.
static void R(linear_forward)(real *C, const real *A, const real *flat, real *rest,
                              const fm_layer *layer, ptrdiff_t B, ptrdiff_t lda, ptrdiff_t stride,
                              ptrdiff_t out_stride, int epilogue)
{
    const ptrdiff_t I = layer->I, O = layer->O;
    const real *bias = flat + I * O;
    ptrdiff_t o = 0;
    while (B == 1 && O - o >= 4 * FM_LANES) {
        real row[FM_ONE_ROW * FM_LANES];
        const ptrdiff_t left = (O - o) / FM_LANES;
        const ptrdiff_t n = left >= FM_ONE_ROW ? FM_ONE_ROW : left >= 8 ? 8 : 4;
        if (n == FM_ONE_ROW)
            R(one_row_of)(row, A, flat + o, bias + o, stride, O, I, FM_ONE_ROW);
        else if (n == 8)
            R(one_row_of)(row, A, flat + o, bias + o, stride, O, I, 8);
        else
            R(one_row_of)(row, A, flat + o, bias + o, stride, O, I, 4);
        for (ptrdiff_t j = 0; j < n * FM_LANES; j += FM_LANES) {
            V c = vload(row + j);
            vstore(C + R(column)(out_stride, o + j), epilogue == FM_STORE_RELU ? vkeep(c, c) : c);
        }
        o += n * FM_LANES;
    }
    const R(panels) widths = R(panels_of)(R(vectors)(O - o), 1);
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
        // 32 inputs, which lie as if it were
        if (O <= R(FEW) && B >= FM_LANES && lda == FM_BLOCK) {
            R(few_outputs)(C, A, rest, stride, B, I, O, epilogue);
            return;
        }
        const R(parts) tiles = R(parts_of)(B, FM_ROWS(NV));
        R(strip) strip = {.P = P, .init = init, .stride = stride, .lda = lda, .ldp = ldp, .K = I,
                          .epilogue = epilogue};
        R(columns)(strip.at, out_stride, o, NV);
        for (ptrdiff_t i = 0; i < tiles.n; i++) {
            const ptrdiff_t b = R(part_start)(tiles, i);
            R(strided_row_tiles)[NV - 1][R(part_size)(tiles, i) - 1](&strip, C + b * FM_BLOCK,
                                                                     A + b * lda);
        }
        o += NV * FM_LANES;
    }
}

static void R(forward)(const fm_run *run, void *out, const fm_rows *X, ptrdiff_t B, int softmax)
{
    const fm_layer *layers = R(layers)(run);
    const fm_net *net = &run->net;
    const real *A = X->values;
    const ptrdiff_t out_stride = R(block_stride)(run), O = net->sizes[net->n_layers];
    ptrdiff_t lda = net->sizes[0], stride = FM_BLOCK;
    real *C = NULL;
    for (const fm_layer *layer = layers; layer < layers + net->n_layers; layer++) {
        const int activation = R(activation_of)(net, layer - layers);
        C = R(at)(run, layer->out);
        const real *flat = (const real *)run->params + layer->flat;
        const int epilogue = activation == FM_RELU ? FM_STORE_RELU : FM_STORE;
        if (layer == layers && X->columns)
            R(csr_linear_forward)(C, X, flat, layer, B, out_stride, epilogue);
        else if (layer > layers || !R(zeros_linear_forward)(run, C, A, flat, layer, B, out_stride, epilogue))
            R(linear_forward)(C, A, flat, R(rest)(run), layer, B, lda, stride, out_stride, epilogue);
        if (!R(is_in_tile)(activation))
            R(activation_forward)(C, NULL, B, layer->O, out_stride, activation);
        A = C;
        lda = FM_BLOCK;
        stride = out_stride;
    }
    if (softmax)
        R(softmax)(C, B, O, out_stride);
    for (ptrdiff_t b = 0; b < B; b++)
        for (ptrdiff_t o = 0; o < O; o += FM_BLOCK)
            memcpy((real *)out + b * O + o, C + R(column)(out_stride, o) + b * FM_BLOCK,
                   (size_t)R(min)(FM_BLOCK, O - o) * sizeof(real));
}
