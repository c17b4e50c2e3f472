"""exp, log, tanh and logistic of the fused engine against a wider type."""

import functools

import numpy as np
import pytest
from levels import DTYPES, LEVELS, same_bits
from tolerances import roundoff

from fastmlp._core import fused_engine, vector_math

EXACT = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
}
WIDER = {"float32": np.float64, "float64": np.longdouble}
functions = pytest.mark.parametrize("function", EXACT)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def computed(level, function, x):
    out = np.full_like(x, np.nan)
    vector_math(fused_engine(level), function, out, x, x.dtype.name)
    return out


@functools.cache
def arguments(dtype):
    """A thousandth of all float32 bit patterns, or 2 million float64; and all hard places."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    most = np.log(2.0) * info.maxexp
    least = np.log(2.0) * (info.minexp - info.nmant)
    # turns of the reductions; where results leave the range, become subnormal, become zero
    ln2 = np.log(2.0) * np.concatenate([np.arange(-40, 40.5, 0.5), [info.minexp, info.maxexp]])
    places = [
        0, 1, np.sqrt(0.5), np.sqrt(2), 10, 20, most, least, np.log(2.0) * info.minexp,
        info.max, info.tiny, info.smallest_subnormal, np.inf, np.nan,
        *ln2, *ln2 / 2, *2.0 ** np.arange(-30, 30),
    ]  # fmt: skip
    places = np.array([*places, *np.negative(places)]).astype(dtype)
    bits = {"float32": "u4", "float64": "u8"}[dtype]
    near = (places.view(bits) + np.arange(-64, 65)[:, None].astype(bits)).view(dtype).ravel()
    if dtype == "float32":
        wide = np.arange(0, 2**32, 997, np.uint64).astype(np.uint32).view(dtype)
    else:
        n = 400_000
        wide = np.concatenate([
            rng.integers(0, 2**64, n, np.uint64).view(dtype), rng.normal(size=n),
            rng.uniform(-25, 25, n), rng.uniform(-760, 720, n), 1 + 0.5 * rng.normal(size=n),
        ])  # fmt: skip
    return np.concatenate([near, wide])


def error_bound(function, expected, dtype):
    """How far from the exact value a result may be.

    exp and log are within 2 ulp, where the ulp of what is below the normal numbers is theirs.
    As a relative error these are 4u. logistic is 1 / (1 + e): the error of e = exp(-x), weighed
    by e / (1 + e) < 1, an addition and a division, 4u + u + u; where exp(-x) overflows it is 0,
    less than the smallest normal number from the exact one. tanh is e / (e + 2), which for
    e = exp(2x) - 1 > -1 no more than doubles the relative error of e, an addition and a division:
    2 * 4u + u + u.
    """
    u, size = roundoff(dtype), np.abs(expected)
    if function == "logistic":
        return 6 * u * size + np.finfo(dtype).tiny
    if function == "tanh":
        return 10 * u * size + np.finfo(dtype).smallest_subnormal
    return 2 * np.spacing(np.minimum(size, np.finfo(dtype).max).astype(dtype)).astype(size.dtype)


@functions
@dtypes
def test_accuracy(function, dtype):
    x, wider = arguments(dtype), WIDER[dtype]
    with np.errstate(all="ignore"):
        expected = EXACT[function](x.astype(wider))
        actual = computed(LEVELS[0], function, x)
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
        # infinity is what would come after the largest number
        number = ~np.isnan(expected)
        infinity = wider(2) ** np.finfo(dtype).maxexp
        got, wanted = (np.clip(a.astype(wider)[number], -infinity, infinity)
                       for a in (actual, expected))  # fmt: skip
        bound = error_bound(function, wanted, dtype) + np.finfo(wider).eps * np.abs(wanted)
    error = np.abs(got - wanted)
    worst = np.argmax(error / bound)
    assert np.all(error <= bound), (
        f"{function}({x[number][worst]!r}) is {got[worst]!r}, expected {wanted[worst]!r}"
    )


@dtypes
def test_tanh_is_1_where_it_rounds_to_that(dtype):
    x = np.abs(arguments(dtype))
    x = x[x >= {"float32": 10, "float64": 20}[dtype]]
    assert len(x) > 1000
    assert np.all(computed(LEVELS[0], "tanh", x) == 1)
    assert np.all(computed(LEVELS[0], "tanh", -x) == -1)


@pytest.mark.parametrize("function", [*EXACT, "normal_cdf"])
@dtypes
@pytest.mark.parametrize("level", LEVELS[1:])
def test_every_level_gives_the_same_bits(level, function, dtype):
    x = arguments(dtype)
    assert same_bits(computed(level, function, x), computed(LEVELS[0], function, x))


@functions
@dtypes
@pytest.mark.parametrize("level", LEVELS)
def test_special_values_are_those_of_numpy(level, function, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -1e-40, -1.0, 1e-300], dtype)
    with np.errstate(all="ignore"):
        expected = EXACT[function](x)
    actual = computed(level, function, x)
    np.testing.assert_allclose(actual, expected, rtol=10 * roundoff(dtype), atol=0)
    assert computed(level, "exp", np.zeros(1, dtype)) == 1
    assert computed(level, "log", np.ones(1, dtype)) == 0


@functions
@dtypes
@pytest.mark.parametrize("level", LEVELS)
def test_every_length_and_nothing_beyond_it(level, function, dtype):
    x = np.random.default_rng(0).uniform(0.1, 3, 41).astype(dtype)
    whole = computed(level, function, x)
    for n in range(41):
        out = np.full(64, np.nan, dtype)
        vector_math(fused_engine(level), function, out[1 : n + 1], x[:n], dtype)
        assert same_bits(out[1 : n + 1], whole[:n]), f"length {n}"
        assert np.isnan(out[0]) and np.isnan(out[n + 1 :]).all(), f"length {n}"
