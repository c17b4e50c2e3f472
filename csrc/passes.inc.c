// What goes through all weights once more, beside the products: only where it is asked for.

// The squares of the weights in a panel of NV vectors, summed by columns into `columns`: in four chains,
// rows i, i + 4, ... each, then (0 + 1) + (2 + 3).
INLINE void R(squares_of)(V columns[FM_PANEL], const real *W, ptrdiff_t I, const int NV)
{
    enum { CHAINS = 4 };
    V chain[CHAINS][FM_PANEL];
    FM_UNROLL
    for (int c = 0; c < CHAINS; c++)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            chain[c][j] = vset1(0);
    ptrdiff_t i = 0;
    for (; i + CHAINS <= I; i += CHAINS)
        FM_UNROLL
        for (int c = 0; c < CHAINS; c++, W += NV * FM_LANES)
            FM_UNROLL
            for (int j = 0; j < NV; j++)
                chain[c][j] = vfma(vload(W + j * FM_LANES), vload(W + j * FM_LANES), chain[c][j]);
    for (int c = 0; i < I; c++, i++, W += NV * FM_LANES)
        FM_UNROLL
        for (int j = 0; j < NV; j++)
            chain[c][j] = vfma(vload(W + j * FM_LANES), vload(W + j * FM_LANES), chain[c][j]);
    FM_UNROLL
    for (int j = 0; j < NV; j++)
        columns[j] = vadd(vadd(chain[0][j], chain[1][j]), vadd(chain[2][j], chain[3][j]));
}

// Sum of the squares of the weights; columns add up in 16 virtual lanes: the same bits everywhere.
static double R(penalty)(const fm_run *run)
{
    enum { S = FM_VIRTUAL_LANES / FM_LANES };
    const fm_layer *layer = R(layers)(run);
    double total = 0;
    for (ptrdiff_t l = 0; l < run->net.n_layers; l++, layer++) {
        const R(panels) widths = R(panels_of_layer)(layer);
        V sum[S], columns[FM_PANEL];
        for (int s = 0; s < S; s++)
            sum[s] = vset1(0);
        for (ptrdiff_t p = 0; p < widths.n; p++) {
            const ptrdiff_t v = R(panel_start)(widths, p);
            const int NV = R(panel_size)(widths, p);
            const real *panel = (const real *)run->state + layer->W + v * FM_LANES * (layer->I + 1);
            const real *W = panel + NV * FM_LANES;
            if (NV == FM_PANEL)
                R(squares_of)(columns, W, layer->I, FM_PANEL);
            else if (NV == 2)
                R(squares_of)(columns, W, layer->I, 2);
            else
                R(squares_of)(columns, W, layer->I, 1);
            for (int j = 0; j < NV; j++)
                sum[(v + j) % S] = vadd(sum[(v + j) % S], columns[j]);
        }
        total += (double)R(tree_sum)(sum);
    }
    return total;
}

// Adds the decay to run->gradients, takes their norm, and updates by as much of them as max_norm
// allows.
static void R(clipped_update)(fm_run *run)
{
    const fm_layer *layers = R(layers)(run), *layer = layers, *end = layers + run->net.n_layers;
    const real decay = (real)run->rule.weight_decay;
    real *flat = run->gradients;
    const ptrdiff_t n = end[-1].flat + (end[-1].I + 1) * end[-1].O;
    for (; decay != 0 && layer < end; layer++) {
        const R(panels) widths = R(panels_of_layer)(layer);
        for (ptrdiff_t p = 0; p < widths.n; p++) {
            const ptrdiff_t o = R(panel_start)(widths, p) * FM_LANES;
            const ptrdiff_t width = R(panel_size)(widths, p) * FM_LANES;
            const real *W = (const real *)run->state + layer->W + o * (layer->I + 1) + width;
            for (ptrdiff_t i = 0; i < layer->I; i++, W += width)
                for (ptrdiff_t j = 0; j < R(min)(width, layer->O - o); j += FM_LANES) {
                    real *dW = flat + layer->flat + i * layer->O + o + j;
                    const int valid = (int)R(min)(FM_LANES, layer->O - o - j);
                    vstore_n(dW, vfma(vset1(decay), vload(W + j), vload_n(dW, valid)), valid);
                }
        }
    }
    const double norm = sqrt(FM_SUM_OF_SQUARES(flat, n));
    // an infinite norm leaves nothing to scale, and NaN says so
    const double kept = isinf(norm) ? NAN : norm > run->rule.max_norm ? run->rule.max_norm / norm : 1;

    R(rule) rule = R(rule_of)(run);
    rule.decay = 0; // it is in already
    const V factor = vset1((real)(rule.adam ? kept : -run->rule.learning_rate * kept));
    const ptrdiff_t shift = R(new_state)(run) - (real *)run->state;
    for (layer = layers; layer < end; layer++) {
        const R(panels) widths = R(panels_of_layer)(layer);
        for (ptrdiff_t p = 0; p < widths.n; p++) {
            const ptrdiff_t o = R(panel_start)(widths, p) * FM_LANES;
            const ptrdiff_t width = R(panel_size)(widths, p) * FM_LANES;
            real *panel = (real *)run->state + o * (layer->I + 1);
            for (ptrdiff_t i = -1; i < layer->I; i++)
                for (ptrdiff_t j = 0; j < width; j += FM_LANES) {
                    const ptrdiff_t left = R(max)(0, layer->O - o - j);
                    const real *dW = flat + layer->flat + (i < 0 ? layer->I : i) * layer->O + o + j;
                    const V gradient = vload_n(dW, (int)R(min)(left, FM_LANES));
                    real *at = panel + (i + 1) * width + j;
                    R(update_vector)(at + layer->W, at + layer->moment1, at + layer->moment2, shift,
                                     vmul(gradient, factor), &rule, i >= 0);
                }
            if (layer > layers)
                R(transpose_panel)(R(new_state)(run) + layer->WT, R(new_state)(run) + layer->W, layer,
                                   p);
        }
    }
}
