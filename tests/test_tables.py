"""Columns of numbers and of text: which is which, what they become, and what cannot be used."""

import csv
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import fastmlp
from fastmlp import data, tables
from fastmlp.preprocessing import Preprocessing
from fastmlp.sources import read_rows, read_samples


def cells(**columns):
    """Cells as a file t.csv holds them: the header is line 1."""
    (n,) = {len(column) for column in columns.values()}
    return data.Cells("t.csv", columns, list(range(2, n + 2)))


def refused(what, function, *arguments, **named):
    with pytest.raises(fastmlp.FileFormatError) as caught:
        function(*arguments, **named)
    assert what in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("column", "categories"),
    [
        (["1", "-2.5", "1e3", "+4", "0"], None),
        (["b", "a", "b", "C"], ["C", "a", "b"]),
        (["True", "False", "True"], ["False", "True"]),
        (["0", "1", "1"], None),
        (["one"] * 3, ["one"]),
        (["A12", "113803", "B"], ["113803", "A12", "B"]),  # one of three is a number
        (["größe", "ß", "✓"], ["größe", "ß", "✓"]),
        (["1_0", "2_0"], ["1_0", "2_0"]),  # Python's numbers, but nobody else's
        (["None", "none", "-"], ["-", "None", "none"]),  # words, not missing values
    ],
    ids=repr,
)
def test_kinds_of_columns(column, categories):
    found = tables.learn_categories(cells(x=column), ["x"])
    assert found == ({} if categories is None else {"x": categories})


def test_what_the_user_calls_text():
    given = cells(zip=["01", "1", "01", "NA"], iso=["NA", "DE", "null", "nan"])
    assert tables.learn_categories(given, ["zip", "iso"], ["zip", "iso"]) == {
        "zip": ["01", "1", "NA"],
        "iso": ["DE", "NA", "nan", "null"],
    }
    X = tables.to_matrix(given, ["iso"], {"iso": ["DE", "NA", "nan", "null"]})
    np.testing.assert_array_equal(X, [[1], [0], [3], [2]])


BAD_COLUMNS = {
    "one word among numbers": (
        ["1", "2", "x", "4"],
        "t.csv, line 4, column 'c d': 'x' is not a number, as 3 of the 4 cells of the column are; "
        "--text 'c d' takes all of them as text",
    ),
    "half and half": (["a", "1"], "line 2, column 'c d': 'a' is not a number, as 1 of the 2"),
    "empty": (
        ["1", "", "3", "NA", ""],
        "line 3, column 'c d': the cell is empty, and so are 2 more of this column; "
        "--ignore 'c d' leaves the column out",
    ),
    "NaN": (["NaN", "1"], "line 2, column 'c d': 'NaN' stands for a missing value; --ignore"),
    "NA in text": (["a", "b", "NA"], "line 4, column 'c d': 'NA' stands for a missing value"),
    "two NA": (["a", "n/a", "<NA>"], "'n/a' stands for a missing value, and so is 1 more of this"),
    "nothing at all": (["", ""], "line 2, column 'c d': the cell is empty, and so is 1 more"),
    "infinity": (["1", "-inf", "2"], "line 3, column 'c d': '-inf' is not finite"),
    "overflow": (["1", "2", "1e999"], "line 4, column 'c d': '1e999' is not finite"),
    "decimal comma": (["1.5", "1,5"], "line 3, column 'c d': '1,5' is not a number"),
    "names": (
        [f"Dr. {i}" for i in range(30)],
        "t.csv, column 'c d': 30 different texts in 30 rows are too many to be categories, "
        "which may be 15 here; --ignore 'c d' leaves the column out",
    ),
    "a long cell": (["x" * 99, "1"], f"'{'x' * 39}…' is not a number"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_bad_columns(case):
    column, what = BAD_COLUMNS[case]
    refused(what, tables.learn_categories, cells(**{"c d": column}), ["c d"])


def test_how_many_categories_there_may_be():
    for n_rows, most in ((10, 10), (15, 10), (30, 15), (5000, 1000)):
        names = [f"n{i}" for i in range(most + 1)]
        column = [names[i % most] for i in range(n_rows)]
        assert len(tables.learn_categories(cells(x=column), ["x"])["x"]) == most
        if most < n_rows:
            column[0], column[-1] = names[-1], names[0]
            assert len(set(column)) == most + 1
            refused(f"which may be {most} here", tables.learn_categories, cells(x=column), ["x"])
            # calling it text does not help
            refused("too many", tables.learn_categories, cells(x=column), ["x"], ["x"])


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("Q", "'Q' is none of the categories that the model knows: 'C', 'S'"),
        ("s", "'s' is none of"),
        ("7", "7 is a number, expected one of the categories that the model knows: 'C', 'S'"),
        ("", "the cell is empty"),
        ("NaN", "'NaN' stands for a missing value"),
    ],
)
def test_categories_the_model_does_not_know(cell, what):
    given = cells(a=["1", "2", "3"], port=["S", "C", cell])
    refused(
        f"t.csv, line 4, column 'port': {what}",
        tables.to_matrix, given, ["a", "port"], {"port": ["C", "S"]},
    )  # fmt: skip


def test_many_categories_are_not_all_listed():
    known = [f"k{i}" for i in range(300)]
    what = "none of the categories that the model knows: 'k0', 'k1'"
    with pytest.raises(fastmlp.FileFormatError, match=what) as caught:
        tables.to_matrix(cells(x=["?"]), ["x"], {"x": known})
    assert str(caught.value).endswith("'k9' and 290 more")


@pytest.mark.parametrize("cell", ["", "nan", "x", "1_0", "inf", "1,5"])
def test_text_where_the_model_expects_numbers(cell):
    given = cells(a=["1", "2", cell])
    refused("t.csv, line 4, column 'a': ", tables.to_matrix, given, ["a"], {})
    refused("t.csv, line 4, column 'a': ", tables.numbers, given, "a")


LABELS = {
    "fractions": (["1", "2.5"], "line 3, column 'y': 2.5 is not the number of a class; --regre"),
    "many numbers": (
        [str(i % 21) for i in range(100)],
        "t.csv, column 'y': 21 different numbers in 100 rows are too many to be classes; "
        "--regression learns numbers, --text 'y' takes them as names",
    ),
    "many names": ([f"n{i}" for i in range(11)], "11 different texts in 11 rows are too many"),
    "missing": (["a", "", "b"], "line 3, column 'y': the cell is empty"),
    "NA": (["1", "0", "NA"], "line 4, column 'y': 'NA' stands for a missing value"),
}


@pytest.mark.parametrize("case", LABELS)
def test_bad_labels(case):
    column, what = LABELS[case]
    refused(what, tables.labels, cells(y=column), "y")


@pytest.mark.parametrize(
    "column", [["0.0", "1.0"], ["1", "x", "2.5"], [str(i % 20) for i in range(100)]]
)
def test_good_labels(column):
    assert tables.labels(cells(y=column), "y") == column


def test_labels_called_text():
    assert tables.labels(cells(y=["0.5", "NA"]), "y", is_text=True) == ["0.5", "NA"]
    refused("line 3", tables.labels, cells(y=["0.5", ""]), "y", is_text=True)


# Python before 3.13 does not quote a lone carriage return when it writes a cell with one.
LETTERS = st.characters(codec="utf-8", exclude_characters="\0\r")
WORDS = st.text(LETTERS, max_size=8).map(str.strip)
NAMES = WORDS.filter(bool)
CATEGORIES = NAMES.filter(lambda word: word.lower() not in tables.MISSING)
NUMBERS = st.floats(-1e30, 1e30).map(repr)


def is_float(word):
    try:
        return bool(float(word)) or True
    except ValueError:
        return False


@st.composite
def any_tables(draw):
    """Columns by name, and which of them are text."""
    n = draw(st.integers(2, 10))  # of up to ten rows each may be a class
    names = draw(st.lists(NAMES, min_size=2, max_size=5, unique=True))
    is_text = {name: draw(st.booleans()) for name in names}
    words = CATEGORIES.filter(lambda word: not is_float(word))
    columns = {}
    for name in names:
        some = st.sampled_from(draw(st.lists(words, min_size=1, max_size=10)))
        columns[name] = draw(st.lists(some if is_text[name] else NUMBERS, min_size=n, max_size=n))
    return columns, is_text


def write(path, columns, quoting=csv.QUOTE_MINIMAL, bom=False, end="\n"):
    with path.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=end)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@given(
    table=any_tables(),
    scaling=st.sampled_from(["standard", "range", "none"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    seed=st.randoms(use_true_random=False),
)
def test_round_trip(table, scaling, quoting, bom, end, seed):
    """What is learnt from any table gives its inputs back from a file in any order."""
    columns, is_text = table
    all_names = list(columns)
    target, features = all_names[0], all_names[1:]
    assume(not all(map(is_float, all_names)))  # as a header that is refused, see test_data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        write(path, columns, quoting, bom, end)
        samples = read_samples(str(path), target=target, text=[target] * (not is_text[target]))
        seed.shuffle(all_names)
        more = {"another column": ["?"] * len(columns[target])}
        without = {name: columns[name] for name in all_names if name != target}
        write(path, without | more if "another column" not in columns else columns)
        found = Preprocessing.learn(
            samples.rows.X, ["a", "b"], features, scaling, categories=samples.rows.categories
        )
        n_inputs = sum(len(set(columns[name])) if is_text[name] else 1 for name in features)
        metadata = json.loads(json.dumps(found.to_metadata()))
        again = Preprocessing.from_metadata(metadata, n_inputs, 2)
        assert again == found
        rows = read_rows(str(path), again)
    np.testing.assert_array_equal(rows.X, samples.rows.X)
    inputs = rows.inputs(again, "float64")
    assert inputs.shape == (len(columns[target]), n_inputs)
    assert list(samples.targets) == columns[target]
    start = 0
    for i, name in enumerate(features):
        if is_text[name]:
            known = again.categories[name]
            part = inputs[:, start : start + len(known)]
            assert set(part.ravel()) <= {0, 1} and (part.sum(axis=1) == 1).all()
            assert [known[k] for k in part.argmax(axis=1)] == columns[name]
            start += len(known)
        else:
            shift = again.shift[i if len(again.shift) > 1 else 0]
            scale = again.scale[i if len(again.scale) > 1 else 0]
            expected = (np.array(columns[name], float) - shift) / scale
            np.testing.assert_array_equal(inputs[:, start], expected)
            start += 1
    assert start == n_inputs
