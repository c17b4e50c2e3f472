"""The readers to fuzz: good files for each, how to change them, and what an accepted file must be.

A target's `read` raises `Refused` for a file that its reader refuses in the way that is
documented. Whatever else it raises is a finding, and so is an object that does not work.
"""

import argparse
import contextlib
import gzip
import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import datamutations
import mutations
import numpy as np

import fastmlp
from fastmlp import checkpoint, cli, data, modelfile, persist, runs, sources, training
from fastmlp.preprocessing import Preprocessing, Target, encode_labels


class Refused(Exception):
    """The reader has refused the file by the error that is documented."""


@dataclass
class Seed:
    """A good file, and the reader for it."""

    content: bytes
    read: Callable[[Path], None]


@dataclass
class Fuzzed:
    """A kind of file: how its name ends, good ones, and how to change one.

    `mutate` takes a `random.Random`, the bytes of a file, and those of the other ones.
    """

    suffix: str
    seeds: list[Seed]
    mutate: Callable[[Random, bytes, tuple[bytes, ...]], bytes]


def target(name: str, folder: Path) -> Fuzzed:
    """Return what there is to know about a reader; its good files are written in `folder`."""
    return TARGETS[name](folder)


def _refuses(reader, path, *arguments, **named):
    """Return what a reader gives, or raise Refused for its FileFormatError."""
    try:
        return reader(path, *arguments, **named)
    except fastmlp.FileFormatError as error:
        if not str(error).startswith(str(path)):
            raise AssertionError("the message does not begin with the file") from error
        if path.suffix != ".safetensors" and len(str(error)) > 2000:
            raise AssertionError("the message is as long as a file") from error
        raise Refused from error


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content


# Model files


def _check_model(model: fastmlp.MLP) -> None:
    assert np.isfinite(model.params).all()
    Z = model.forward(np.ones((2, model.sizes[0])))
    assert Z.shape == (2, model.sizes[-1]) and Z.dtype == model.dtype
    model.predict(np.ones((2, model.sizes[0])))


def _read_model(path: Path) -> None:
    model = _refuses(fastmlp.MLP.load, path)
    _check_model(model)
    modelfile.parts(model)


def _model_file(folder: Path, sizes: list[int], metadata: dict, **options: object) -> bytes:
    model = fastmlp.MLP(sizes, seed=1, **options)
    model.metadata = metadata
    model.save(folder / "seed")
    return _bytes(folder / "seed")


TABLE = "rooms,city\n1,Bonn\n2.5,Ulm\n"
NUMBERS = "rooms,size\n1,50\n2.5,80\n"
CLASSES = Preprocessing(
    ["a", "b"], ["rooms", "city"], [2.0, 0], [0.5, 1], {"city": ["Bonn", "Ulm"]}
)
VALUES = Preprocessing(None, ["size", "rooms"], [0.0], [1.0], {}, Target("rent", 5.0, 2.0))


def models(folder: Path) -> Fuzzed:
    contents = [
        _model_file(folder, [2, 2], {}),
        _model_file(folder, [3, 4, 2], {"labels": ["a", "é"]}, dtype="float64", activation="tanh"),
        _model_file(folder, [2, 3, 3, 1], {}, loss="huber", activation=["relu", "gelu"]),
    ]
    seeds = [Seed(content, _read_model) for content in contents]
    return Fuzzed(".safetensors", seeds, mutations.safetensors_file)


def described(folder: Path) -> Fuzzed:
    """Model files as the command line reads them, with the names and scaling in them."""
    cases = [
        (CLASSES, TABLE, [3, 2], {}),
        (VALUES, NUMBERS, [2, 3, 1], {"loss": "squared_error"}),
        (Preprocessing(["a", "b"], None, [1.0, 2.0], [2.0, 4.0]), NUMBERS, [2, 2], {}),
    ]
    seeds = []
    for i, (preprocessing, text, sizes, options) in enumerate(cases):
        table = folder / f"table{i}.csv"
        table.write_text(text)
        content = _model_file(folder, sizes, preprocessing.to_metadata(), **options)
        seeds.append(Seed(content, _read_described(str(table))))
    return Fuzzed(".safetensors", seeds, mutations.safetensors_file)


def _read_described(table: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        predict = argparse.Namespace(model=str(path), data=table, out=None)
        commands = [(cli._predict, predict)]
        for as_json in True, False:
            commands.append((cli._info, argparse.Namespace(model=str(path), json=as_json)))
        for command, arguments in commands:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                _runs(command, arguments)
            out.getvalue().encode()

    return read


def _runs(command: Callable, *arguments: object, **named: object) -> object:
    """Run what the command line runs, or raise Refused for what it prints as one sentence."""
    try:
        return command(*arguments, **named)
    except ValueError as error:
        if type(error) not in (ValueError, fastmlp.FileFormatError):
            raise
        raise Refused from error


# Checkpoints and estimators

X = np.random.default_rng(0).normal(size=(12, 2))
Y = np.arange(12) % 3
LETTERS = np.array(["a", "b", "c"])[Y]


def _read_checkpoint(kind: type) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        try:
            trainer = _refuses(kind.resume, path)
        except TypeError as error:
            if "give it again" not in str(error):  # a schedule, which files do not hold
                raise
            raise Refused from error
        model = trainer.model
        _check_model(model)
        assert trainer._rng.random() < 1
        begun = trainer._interrupted
        n = 4 if begun is None else min(begun.n_samples, 1000)
        inputs = np.ones((n, model.sizes[0]))
        targets = np.zeros(n, int) if model.classifies else np.zeros((n, model.sizes[-1]))
        if n == 0 or (begun is not None and n != begun.n_samples):
            return
        with contextlib.suppress(fastmlp.DivergedError):  # a learning rate may be huge
            trainer.fit(inputs, targets, epochs=1)

    return read


def checkpoints(folder: Path) -> Fuzzed:
    seeds = []
    generators = [
        0,
        np.random.Generator(np.random.MT19937(1)),
        np.random.Generator(np.random.Philox(1)),
    ]
    kinds = [
        (fastmlp.SGD, {"momentum": 0.9}),
        (fastmlp.Adam, {"batch_size": 4}),
        (fastmlp.SGD, {"dropout": 0.5}),
    ]
    for generator, (kind, options) in zip(generators, kinds, strict=True):
        model = fastmlp.MLP([2, 4, 3], seed=1)
        trainer = kind(model, learning_rate=0.1, seed=generator, n_threads=1, **options)
        trainer.fit(X, Y, epochs=2, validation_data=(X, Y))
        trainer.history.seconds[:] = [0.25, 0.5]  # the same in every run
        checkpoint.Place(folder / "seed", 1).save(trainer, checkpoint.Books(trainer, len(X)))
        seeds.append(Seed(_bytes(folder / "seed"), _read_checkpoint(kind)))
    (folder / "seed").write_bytes(seeds[0].content)
    tensors, description = persist.load(folder / "seed", "checkpoint")
    description["trainer"]["options"]["batch_size"] = 4
    description["trainer"]["interrupted"] = {
        **{"n_samples": 12, "rows": 8, "steps": 2, "loss": 7.5, "penalty": 0.0}
    }
    persist.save(folder / "seed", tensors, description)
    seeds.append(Seed(_bytes(folder / "seed"), _read_checkpoint(fastmlp.SGD)))
    return Fuzzed(".safetensors", seeds, mutations.safetensors_file)


def _read_run(path: Path) -> None:
    arguments = argparse.Namespace(**dict.fromkeys(runs.OPTIONS), threads=None, every=1)
    arguments.checkpoint = str(path)
    try:
        trainer = runs.resume(arguments)
    except TypeError as error:
        if "give it again" not in str(error):
            raise
        raise Refused from error
    _check_model(trainer.model)
    training._check(argparse.Namespace(**vars(arguments), resume=True, out=None, plot=None))
    if arguments.early_stopping:
        training.Best(trainer.model, arguments.patience).join(trainer)


def command_line_runs(folder: Path) -> Fuzzed:
    (folder / "t.csv").write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(20)))
    argv = ["train", "--json", "--data", str(folder / "t.csv"), "--target", "b", "--regression"]
    argv += ["--hidden", "3", "--epochs", "2"]
    seeds = []
    for more in [], ["--early-stopping", "--optimizer", "adam"]:
        path = folder / "seed"
        path.unlink(missing_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            assert cli.main([*argv, *more, "--checkpoint", str(path)]) == 0
        tensors, description = persist.load(path, "checkpoint")
        tensors["history.seconds"][:] = [0.25, 0.5]  # the same in every process
        description["metadata"]["run"]["options"]["data"] = "t.csv"
        persist.save(path, tensors, description)
        seeds.append(Seed(_bytes(path), _reads_run))
    return Fuzzed(".safetensors", seeds, mutations.safetensors_file)


def _reads_run(path: Path) -> None:
    _runs(_read_run, path)


def _small(estimator) -> bool:
    """Return whether an epoch or two are quickly done."""
    return np.size(estimator.hidden_layer_sizes) < 3 and estimator.n_iter_ < 10


def _trains(estimator, y: np.ndarray, resumes: bool) -> None:
    """Train an estimator out of a file, however little sense its parameters make."""
    steps = estimator.solver != "lbfgs" and not estimator.early_stopping
    estimator.set_params(max_iter=estimator.n_iter_ + 2, verbose=False, callbacks=None)
    if estimator.warm_start or resumes:
        with contextlib.suppress(ValueError, FloatingPointError):
            estimator.fit(X, y)
    if steps and not resumes:
        with contextlib.suppress(ValueError, FloatingPointError):
            estimator.partial_fit(X, y)


def _read_estimator(kind: type, y: np.ndarray, resumes: bool = False) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        estimator = _refuses(kind.resume if resumes else kind.load, path)
        assert all(np.isfinite(W).all() for W in (*estimator.coefs_, *estimator.intercepts_))
        estimator.predict(np.ones((2, estimator.n_features_in_)))
        if _small(estimator):
            _trains(estimator, y, resumes)

    return read


def estimators(folder: Path) -> Fuzzed:
    seeds = []
    sgd = {"solver": "sgd", "learning_rate": "invscaling", "class_weight": {False: 1, True: 2}}
    common = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0, "warm_start": True}
    for kind, y, options in (
        (
            fastmlp.MLPClassifier,
            LETTERS,
            {"early_stopping": True},
        ),
        (fastmlp.MLPClassifier, Y > 0, sgd),
        (
            fastmlp.MLPClassifier,
            np.eye(3, dtype=int)[Y],
            {"random_state": np.random.RandomState(3)},
        ),
        (fastmlp.MLPRegressor, Y * 0.5, {"solver": "lbfgs"}),
    ):
        with warnings.catch_warnings(action="ignore"):  # of few iterations
            estimator = kind(**(common | options)).fit(X, y)
        estimator.save(folder / "seed")
        seeds.append(Seed(_bytes(folder / "seed"), _read_estimator(kind, y)))
    estimator = fastmlp.MLPClassifier(**common, early_stopping=True).checkpoint(folder / "seed")
    with warnings.catch_warnings(action="ignore"):
        estimator.fit(X, LETTERS)
    read = _read_estimator(fastmlp.MLPClassifier, LETTERS, resumes=True)
    seeds.append(Seed(_bytes(folder / "seed"), read))
    return Fuzzed(".safetensors", seeds, mutations.safetensors_file)


# Files of data


def _same(array: np.ndarray, expected: np.ndarray) -> None:
    assert array.dtype == expected.dtype and array.shape == expected.shape, "not what NumPy reads"
    assert array.tobytes() == expected.tobytes(), "not what NumPy reads"


def _read_npy(path: Path) -> None:
    array = _refuses(data.read_npy, path)
    _same(array, np.load(path))


def _read_npz(path: Path) -> None:
    X, y = _refuses(data.read_npz, path)
    with np.load(path) as arrays:
        _same(X, arrays["X"])
        if y is not None:
            _same(y, arrays["y"])


def _read_samples(path: Path, **options: object) -> None:
    """Read a file as `fastmlp train` does, up to the inputs of a network."""
    samples = _runs(sources.read_samples, str(path), **options)
    if not options.get("regression"):
        numbers, _ = _runs(encode_labels, samples.targets)
        assert len(numbers) == len(samples.rows.X)
    rows = samples.rows
    found = _runs(
        Preprocessing.learn,
        rows.X,
        None,
        rows.features,
        samples.scaling,
        categories=rows.categories,
    )
    assert np.isfinite(_runs(rows.inputs, found, "float32")).all()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ARRAYS = (
    np.arange(6, dtype=np.float32).reshape(3, 2),
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(3, 2)),
    np.array(["a", "bcd", "é"]),
    np.array([True, False, True]),
)


def npy(folder: Path) -> Fuzzed:
    def mutate(random: Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
        return datamutations.npy_file(random, content, others)

    return Fuzzed(".npy", [Seed(_npy(array), _read_npy) for array in ARRAYS], mutate)


def npz(folder: Path) -> Fuzzed:
    seeds = []
    for X, y in ((ARRAYS[0], ARRAYS[2]), (ARRAYS[1], ARRAYS[3])):
        members = [{"name": "X.npy", "data": _npy(X)}, {"name": "y.npy", "data": _npy(y)}]
        content = datamutations.zip_file(members, {}, 0)
        seeds += [Seed(content, _read_npz), Seed(content, _read_samples)]
    return Fuzzed(".npz", seeds, datamutations.npz_file)


def _read_idx(path: Path) -> None:
    array = _refuses(data.read_idx, path)
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    kind = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[content[2]]
    assert array.dtype == np.dtype(kind).newbyteorder("=")
    assert array.shape == struct.unpack_from(f">{content[3]}I", content, 4)
    assert array.astype(kind).tobytes() == content[4 + 4 * content[3] :]


def idx(folder: Path) -> Fuzzed:
    seeds = []
    for code, kind, shape in ((8, ">u1", (3, 2, 2)), (13, ">f4", (3, 2)), (11, ">i2", (6,))):
        size = int(np.prod(shape))
        head = bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        content = head + np.arange(size, dtype=kind).tobytes()
        seeds += [Seed(content, _read_idx), Seed(gzip.compress(content, mtime=0), _read_idx)]
    return Fuzzed(".idx", seeds, datamutations.idx_file)


def _read_csv(target: str | None) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        table = _refuses(data.read_csv, path, target=target)
        n_rows = len(table.X)
        assert table.X.shape == (n_rows, len(table.names)) and table.X.dtype == np.float64
        assert n_rows and np.isfinite(table.X).all()
        assert len(set(table.names)) == len(table.names) and all(table.names)
        assert target is None or (len(table.target) == n_rows and all(table.target))

    return read


def _read_cells(path: Path) -> None:
    cells = _refuses(data.read_cells, path)
    assert cells.columns and {len(column) for column in cells.columns.values()} == {
        len(cells.lines)
    }
    assert cells.lines == sorted(cells.lines) and cells.lines[0] > 1


def csv(folder: Path) -> Fuzzed:
    plain = b"a,b,y\n1,2.5,0\n-3,4e2,1\n0,0.125,0\n"
    texts = 'a,"b c",y\n1,Köln,red\n2.5," Ulm ",blue\n\n3,Bonn,"red"\n-4,Ulm,blue\n'.encode()
    numeric = b'"a",b,y\r\n1,"2.5",red\r\n\r\n -3 ,4e2," blue "\r\n'
    seeds = [
        Seed(plain, _read_csv(None)),
        Seed(numeric, _read_csv("y")),
        Seed(texts, _read_cells),
        Seed(texts, lambda path: _read_samples(path, target="y")),
        Seed(plain, lambda path: _read_samples(path, target="y", regression=True)),
    ]
    return Fuzzed(".csv", seeds, datamutations.csv_file)


TARGETS = {
    "model": models,
    "described": described,
    "checkpoint": checkpoints,
    "run": command_line_runs,
    "estimator": estimators,
    "csv": csv,
    "npz": npz,
    "npy": npy,
    "idx": idx,
}
