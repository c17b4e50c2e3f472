// The optimizers on vectors, and when they come to work.

// fm_rule in the engine's dtype, rounded once.
typedef struct R(rule) {
    int adam, nesterov, decays, decoupled;
    real momentum, decay;        // SGD: decay is what W adds to its own step
    real beta1, beta2, rest1, rest2, epsilon, rate;
} R(rule);

INLINE R(rule) R(rule_of)(const fm_rule *rule)
{
    return (R(rule)){
        .adam = rule->kind == FM_ADAM,
        .nesterov = rule->nesterov,
        .decays = rule->weight_decay != 0,
        .decoupled = rule->decoupled,
        .momentum = (real)rule->momentum,
        .decay = rule->kind == FM_SGD ? (real)(-rule->learning_rate * rule->weight_decay)
                 : rule->decoupled ? (real)rule->learning_rate * (real)rule->weight_decay
                                   : (real)rule->weight_decay,
        .beta1 = (real)rule->beta1,
        .beta2 = (real)rule->beta2,
        // before they are rounded: in float32 there may be nothing left of 1 - beta after
        .rest1 = (real)(1 - rule->beta1),
        .rest2 = (real)(1 - rule->beta2),
        .epsilon = (real)rule->epsilon,
        .rate = (real)rule->corrected_rate,
    };
}

// What dZ of the last layer is multiplied with. In a step of SGD the learning rate is in it from
// the start, so that the products give -learning_rate dW, and every update is one operation less.
INLINE double R(gradient_scale)(const fm_run *run)
{
    const int sgd = run->rule.kind == FM_SGD && !run->store_gradients;
    return (sgd ? -run->rule.learning_rate : 1.0) / (double)run->B;
}

// One vector of parameters and velocity after a step of SGD, from dW = -learning_rate dW.
INLINE void R(sgd)(real *W, real *v, V dW, const R(rule) *rule, int decays)
{
    V w = vload(W), mu = vset1(rule->momentum);
    if (decays)
        dW = vfma(vset1(rule->decay), w, dW);
    V velocity = vfma(mu, vload(v), dW);
    vstore(v, velocity);
    vstore(W, vadd(w, rule->nesterov ? vfma(mu, velocity, dW) : velocity));
}

// One vector of parameters and its two moments after a step of Adam.
INLINE void R(adam)(real *W, real *m, real *v, V dW, const R(rule) *rule, int decays)
{
    V w = vload(W);
    if (decays && rule->decoupled)
        w = vsub(w, vmul(vset1(rule->decay), w));
    else if (decays)
        dW = vfma(vset1(rule->decay), w, dW);
    V mean = vfma(vset1(rule->beta1), vload(m), vmul(vset1(rule->rest1), dW));
    V square = vfma(vset1(rule->beta2), vload(v), vmul(vset1(rule->rest2), vmul(dW, dW)));
    vstore(m, mean);
    vstore(v, square);
    V step = vdiv(mean, vadd(vsqrt(square), vset1(rule->epsilon)));
    vstore(W, vsub(w, vmul(vset1(rule->rate), step)));
}

// What a weight tile does beside its sum, a vector at a time between the multiplications, where it
// costs next to nothing. In one piece it would hold them up: a burst of stores, or rows that come
// from far away in memory.
typedef struct R(errands) {
    R(rule) rule;
    // The update of the tile before, whose gradient waits in dW; the first vectors of it may be those
    // of a bias, which does not decay.
    ptrdiff_t updates, bias_vectors;
    real *W, *moment1, *moment2;
    const real *next_W, *next_moment1; // of this tile: to bring nearer
    // Rows [row, end) of the next batch to gather, into blocks `stride` apart: of the first of them
    // `copied` vectors are done, and the next `copies` are this tile's; `later` is a row to ask for.
    ptrdiff_t row, end, copied, copies, copies_of_tile, stride;
    const real *from, *later;
    real *to;
    _Alignas(FM_ALIGN) real dW[(1 + FM_ROWS) * WIDTH];
} R(errands);

INLINE void R(update)(R(errands) *errands, ptrdiff_t vector)
{
    FM_FORGET();
    const R(rule) *rule = &errands->rule;
    const ptrdiff_t at = vector * FM_LANES;
    const int decays = rule->decays && vector >= errands->bias_vectors;
    const V dW = vload(errands->dW + at);
    FM_PREFETCH_TO_WRITE(errands->next_W + at);
    FM_PREFETCH_TO_WRITE(errands->next_moment1 + at);
    if (!rule->adam)
        R(sgd)(errands->W + at, errands->moment1 + at, dW, rule, decays);
    else
        R(adam)(errands->W + at, errands->moment1 + at, errands->moment2 + at, dW, rule, decays);
}

// Copies one vector of a row, and asks for that of a later row.
INLINE void R(copy)(R(errands) *errands, ptrdiff_t vector)
{
    enum { OF_BLOCK = FM_BLOCK / FM_LANES };
    FM_FORGET();
    const size_t i = (size_t)(errands->copied + vector);
    real *to = errands->to + i / OF_BLOCK * (size_t)errands->stride + i % OF_BLOCK * FM_LANES;
    vstore(to, vload(errands->from + i * FM_LANES));
    FM_PREFETCH(errands->later + i * FM_LANES);
}

// Does at once all updates that wait.
static void R(flush)(R(errands) *errands)
{
    for (ptrdiff_t i = 0; i < errands->updates; i++)
        R(update)(errands, i);
    errands->updates = 0;
}
