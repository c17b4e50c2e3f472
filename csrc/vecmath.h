// exp, log, tanh and logistic on vectors: own polynomials, the same bits on every instruction set.
//
// Included by fused.inc.c, once for every dtype. exp and log are within 2 ulp over the whole
// range; the polynomials interpolate at Chebyshev nodes, which for these lengths leaves an error
// below a tenth of a rounding. For the reductions see J.-M. Muller, "Elementary Functions", 2016;
// the form of log is that of FDLIBM.

#define LN2_HI R(ln2_hi)
#define LN2_LO R(ln2_lo)

#if FM_REAL_BITS == 32
    enum { R(MANTISSA) = 23, R(BIAS) = 127 };
    static const real R(ln2_hi) = 0x1.63p-1f, R(ln2_lo) = -0x1.bd0106p-13f;
    static const real R(log2_e) = 0x1.715476p+0f;
    static const real R(magic) = 0x1.8p+23f;          // adding it rounds to an integer
    static const real R(exp_least) = -105.f, R(exp_most) = 89.5f, R(tanh_most) = 10.f;
    static const real R(exp_poly)[] = {               // (exp(r) - 1 - r) / r^2
        0x1p-1f, 0x1.555556p-3f, 0x1.5554e8p-5f, 0x1.1110e0p-7f, 0x1.6d43b0p-10f, 0x1.a1256cp-13f,
    };
    static const real R(log_poly)[] = {                // (log(1 + f) / s - 2) / s^2 in z
        0x1.555556p-1f, 0x1.9999ecp-2f, 0x1.245c40p-2f, 0x1.ddcf72p-3f,
    };
    static const real R(erfc_poly)[] = {               // exp(u^2) erfc(u) (1 + 2 u) in (u-3)/(u+3)
        0x1.40c522p+0f, -0x1.15c084p-3f, -0x1.85a112p-5f, 0x1.09832cp-3f, -0x1.e88d32p-4f,
        0x1.17cf94p-4f, -0x1.855798p-6f, 0x1.489188p-9f, 0x1.eb892ap-10f, -0x1.80ded4p-11f,
        -0x1.842196p-14f, 0x1.4fdb64p-14f,
    };
    static const real R(least_normal) = 0x1p-126f, R(least_positive) = 0x1p-149f;
    static const real R(lift) = 0x1p25f, R(lift_log2) = 25.f;
    static const uint32_t R(sqrt_half) = 0x3f3504f3u; // bits of sqrt(1/2)
    static const uint32_t R(fraction) = 0x007fffffu;
#else
    enum { R(MANTISSA) = 52, R(BIAS) = 1023 };
    static const real R(ln2_hi) = 0x1.62e42fee00000p-1, R(ln2_lo) = 0x1.a39ef35793c76p-33;
    static const real R(log2_e) = 0x1.71547652b82fep+0;
    static const real R(magic) = 0x1.8p+52;
    static const real R(exp_least) = -746., R(exp_most) = 710., R(tanh_most) = 20.;
    static const real R(exp_poly)[] = {
        0x1p-1, 0x1.5555555555557p-3, 0x1.5555555555556p-5, 0x1.11111111100bep-7,
        0x1.6c16c16c162c3p-10, 0x1.a01a01abf85abp-13, 0x1.a01a01a6e1e2ap-16, 0x1.71de01fdbf9cap-19,
        0x1.27e4db46cddd1p-22, 0x1.af4e554377204p-26, 0x1.1f7340dbc337ep-29,
    };
    static const real R(log_poly)[] = {
        0x1.5555555555555p-1, 0x1.9999999999a38p-2, 0x1.2492492476c87p-2, 0x1.c71c720160b47p-3,
        0x1.745cf901605f7p-3, 0x1.3b1c360763b8ap-3, 0x1.0fbe83c2cbcf3p-3, 0x1.0c04595972ab8p-3,
    };
    static const real R(erfc_poly)[] = {
        0x1.40c522d7e4987p+0, -0x1.15c084bb9e8f2p-3, -0x1.85a15c58aa5e6p-5, 0x1.098366a5b466cp-3,
        -0x1.e88b803a49228p-4, 0x1.17ca2877f2532p-4, -0x1.8574c40bd189cp-6, 0x1.4b884e41eebcbp-9,
        0x1.ef1bdd4ca47a3p-10, -0x1.98db50d72f6fdp-11, -0x1.b91279aaf4f8dp-14, 0x1.065a34115a389p-13,
        0x1.4c2781340ddffp-18, -0x1.513b482a54a1dp-16, -0x1.88ba0a324beaap-21, 0x1.d20f41dbcb1c9p-19,
        0x1.7f26fd7caec6cp-22, -0x1.4b0fad3f74c42p-21, -0x1.3015c7bf14f85p-23, 0x1.b58741910ab39p-24,
        0x1.67206d83c9b4dp-25, -0x1.c9e3f1cd92f5bp-27, -0x1.24124a7979a5cp-27, 0x1.0fbd1ff90e1c8p-30,
        0x1.e750cac4778d3p-31,
    };
    static const real R(least_normal) = 0x1p-1022, R(least_positive) = 0x1p-1074;
    static const real R(lift) = 0x1p54, R(lift_log2) = 54.;
    static const uint64_t R(sqrt_half) = 0x3fe6a09e667f3bcdu;
    static const uint64_t R(fraction) = 0x000fffffffffffffu;
#endif

// a_0 + a_1 x + ... by Horner's rule
#define POLYNOMIAL(a, x) R(polynomial)(a, (int)(sizeof(a) / sizeof(a[0])), x)
INLINE V R(polynomial)(const real *a, int n, V x)
{
    V sum = vset1(a[n - 1]);
    for (int i = n - 2; i >= 0; i--)
        sum = vfma(sum, x, vset1(a[i]));
    return sum;
}

// 2^n for whole n in the exponent's range: the low bits of n + magic are n
INLINE V R(pow2)(V n)
{
    VI bits = vbits(vadd(n, vset1(R(magic))));
    return vreal(iadd(ishl(bits, R(MANTISSA)), ishl(iset1(R(BIAS)), R(MANTISSA))));
}

// x = n ln 2 + r with |r| <= ln(2)/2; returns p = exp(r) - 1
INLINE V R(exp_reduced)(V x, V *n)
{
    *n = vsub(vfma(x, vset1(R(log2_e)), vset1(R(magic))), vset1(R(magic)));
    V r = vfma(*n, vset1(-LN2_HI), x);
    r = vfma(*n, vset1(-LN2_LO), r);
    return vfma(vmul(r, r), POLYNOMIAL(R(exp_poly), r), r);
}

INLINE V R(vexp)(V x)
{
    // Beyond these limits the result is 0 or inf; the order of operands lets NaN through.
    x = vmin(vset1(R(exp_most)), vmax(vset1(R(exp_least)), x));
    V n, p = R(exp_reduced)(x, &n);
    // 2^n alone may be out of range where the result is not: two factors.
    V half = vsub(vfma(n, vset1((real)0.5), vset1(R(magic))), vset1(R(magic)));
    V result = vmul(vadd(p, vset1(1)), R(pow2)(half));
    return vmul(result, R(pow2)(vsub(n, half)));
}

INLINE V R(vlog)(V x)
{
    // x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); subnormal x is lifted first
    V normal = vselect_lt(x, vset1(R(least_normal)), vmul(x, vset1(R(lift))), x);
    V k = vselect_lt(x, vset1(R(least_normal)), vset1(-R(lift_log2)), vset1(0));
    VI above = isub(vbits(normal), iset1(R(sqrt_half)));
    V f = vsub(vreal(iadd(iand(above, iset1(R(fraction))), iset1(R(sqrt_half)))), vset1(1));
    // The exponent, shifted to be positive, becomes a number by way of the bits of 2^MANTISSA.
    VI exponent = ishr(iadd(above, ishl(iset1(2 * R(BIAS) + 2), R(MANTISSA))), R(MANTISSA));
    V two_m = vset1((real)((uint64_t)1 << R(MANTISSA)));
    V shifted = vsub(vreal(ior(exponent, vbits(two_m))), two_m);
    k = vadd(k, vsub(shifted, vset1(2 * R(BIAS) + 2)));

    // log(1 + f) = f - f^2/2 + s (f^2/2 + z P(z)) with s = f / (2 + f), z = s^2
    V s = vdiv(f, vadd(f, vset1(2))), z = vmul(s, s), half = vmul(vmul(f, f), vset1((real)0.5));
    V tail = vmul(s, vfma(z, POLYNOMIAL(R(log_poly), z), half));
    tail = vfma(k, vset1(LN2_LO), tail);
    V result = vfma(k, vset1(LN2_HI), vsub(f, vsub(half, tail)));

    V bad = vselect_lt(x, vset1(0), vset1((real)NAN), vset1((real)-INFINITY));
    result = vselect_lt(x, vset1(R(least_positive)), bad, result);
    return vselect_lt(x, vset1((real)INFINITY), result, x); // inf and NaN are their own logarithm
}

// tanh(x) = e / (e + 2) with e = exp(2x) - 1, which keeps its precision near 0
INLINE V R(vtanh)(V x)
{
    x = vmin(vset1(R(tanh_most)), vmax(vset1(-R(tanh_most)), x)); // 1 to the last bit beyond
    V n, p = R(exp_reduced)(vadd(x, x), &n), scale = R(pow2)(n);
    V e = vfma(scale, p, vsub(scale, vset1(1)));
    return vdiv(e, vadd(e, vset1(2)));
}

INLINE V R(vlogistic)(V x)
{
    return vdiv(vset1(1), vadd(vset1(1), R(vexp)(vsub(vset1(0), x))));
}

// log(1 + e) for e in [0, 1], to full precision where e is small
// (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.14.1)
INLINE V R(vlog1p)(V e)
{
    V u = vadd(vset1(1), e), back = vsub(u, vset1(1));
    V factor = vdiv(e, vmax(back, vset1(R(least_normal))));
    return vselect_lt(vset1(0), back, vmul(R(vlog)(u), factor), e);
}

// The share of the standard normal distribution below x, and its density e sqrt(2 pi) at x;
// erfc(u) = exp(-u^2) P((u-3)/(u+3)) / (1 + 2 u) as in M. Shepherd and J. Laframboise, "Chebyshev
// approximation of (1+2x) exp(x^2) erfc x", 1981
INLINE V R(vnormal_cdf)(V x, V *e)
{
    V u = vmul(vmax(x, vsub(vset1(0), x)), vset1((real)0.70710678118654752440));
    *e = R(vexp)(vmul(vmul(x, x), vset1((real)-0.5)));
    V t = vdiv(vsub(u, vset1(3)), vadd(u, vset1(3)));
    V tail = vmul(vmul(*e, vset1((real)0.5)),
                  vdiv(POLYNOMIAL(R(erfc_poly), t), vadd(vset1(1), vadd(u, u))));
    return vselect_lt(vset1(0), x, vsub(vset1(1), tail), tail);
}

// x, or 0 where it is smaller than `least`; NaN stays.
INLINE V R(at_least)(V x, real least)
{
    return vselect_lt(vmax(x, vsub(vset1(0), x)), vset1(least), vset1(0), x);
}

#undef POLYNOMIAL
#undef LN2_HI
#undef LN2_LO
