"""What lies between a file and a network: scaling and label names."""

import json

import numpy as np
import pytest

from fastmlp.preprocessing import SCALINGS, Preprocessing, Target, encode_labels

EPS = np.finfo(float).eps


def table(n=50):
    """Features of very different size, one of them constant (and 0.1 is no binary fraction)."""
    rng = np.random.default_rng(0)
    return np.column_stack([rng.normal(5, 2, n), rng.uniform(-1e6, 1e6, n), np.full(n, 0.1)])


def learn(X, scaling):
    return Preprocessing.learn(X, ["no", "yes"], None, scaling)


def test_standard():
    X = table()
    scaled = learn(X, "standard").apply(X)
    assert scaled.dtype == np.float64
    # a mean of n terms of size at most max|X| is off by n roundoffs of it, and so is its effect
    off = len(X) * EPS * np.abs(X).max(axis=0) / np.where(X.std(axis=0) > EPS, X.std(axis=0), 1)
    assert (np.abs(scaled.mean(axis=0)) <= 2 * off).all()
    np.testing.assert_allclose(scaled.var(axis=0), [1, 1, 0], rtol=0, atol=4 * off.max())


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-8, 1e300])
@pytest.mark.parametrize("n", [1, 3, 1000])
def test_a_constant_feature_is_only_shifted(value, n):
    X = np.full((n, 1), value)
    found = learn(X, "standard")
    assert found.scale == [1.0]
    assert abs(found.apply(X)).max() <= n * EPS * abs(value)
    assert learn(X, "range").scale == [1.0] and learn(X, "range").apply(X).max() == 0


def test_range_is_one_for_all_features():
    X = table()
    found = learn(X, "range")
    assert found.shift == [X.min()] and found.scale == [X.max() - X.min()]
    scaled = found.apply(X)
    assert scaled.min() == 0 and scaled.max() == 1
    np.testing.assert_array_equal(scaled, (X - X.min()) / (X.max() - X.min()))


def test_none_changes_nothing():
    np.testing.assert_array_equal(learn(table(), "none").apply(table()), table())


def test_new_rows_are_scaled_as_the_old_ones():
    X = table()
    found = learn(X[:30], "standard")
    np.testing.assert_array_equal(found.apply(X)[:30], found.apply(X[:30]))
    with pytest.raises(ValueError, match="scaling is 'max', expected one of standard, range, none"):
        learn(X, "max")


@pytest.mark.parametrize("scaling", ["standard", "range"])
def test_numbers_too_large_to_scale(scaling):
    with pytest.raises(ValueError, match=f"numbers too large for {scaling} scaling"):
        learn(np.array([[1.7e308], [-1.7e308]]), scaling)


@pytest.mark.parametrize("features", [None, ["a", "ü", "c d"]])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_metadata_round_trip(scaling, features):
    found = Preprocessing.learn(table(), ["nein", "ja ✓"], features, scaling)
    metadata = json.loads(json.dumps(found.to_metadata()))
    again = Preprocessing.from_metadata(metadata, 3, 2)
    assert again == found
    np.testing.assert_array_equal(again.apply(table()), found.apply(table()))


GOOD_METADATA = {"labels": ["a", "b"], "features": None, "shift": [0.0], "scale": [1.0]}


@pytest.mark.parametrize(
    "metadata", [None, [], "text", 3, {}, {"labels": ["a", "b"]}, GOOD_METADATA | {"more": 1}]
)
def test_metadata_of_another_origin(metadata):
    with pytest.raises(ValueError, match="it has no labels and scaling"):
        Preprocessing.from_metadata(metadata, 3, 2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *[
            ({"labels": bad}, "labels are not a list of names")
            for bad in ("ab", ["a", 1], None, ["a", "\ud800"])
        ],
        ({"labels": ["a"]}, "it has 1 labels where its sizes ask for 2"),
        *[({"features": bad}, "features are not a list of names") for bad in ("abc", [1, 2, 3])],
        ({"features": list("abcd")}, "it has 4 features where its sizes ask for 3"),
        *[
            ({name: bad}, f"its {name} is not a list of 1 or 3 numbers")
            for bad in ([], [1.0] * 2, [1.0] * 4, 1.0, ["1"], [[1.0]], None, [10**400], [True], {})
            for name in ("shift", "scale")
        ],
        ({"scale": [1.0, [1.0], 1.0]}, "inhomogeneous"),
        ({"shift": [float("nan")]}, "its shift holds a number that cannot be"),
        *[
            ({"scale": bad}, "its scale holds a number that cannot be")
            for bad in ([0], [1, 0, 1], [float("inf")])
        ],
    ],
    ids=repr,
)
def test_bad_metadata(change, what):
    Preprocessing.from_metadata(GOOD_METADATA, 3, 2)
    with pytest.raises(ValueError, match=what):
        Preprocessing.from_metadata(GOOD_METADATA | change, 3, 2)


TEXT = {"labels": ["a", "b"], "features": ["n", "w"], "shift": [5.0, 0.0], "scale": [2.0, 1.0],
        "categories": {"w": ["x", "y", "z"]}}  # fmt: skip
VALUES = GOOD_METADATA | {"labels": None, "target": {"name": "rent", "shift": 3.0, "scale": -0.5}}


def test_categories_become_inputs():
    X = np.array([[1.0, 2.0], [3.0, 0.0], [8.0, 2.0]])
    for scaling, N in (("standard", (X[:, 0] - 4) / X[:, 0].std()), ("range", (X[:, 0] - 1) / 7)):
        found = Preprocessing.learn(
            X, ["a", "b"], ["n", "w"], scaling, categories=TEXT["categories"]
        )
        assert found.widths == [1, 3]
        inputs = found.expand(found.apply(X, "float32"))
        expected = np.column_stack([N, np.eye(3)[[2, 0, 2]]]).astype("float32")
        np.testing.assert_array_equal(inputs, expected, strict=True)
        metadata = json.loads(json.dumps(found.to_metadata()))
        assert Preprocessing.from_metadata(metadata, 4, 2) == found
    assert found.described() == ["n", "w (x, y, z)"]


def test_what_does_not_fit_becomes_infinite():
    found = learn(np.array([[0.0], [1.0]]), "none")
    assert found.apply(np.array([[1e300]]), "float32") == np.inf


def test_target():
    y = np.array([1e6, 1e6 + 4])
    target = Target.learn("rent", y)
    assert target == Target("rent", 1e6 + 2, 2.0)
    np.testing.assert_array_equal(target.standardise(y), [-1, 1])
    restored = target.restore(np.array([-1, 0.5], np.float32))
    np.testing.assert_array_equal(restored, [1e6, 1e6 + 3], strict=True)
    found = Preprocessing.learn(table(), None, None, "none", target=target)
    metadata = json.loads(json.dumps(found.to_metadata()))
    assert Preprocessing.from_metadata(metadata, 3, 1) == found
    for y, what in (
        ([3, 3], "'rent' is 3 in every row"),
        ([1e308, -1e308], "too large"),
    ):
        with pytest.raises(ValueError, match=what):
            Target.learn("rent", np.array(y, float))


def test_metadata_without_categories_is_that_of_before():
    assert set(learn(table(), "standard").to_metadata()) == set(GOOD_METADATA)


@pytest.mark.parametrize(
    ("metadata", "n_outputs", "what"),
    [
        *[
            (TEXT | {"categories": bad}, 2, "categories do not belong to its features")
            for bad in (None, ["w"], "w", {"v": ["x"]}, {"w": ["x", "y", "z"], "v": ["x"]})
        ],
        *[
            (TEXT | {"categories": {"w": bad}}, 2, "categories of 'w' are not a list of names")
            for bad in ("xyz", None, 3, ["x", 1, "z"], {"x": 1})
        ],
        (TEXT | {"categories": {"w": []}}, 2, "it has 0 categories of 'w'"),
        (TEXT | {"categories": {"w": ["x", "x", "z"]}}, 2, "categories of 'w' repeat a name"),
        (TEXT | {"categories": {"w": ["x", "z"]}}, 2, "it has 3 inputs where its sizes ask for 4"),
        (TEXT | {"features": None}, 2, "categories do not belong to its features"),
        (TEXT | {"features": "nw"}, 2, "features are not a list of names"),
        (TEXT | {"features": [["n"], "w"]}, 2, "features are not a list of names"),
        (TEXT | {"shift": [0.0]}, 2, "its shift is not a list of"),  # would change the categories
        (TEXT | {"shift": [5.0, 1.0]}, 2, "its shift holds a number that cannot be"),
        (TEXT | {"scale": [2.0, 2.0]}, 2, "its scale holds a number that cannot be"),
        (VALUES, 2, "its target is not one column of numbers"),
        (VALUES | {"labels": ["a"]}, 1, "it has labels and a target of numbers"),
        (GOOD_METADATA | {"labels": None}, 1, "labels are not a list of names"),
        *[
            (VALUES | {"target": bad}, 1, "its target is not one column of numbers")
            for bad in (
                None, {}, "rent", ["rent", 1.0, 1.0],
                {"name": "rent", "shift": 1.0},
                {"name": 3, "shift": 1.0, "scale": 1.0},
                {"name": "rent", "shift": "1", "scale": 1.0},
                {"name": "rent", "shift": 1.0, "scale": 0.0},
                {"name": "rent", "shift": float("nan"), "scale": 1.0},
                {"name": "rent", "shift": 1.0, "scale": [1.0]},
                {"name": "rent", "shift": 1.0, "scale": 1.0, "more": 1},
            )
        ],
    ],
    ids=repr,
)  # fmt: skip
def test_bad_metadata_of_tables(metadata, n_outputs, what):
    Preprocessing.from_metadata(TEXT, 4, 2)
    Preprocessing.from_metadata(VALUES, 4, 1)
    with pytest.raises(ValueError, match=what):
        Preprocessing.from_metadata(metadata, 4, n_outputs)


@pytest.mark.parametrize(
    ("values", "numbers", "names"),
    [
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        (["10", "9", "-1", "10"], [2, 1, 0, 2], ["-1", "9", "10"]),
        (["10", "9", "x"], [0, 1, 2], ["10", "9", "x"]),
        (["01", "1", "1"], [0, 1, 1], ["01", "1"]),
        (["010", "9"], [0, 1], ["010", "9"]),
        (["1_0", "10"], [1, 0], ["10", "1_0"]),
        (["é", "e", "✓"], [1, 0, 2], ["e", "é", "✓"]),
        ([str(10**30), str(10**30 + 1)], [0, 1], [str(10**30), str(10**30 + 1)]),
        (np.array([7, -2, 7], np.int8), [1, 0, 1], ["-2", "7"]),
        (np.array([2**64 - 1, 0], np.uint64), [1, 0], ["0", str(2**64 - 1)]),
        (np.array([2.0, -1.0, 2.0]), [1, 0, 1], ["-1", "2"]),
        (np.array([True, False]), [1, 0], ["0", "1"]),
        (np.array([b"no", "né".encode()]), [0, 1], ["no", "né"]),
    ],
    ids=repr,
)
def test_encode_labels(values, numbers, names):
    actual, classes = encode_labels(values)
    assert actual.dtype == np.int64 and classes == names
    np.testing.assert_array_equal(actual, numbers)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([], "there are no labels"),
        (["a", "a"], "the labels are all 'a': there is nothing to learn"),
        ([3], "the labels are all '3'"),
        ([[0, 1]], r"the labels have shape \(1, 2\), expected one a row"),
        (3, r"the labels have shape \(\)"),
        ([0.0, 1.5], r"the label of row 1 is 1\.5, expected integers or text"),
        ([0.0, np.nan], "the label of row 1 is nan"),
        ([np.inf, 0.0], "the label of row 0 is inf"),
        ([0.0, 1e30], r"the label of row 1 is 1e\+30"),
        ([0j, 1j], "the labels have dtype complex128"),
        (np.array([None, 1]), "the labels have dtype object"),
        (np.array(["2020-01-01"], "M8[D]"), "the labels have dtype datetime64"),
        (np.array([b"\xff", b"a"]), "the labels are bytes, and no UTF-8 text: invalid start byte"),
    ],
    ids=repr,
)
def test_bad_labels(values, what):
    with pytest.raises(ValueError, match=what):
        encode_labels(values)
