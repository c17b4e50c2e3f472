// The optimizers on vectors.

// fm_rule in the engine's dtype, rounded once.
typedef struct R(rule) {
    int adam, nesterov;
    int decays;                  // by the gradient, or beside it
    real momentum, decay, shrink; // SGD: decay is what W adds to its own step
    real beta1, beta2, rest1, rest2, epsilon, rate;
    real least, least_dW;        // moments, and gradients of Adam, that are smaller become 0
} R(rule);

// Moments of what has no gradient any more shrink until they are subnormal, and rounding keeps them there for
// good: 0.9 of 4 times the smallest number is 4 times the smallest number. Arithmetic with such numbers takes
// up to 60 times as long on some CPUs, so that every now and then they are made 0. Gradients whose squares
// would be subnormal are 0 for Adam, if epsilon is so large that they could not move anything.
static R(rule) R(rule_of)(const fm_run *run)
{
    enum { EVERY = 64 };
    const fm_rule *rule = &run->rule;
    const int adam = rule->kind == FM_ADAM;
    const double least_dW = adam ? sqrt((double)R(least_normal) / (1 - rule->beta2)) : 0;
    return (R(rule)){
        .adam = adam,
        .nesterov = rule->nesterov,
        .decays = rule->weight_decay != 0 || rule->decoupled_decay != 0,
        .momentum = (real)rule->momentum,
        .decay = adam ? (real)rule->weight_decay : (real)(-rule->learning_rate * rule->weight_decay),
        .shrink = (real)rule->learning_rate * (real)rule->decoupled_decay,
        .beta1 = (real)rule->beta1,
        .beta2 = (real)rule->beta2,
        // before they are rounded: in float32 there may be nothing left of 1 - beta after
        .rest1 = (real)(1 - rule->beta1),
        .rest2 = (real)(1 - rule->beta2),
        .epsilon = (real)rule->epsilon,
        .rate = (real)rule->corrected_rate,
        .least = run->step % EVERY == 0 ? R(least_normal) : 0,
        .least_dW = least_dW * (double)(UINT64_C(1) << R(MANTISSA)) < rule->epsilon ? (real)least_dW : 0,
    };
}

// What dZ of the last layer is multiplied with. In a step of SGD the learning rate is in it from
// the start, so that the products give -learning_rate dW, and every update is one operation less.
INLINE double R(gradient_scale)(const fm_run *run)
{
    const int sgd = run->rule.kind == FM_SGD && !run->store_gradients;
    return (sgd ? -run->rule.learning_rate : 1.0) / run->weight_sum;
}

// One vector of parameters and velocity after a step of SGD, from dW = -learning_rate dW; the new
// ones go `shift` elements behind the old.
INLINE void R(sgd)(real *W, real *v, ptrdiff_t shift, V dW, const R(rule) *rule, int decays)
{
    const V mu = vset1(rule->momentum);
    V w = vload(W);
    if (decays) {
        dW = vfma(vset1(rule->decay), w, dW);
        w = vsub(w, vmul(vset1(rule->shrink), w));
    }
    V velocity = vfma(mu, vload(v), dW);
    if (rule->least > 0)
        velocity = R(at_least)(velocity, rule->least);
    vstore(v + shift, velocity);
    vstore(W + shift, vadd(w, rule->nesterov ? vfma(mu, velocity, dW) : velocity));
}

// The same by momentum and nothing else, in place.
INLINE void R(momentum)(real *W, real *v, V dW, const R(rule) *rule)
{
    const V velocity = vfma(vset1(rule->momentum), vload(v), dW);
    vstore(v, velocity);
    vstore(W, vadd(vload(W), velocity));
}

// One vector of parameters and its two moments after a step of Adam, likewise.
INLINE void R(adam)(real *W, real *m, real *v, ptrdiff_t shift, V dW, const R(rule) *rule,
                    int decays)
{
    V w = vload(W);
    if (decays) {
        dW = vfma(vset1(rule->decay), w, dW);
        w = vsub(w, vmul(vset1(rule->shrink), w));
    }
    dW = R(at_least)(dW, rule->least_dW);
    V mean = vfma(vset1(rule->beta1), vload(m), vmul(vset1(rule->rest1), dW));
    V square = vfma(vset1(rule->beta2), vload(v), vmul(vset1(rule->rest2), vmul(dW, dW)));
    if (rule->least > 0) {
        mean = R(at_least)(mean, rule->least);
        square = rule->least_dW > 0 ? R(at_least)(square, rule->least) : square;
    }
    vstore(m + shift, mean);
    vstore(v + shift, square);
    const V step = vdiv(mean, vadd(vsqrt(square), vset1(rule->epsilon)));
    vstore(W + shift, vsub(w, vmul(vset1(rule->rate), step)));
}

INLINE void R(update_vector)(real *W, real *moment1, real *moment2, ptrdiff_t shift, V dW,
                             const R(rule) *rule, int is_weight)
{
    if (rule->adam)
        R(adam)(W, moment1, moment2, shift, dW, rule, rule->decays && is_weight);
    else
        R(sgd)(W, moment1, shift, dW, rule, rule->decays && is_weight);
}
