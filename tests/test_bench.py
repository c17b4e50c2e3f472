"""The race is fair: its flops are right, all contenders end at the same loss. Nothing is timed."""

import importlib
from pathlib import Path

import pytest

import fastmlp
from fastmlp import benchmark, engines
from fastmlp._core import fma_probe, fused_engine

BENCH = Path(__file__).parents[1] / "bench"
TINY = {"sizes": (5, 9, 3), "batch": 4, "rows": 32}
TRAINERS = [
    "fastmlp",
    "fastmlp blas",
    "NumPy",
    "scikit-learn",
    "PyTorch eager",
    "PyTorch compiled",
    "JAX",
]
PREDICTORS = [
    "fastmlp",
    "fastmlp forward",
    "NumPy",
    "scikit-learn",
    "PyTorch eager",
    "PyTorch traced",
    "JAX",
    "ONNX Runtime",
]
# What the peers warn of is no fault of ours.
THEIR_WARNINGS = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def bench(monkeypatch):
    """Import a module of bench/ by its name; with a rate at which a few steps teach something."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setattr(importlib.import_module("shapes").Shape, "learning_rate", 0.01)
    return importlib.import_module


def test_flops_of_training(bench):
    # forward 2 I O, dW 2 I O, dX 2 I O but for the first layer
    assert benchmark.training_flops([3, 4]) == 4 * 12
    assert benchmark.training_flops([64, 100, 10]) == 4 * 6400 + 6 * 1000
    Shape = bench("shapes").Shape
    assert Shape((13, 37, 3), 20, 100).flops_per_row == 4 * 13 * 37 + 6 * 37 * 3
    assert Shape((13, 37, 3), 1, 1, task="predict").flops_per_row == 2 * (13 * 37 + 37 * 3)


def test_shapes_are_whole_and_named_apart(bench, monkeypatch):
    shapes = bench("shapes")
    monkeypatch.undo()
    assert len(shapes.SHAPES) == sum(map(len, shapes.SETS.values()))
    for shape in shapes.SHAPES.values():
        assert shape.rows % shape.batch == 0
        assert shape.repeats >= 1
        assert 0 < shape.learning_rate <= 0.003
        if shape.rows * shape.sizes[0] < 10**6:
            X, y = shape.data()
            assert X.shape == (shape.rows, shape.sizes[0]) and X.dtype == shape.dtype
            assert y.min() >= 0 and y.max() < shape.sizes[-1]


def losses(bench, name, **changes):
    """Loss of the last of five epochs, begun as in a race."""
    contender, shapes, peers = bench("contender"), bench("shapes"), bench("peers")
    if reason := contender.missing(name):
        pytest.skip(reason)
    shape = shapes.Shape(**TINY | changes)
    X, y = shape.data()
    _, _, train = peers.CONTENDERS[name](shape, X, y, 1)
    return [train(1), train(4)]


@THEIR_WARNINGS
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", TRAINERS)
def test_all_end_at_the_same_loss(bench, name, optimizer):
    actual = losses(bench, name, dtype="float64", optimizer=optimizer)
    expected = losses(bench, "fastmlp blas", dtype="float64", optimizer=optimizer)
    assert expected[1] < 0.99 * expected[0]  # there was something to learn
    if name == "scikit-learn":  # its own order of the rows: near, no more
        assert actual == pytest.approx(expected, rel=bench("run").OWN_ORDER_BOUND)
    else:  # Adam's epsilon stands inside or outside of the bias correction
        assert actual == pytest.approx(expected, rel=1e-12 if optimizer == "sgd" else 1e-5)


@pytest.mark.parametrize("name", ["fastmlp", "NumPy", "scikit-learn", "PyTorch eager", "JAX"])
def test_a_full_batch_needs_no_order(bench, name):
    changes = {"batch": 32, "dtype": "float64"}
    expected = losses(bench, "fastmlp blas", **changes)
    rel = 0.1 if name == "scikit-learn" else 1e-12
    assert losses(bench, name, **changes) == pytest.approx(expected, rel=rel)


@THEIR_WARNINGS
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("name", PREDICTORS)
def test_all_predict_the_same(bench, name, n):
    contender, shapes, predict = bench("contender"), bench("shapes"), bench("predict")
    if reason := contender.missing(name):
        pytest.skip(reason)
    shape = shapes.Shape((5, 9, 3), n, n, task="predict")
    x, y = shape.data()
    _, _, calls = predict.CONTENDERS[name](shape, x, y, 1)
    expected = fastmlp.MLP((5, 9, 3), seed=0).predict_proba(x)[0, 0]
    assert calls(2) == pytest.approx(expected, rel=1e-5)


def test_the_lists_here_are_complete(bench):
    contender = bench("contender")
    assert contender.names("train") == TRAINERS
    assert contender.names("predict") == PREDICTORS


def test_a_race_of_processes(bench, monkeypatch):
    """Through the processes and their lines, as it is run."""
    shapes, run = bench("shapes"), bench("run")
    monkeypatch.setattr(run, "tqdm", lambda names, **_: names)
    rows = run.race(shapes.Shape(**TINY), 1, 1, ["fastmlp", "NumPy", "ONNX Runtime"])
    assert [row["contender"] for row in rows] == ["fastmlp", "NumPy"]
    assert all(row["agrees"] and not row["absent"] for row in rows)
    assert all(row["gflops"] > 0 and row["probe"] > 0 for row in rows)


def made_up(contender, rate, value=0.5, **changes):
    row = {"shape": "4-3-2 b1", "task": "train", "rows": 9, "threads": 1, "contender": contender}
    row |= {"absent": None, "version": "1", "kernels": "none", "seconds_per_row": [1 / rate]}
    row |= {"samples_per_second": rate, "gflops": rate, "probe": 100.0, "percent": rate}
    return row | {"spread": 0.1, "value": value} | changes


def test_tables_tell_where_we_lose_and_who_differs(bench):
    run, report = bench("run"), bench("report")
    rows = run.judge(
        [
            made_up("fastmlp", 50.0),
            made_up("NumPy", 80.0, value=0.5004),
            made_up("PyTorch eager", 25.0, value=0.6),
            {"contender": "JAX", "absent": "jax not installed", "task": "train"}
            | {"shape": "4-3-2 b1", "threads": 1},
        ]
    )
    assert [row.get("agrees") for row in rows] == [True, True, False, None]
    summary = report.summary(rows).splitlines()[-1]
    assert summary.split(" | ")[2:] == [
        "50.0 GFLOP/s (50 %)",
        "–",
        "NumPy, 80.0 GFLOP/s (80 %)",
        "**0.62, slower**",
        "2.00",
        "**differ**: PyTorch eager |",
    ]
    details = report.details(rows)
    assert "| final loss |" in details
    assert "| PyTorch eager | 25 | 25.0 | 25 % | 10 % | 2.00 × | 0.6 **differs** |" in details
    assert "Absent: JAX, jax not installed." in details


def test_rounds_are_compared_one_by_one(bench):
    """Each is slowed down by others in rounds of its own; medians alone would give 4 / 2."""
    ours = made_up("fastmlp", 1 / 2, seconds_per_row=[1.0, 2.0, 6.0])
    theirs = made_up("NumPy", 1 / 4, seconds_per_row=[3.0, 4.0, 18.0])
    assert bench("report").times_as_fast(ours, theirs) == 3


def test_one_row_is_told_in_microseconds(bench):
    report, run = bench("report"), bench("run")
    for rows, told in ((1, "20000.00 µs"), (9, "50.0 GFLOP/s (50 %)")):
        raced = run.judge([made_up("fastmlp", 50.0, task="predict", rows=rows)])
        assert report.speed(raced[0]) == told
        assert "| probability |" in report.details(raced)


def test_a_loss_that_is_no_number_differs(bench):
    rows = [made_up("fastmlp", 1.0), made_up("NumPy", 1.0, value=float("nan"))]
    assert [row["agrees"] for row in bench("run").judge(rows)] == [True, False]


def test_results_are_published_newest_first(bench, tmp_path, monkeypatch):
    report = bench("report")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "RESULTS.md")
    report.RESULTS.write_text(f"# Results\n\n{report.MARK}")
    rows = bench("run").judge([made_up("fastmlp", 50.0), made_up("NumPy", 40.0)])
    for commit in ("first", "second"):
        report.publish(report.machine() | {"commit": commit}, rows)
    text = report.RESULTS.read_text()
    assert text.startswith("# Results\n")
    assert 0 < text.index("commit second") < text.index("commit first")


def test_the_chart_is_drawn(bench, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    rows = [made_up("fastmlp", 50.0, shape="64-100-10 b32")]
    bench("chart").draw({"cpu": "CPU"}, rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", engines.LEVELS)
def test_the_probe(level, dtype):
    if fused_engine(level) is None:
        with pytest.raises(ValueError, match=f"level is '{level}'"):
            fma_probe(level, dtype, 0.001)
        pytest.skip(f"this CPU has no {level}")
    assert fma_probe(level, dtype, 0.001) > 0


def test_benchmark_of_the_engines(capsys):
    rows = benchmark.run([((4, 8, 3), 16)], threads=[1], seconds=0.01)
    assert [row["engine"] for row in rows] == ["fused", "blas"]
    assert all(row["samples_per_second"] > 0 and row["percent"] > 0 for row in rows)
    lines = benchmark.table(rows).splitlines()
    assert len(lines) == 4 and lines[1].startswith("4-8-3 ")
    assert capsys.readouterr().out == ""


def test_engines_and_threads_take_turns(monkeypatch):
    """And the median of what each had counts, so that one slow moment of the machine does not."""
    turns = []

    class Contender:
        def __init__(self, sizes, batch_size, engine, n_threads):
            self.key = engine, n_threads

        def samples_per_second(self, seconds):
            turns.append(self.key)
            return [300.0, 1.0, 200.0][turns.count(self.key) - 1]

    monkeypatch.setattr(benchmark, "_Contender", Contender)
    rows = benchmark.run([((4, 8, 3), 16)], threads=[1, 2], seconds=0.01)
    keys = [("fused", 1), ("blas", 1), ("fused", 2), ("blas", 2)]
    assert turns == keys * benchmark.ROUNDS
    assert [(row["engine"], row["threads"]) for row in rows] == keys
    assert {row["samples_per_second"] for row in rows} == {200.0}


def test_probe_table(bench):
    lines = bench("probe").table(["portable"], 2, 0.001).splitlines()
    assert lines[0] == "| GFLOP/s | 1 thread | 2 threads |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| portable float32",
        "| portable float64",
    ]
