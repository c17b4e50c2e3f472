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
        const R(form) form = R(W_of)(layer);
        V sum[S], columns[FM_PANEL];
        for (int s = 0; s < S; s++)
            sum[s] = vset1(0);
        for (ptrdiff_t p = 0; p < form.widths.n; p++) {
            const ptrdiff_t v = R(panel_start)(form.widths, p);
            const int NV = R(panel_size)(form.widths, p);
            const real *W = (const real *)run->state + form.at + R(row_at)(&form, p, 0);
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

// Adds decay W to the gradients of a layer's weights.
static void R(add_decay)(const fm_run *run, const fm_layer *layer, real decay)
{
    const R(form) form = R(W_of)(layer);
    for (ptrdiff_t p = 0; p < form.widths.n; p++) {
        const ptrdiff_t o = R(first_column)(&form, p), width = R(width)(&form, p);
        const real *W = (const real *)run->state + form.at + R(row_at)(&form, p, 0);
        for (ptrdiff_t i = 0; i < layer->I; i++, W += width)
            for (ptrdiff_t j = 0; j < R(min)(width, layer->O - o); j += FM_LANES) {
                real *dW = (real *)run->gradients + layer->flat + i * layer->O + o + j;
                const int valid = (int)R(min)(FM_LANES, layer->O - o - j);
                vstore_n(dW, vfma(vset1(decay), vload(W + j), vload_n(dW, valid)), valid);
            }
    }
}

// A vector of the flat gradients dW of a layer: row i and columns from o on of W, or of W^T.
INLINE V R(gradient)(const real *dW, const fm_layer *layer, const R(form) *form, ptrdiff_t i, ptrdiff_t o)
{
    const int n = (int)R(max)(0, R(min)(FM_LANES, form->columns - o));
    if (!layer->turned)
        return vload_n(dW + i * layer->O + o, n);
    real column[FM_LANES] = {0};
    for (int j = 0; j < n; j++)
        column[j] = dW[(o + j) * layer->O + i];
    return vload(column);
}

// Adds the decay to run->gradients, takes their norm, and updates by as much of them as max_norm
// allows.
static void R(clipped_update)(fm_run *run)
{
    const fm_layer *layers = R(layers)(run), *layer = layers, *end = layers + run->net.n_layers;
    const real *flat = run->gradients;
    const ptrdiff_t n = end[-1].flat + (end[-1].I + 1) * end[-1].O;
    for (; run->rule.weight_decay != 0 && layer < end; layer++)
        R(add_decay)(run, layer, (real)run->rule.weight_decay);
    const double norm = sqrt(FM_SUM_OF_SQUARES(flat, n));
    // an infinite norm leaves nothing to scale, and NaN says so
    const double kept = isinf(norm) ? NAN : norm > run->rule.max_norm ? run->rule.max_norm / norm : 1;

    R(rule) rule = R(rule_of)(run);
    rule.decay = 0; // it is in already
    const V factor = vset1((real)(rule.adam ? kept : -run->rule.learning_rate * kept));
    const ptrdiff_t shift = R(new_state)(run) - (real *)run->state;
    for (layer = layers; layer < end; layer++) {
        const R(form) form = R(updated)(layer), W = R(W_of)(layer);
        const real *dW = flat + layer->flat;
        real *state = run->state, *moment1 = state + layer->moment1, *moment2 = state + layer->moment2;
        for (ptrdiff_t p = 0; p < W.widths.n; p++) {
            real db[WIDTH];
            for (ptrdiff_t j = 0; j < WIDTH; j += FM_LANES) {
                const ptrdiff_t o = R(first_column)(&W, p) + j;
                const int left = (int)R(max)(0, R(min)(FM_LANES, layer->O - o));
                vstore(db + j, vmul(vload_n(dW + layer->I * layer->O + o, left), factor));
            }
            R(update_bias)(run, layer, p, db, shift, &rule);
        }
        for (ptrdiff_t p = 0; p < form.widths.n; p++) {
            for (ptrdiff_t i = 0; i < form.rows; i++)
                for (ptrdiff_t j = 0; j < R(width)(&form, p); j += FM_LANES) {
                    const ptrdiff_t at = R(row_at)(&form, p, i) + j;
                    const V gradient = R(gradient)(dW, layer, &form, i, R(first_column)(&form, p) + j);
                    R(update_vector)(state + form.at + at, moment1 + at, moment2 + at, shift,
                                     vmul(gradient, factor), &rule, 1);
                }
            if (R(has_both)(run, layer))
                R(renew)(R(new_state)(run), layer, p);
        }
    }
}
