"""Activations and losses of single numbers, for the BLAS engine: formulas to read."""

from libc.math cimport erfc, exp, fabs, log, log1p, tanh

from fastmlp._csrc cimport (
    FM_ABSOLUTE_ERROR, FM_BINARY_CROSS_ENTROPY, FM_GELU, FM_HUBER, FM_LEAK, FM_LEAKY_RELU, FM_LOGISTIC,
    FM_POISSON, FM_QUANTILE, FM_RELU, FM_SILU, FM_SQUARED_ERROR, FM_TANH,
)

cdef inline double logistic(double z) noexcept nogil:
    return 1 / (1 + exp(-z))


cdef inline double activate(double z, int activation, double *slope) noexcept nogil:
    # activation(z) and its slope
    cdef double p
    if activation == FM_RELU:
        slope[0] = z > 0
        return 0 if z <= 0 else z
    if activation == FM_LEAKY_RELU:
        slope[0] = 1 if z > 0 else FM_LEAK
        return slope[0] * z
    if activation == FM_TANH:
        p = tanh(z)
        slope[0] = 1 - p * p
        return p
    if activation == FM_LOGISTIC:
        p = logistic(z)
        slope[0] = p * (1 - p)
        return p
    if activation == FM_SILU:
        p = logistic(z)
        slope[0] = p + z * p * (1 - p)
        return z * p
    if activation == FM_GELU:  # z times the share of the normal distribution below z
        p = 0.5 * erfc(-z * 0.70710678118654752440)
        slope[0] = p + z * exp(-0.5 * z * z) * 0.39894228040143267794
        return z * p
    slope[0] = 1
    return z


cdef inline double loss_of_value(double z, double t, int loss, double parameter,
                                 double *derivative) noexcept nogil:
    # the loss of an output z for a target t, and its derivative
    cdef double error = z - t, e
    if loss == FM_BINARY_CROSS_ENTROPY:
        derivative[0] = logistic(z) - t
        return (z if z > 0 else 0) - t * z + log1p(exp(-fabs(z)))
    if loss == FM_POISSON:
        derivative[0] = exp(z) - t
        return derivative[0] + (t * (log(t) - z) if t > 0 else 0)
    if loss == FM_HUBER:
        e = min(max(error, -parameter), parameter)
        derivative[0] = e
        return e * (error - 0.5 * e)
    if loss == FM_ABSOLUTE_ERROR:
        derivative[0] = (error > 0) - (error < 0)
        return fabs(error)
    if loss == FM_QUANTILE:  # what is too low counts by the parameter, too high by the rest
        derivative[0] = 0 if error == 0 else -parameter if error < 0 else 1 - parameter
        return derivative[0] * error
    derivative[0] = error
    return 0.5 * error * error
