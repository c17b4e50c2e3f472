// The optimizers on vectors.

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

// One vector of parameters W and velocity v after a step of SGD, from dW = -learning_rate dW.
INLINE void R(sgd)(real *new_W, real *new_v, V W, V v, V dW, const R(rule) *rule, int decays)
{
    const V mu = vset1(rule->momentum);
    if (decays)
        dW = vfma(vset1(rule->decay), W, dW);
    v = vfma(mu, v, dW);
    vstore(new_v, v);
    vstore(new_W, vadd(W, rule->nesterov ? vfma(mu, v, dW) : v));
}

// One vector of parameters W and its two moments m and v after a step of Adam.
INLINE void R(adam)(real *new_W, real *new_m, real *new_v, V W, V m, V v, V dW, const R(rule) *rule,
                    int decays)
{
    if (decays && rule->decoupled)
        W = vsub(W, vmul(vset1(rule->decay), W));
    else if (decays)
        dW = vfma(vset1(rule->decay), W, dW);
    m = vfma(vset1(rule->beta1), m, vmul(vset1(rule->rest1), dW));
    v = vfma(vset1(rule->beta2), v, vmul(vset1(rule->rest2), vmul(dW, dW)));
    vstore(new_m, m);
    vstore(new_v, v);
    V step = vdiv(m, vadd(vsqrt(v), vset1(rule->epsilon)));
    vstore(new_W, vsub(W, vmul(vset1(rule->rate), step)));
}
