"""Checkpoints: a run in a file, to go on with as if it had never been interrupted.

A checkpoint is a model file that holds the trainer as well: parameters, moments and history as
tensors, options, counters and random stream under "trainer" in its description.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import atomic, engines, modelfile, persist
from fastmlp._core import first_nonfinite
from fastmlp.atomic import Path_
from fastmlp.history import History
from fastmlp.inputs import as_int, as_real
from fastmlp.model import MLP
from fastmlp.schedules import Schedule
from fastmlp.session import Position

if TYPE_CHECKING:
    from fastmlp.trainer import Trainer

__all__ = ["Books", "Interrupted", "Place", "resume"]

Array = NDArray[Any]
AnyTrainer = TypeVar("AnyTrainer", bound="Trainer")

NAMES = {"sgd": "SGD", "adam": "Adam"}
COMMON = ("weight_decay", "max_norm", "batch_size", "shuffle")
OPTIONS = {
    "sgd": (*COMMON, "momentum", "nesterov"),
    "adam": (*COMMON, "beta_1", "beta_2", "epsilon", "decoupled"),
}
SWITCHES = ("shuffle", "nesterov", "decoupled")
ENTRIES = tuple(field.name for field in fields(History))
LARGEST = float(np.finfo(np.float64).max)
# The bit generators of NumPy. Two of them read from a buffer at a place which is for us to check.
GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


@dataclass(frozen=True)
class Interrupted:
    """An epoch that was interrupted: the rows it goes over, and how far it came."""

    n_samples: int
    position: Position


class Books:
    """What a trainer has on its books between two epochs.

    Written after an interruption, together with parameters that are further on and the position in
    the epoch that has led there.

    Parameters
    ----------
    trainer : Trainer
    n_samples : int
        Rows of an epoch.
    begun : Interrupted or None
        What the next epoch goes on with.
    """

    def __init__(
        self, trainer: "Trainer", n_samples: int, begun: Interrupted | None = None
    ) -> None:
        self.epochs = trainer._session.epochs
        self.n_samples, self.begun = n_samples, begun
        self.generator = trainer._rng.bit_generator.state
        epochs, step, seed = trainer._drawn
        # That of an order which was drawn, and is still to be gone by.
        is_next = (epochs, step) == (self.epochs, trainer._session.step)
        self.order = int(seed[0]) if is_next else None
        self.entries = {name: len(getattr(trainer.history, name)) for name in ENTRIES}
        self.held: tuple[Array | None, dict[str, Any]] | None = None

    def hold(self, trainer: "Trainer") -> None:
        """Keep what a callback may change: one that is interrupted is called again."""
        self.held = trainer.model.read(), _settings(trainer)

    def interrupted(self, trainer: "Trainer") -> Interrupted | None:
        """Return the epoch the trainer is in the middle of."""
        position = trainer._session.position(self.epochs)
        return self.begun if position is None else Interrupted(self.n_samples, position)


@dataclass
class Place:
    """Where a trainer is written, and how often.

    Attributes
    ----------
    path : path
    every : int
        Epochs from one writing to the next.
    alone : bool
        Whether a file is refused that another run has written meanwhile.
    stamp : tuple or None
        That of the file as this run has left it.
    """

    path: Path_
    every: int
    alone: bool = False
    stamp: tuple[int, int] | None = None

    def check(self, trainer: "Trainer") -> None:
        """Raise what `save` would raise, as far as that can be known before training."""
        atomic.check_writable(self.path)
        persist.check_description(self.path, *_parts(trainer, Books(trainer, 0)))

    def save(self, trainer: "Trainer", books: Books) -> None:
        """Write a trainer with its model, as it stands."""
        if self.alone and atomic.stamp(self.path) not in (None, self.stamp):
            raise ValueError(
                f"another run has written {self.path} meanwhile: nothing more of this one goes "
                "there; name another file"
            )
        try:
            persist.save(self.path, *_parts(trainer, books))
        finally:
            self.stamp = atomic.stamp(self.path)


def resume(
    kind: type[AnyTrainer],
    path: Path_,
    *,
    learning_rate: float | Schedule | None,
    engine: str | None,
    n_threads: int | None,
) -> AnyTrainer:
    """Return the trainer of class `kind` that a checkpoint holds, with its model."""
    if learning_rate is not None and not callable(learning_rate):
        learning_rate = as_real(learning_rate, "learning_rate", 0)
    if engine is not None:
        engine = engines.resolve(engine)
    if n_threads is not None:
        n_threads = as_int(n_threads, "n_threads", 1)
    with persist.reading(path, "checkpoint") as stored:
        held = stored.description.pop("trainer")
        trainer = _restored(kind, held, stored, engine, n_threads)
        scheduled = held["learning_rate"] is None
    if learning_rate is not None:
        trainer.learning_rate = learning_rate
    elif scheduled:
        raise TypeError(
            f"the run in {path} has a schedule for its learning rate, which a file cannot hold; "
            f"give it again: {kind.__name__}.resume(path, learning_rate=schedule)"
        )
    return trainer


def _parts(trainer: "Trainer", books: Books) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors and the description to write."""
    session = trainer._session
    session.store()
    params, settings = books.held or (None, _settings(trainer))
    tensors, description = modelfile.parts(trainer.model, params)
    tensors |= {f"moments.{i}": moment for i, moment in enumerate(session.moments)}
    entries = {
        name: np.array(getattr(trainer.history, name)[: books.entries[name]], np.float64)
        for name in ENTRIES
    }
    _check_history(entries)  # which a callback may have changed
    tensors |= {f"history.{name}": values for name, values in entries.items()}
    tensors |= {f"kept.{name}": array for name, array in trainer._kept.items()}
    interrupted = books.interrupted(trainer)
    description["trainer"] = {
        "optimizer": session.optimizer,
        **settings,
        "dropout": session.dropout,
        "engine": session.engine,
        "n_threads": session.n_threads,
        "step": session.step,
        "epochs": books.epochs,
        "interrupted": None
        if interrupted is None
        else {"n_samples": interrupted.n_samples, **interrupted.position._asdict()},
        "order": books.order,
        "seed": session.seed,
        "generator": _state(books.generator),
    }
    return tensors, description


def _settings(trainer: "Trainer") -> dict[str, Any]:
    """Return what the user may set between two epochs."""
    rate, names = trainer.learning_rate, OPTIONS[trainer._session.optimizer]
    return {
        "options": {name: getattr(trainer, name) for name in names},
        "learning_rate": None if callable(rate) else rate,
    }


def _restored(
    kind: type[AnyTrainer],
    held: dict[str, Any],
    stored: persist.Stored,
    engine: str | None,
    n_threads: int | None,
) -> AnyTrainer:
    optimizer = held["optimizer"]
    kinds = {known._optimizer: known for known in (*kind.__subclasses__(), kind)}
    name = NAMES[optimizer]
    if optimizer not in kinds:
        raise ValueError(f"it holds a run of {name}: go on with {name}.resume")
    kind, options = kinds[optimizer], held["options"]
    if set(options) != set(OPTIONS[optimizer]):
        raise ValueError(f"its options are {sorted(options)}")
    for name in SWITCHES:
        if not isinstance(options.get(name, False), bool):
            raise TypeError(f"{name} is {options[name]!r}, expected true or false")
    shapes = dict(stored.shapes)
    for name in ENTRIES:
        shapes.pop(f"history.{name}")
    moments = {name: shapes.pop(name) for name in list(shapes) if name.startswith("moments.")}
    kept = {name: shapes.pop(name) for name in list(shapes) if name.startswith("kept.")}
    model = modelfile.described(MLP, stored.description, shapes)
    if "probability_clip" in held:  # of version 1
        clip = held["probability_clip"]
        model.probability_clip = as_real(clip, "probability_clip", 0, below=0.5)
    rate = held["learning_rate"]
    trainer = kind(
        model,
        learning_rate=0.0 if rate is None else rate,
        dropout=held["dropout"],
        engine=engine or held["engine"],
        n_threads=n_threads or held["n_threads"],
        **options,
    )
    session = trainer._session
    session.step = _count(held, "step", 2**62)  # there is to be room to count on
    session.epochs = _count(held, "epochs", 2**62)
    session.seed = _count(held, "seed")
    places = {f"moments.{i}": moment for i, moment in enumerate(session.moments)}
    if set(moments) != set(places):
        raise ValueError(f"it holds {len(moments)} moments, expected {len(places)}")
    trainer._rng = _generator(held["generator"])
    tensors = stored.read(modelfile.tensors(model, model.params) | places)
    modelfile.check_finite(model)
    if any(first_nonfinite(moment) >= 0 for moment in session.moments):
        raise ValueError("it holds moments that are not finite")
    trainer._kept = {name.removeprefix("kept."): tensors[name] for name in kept}
    entries = {name: tensors[f"history.{name}"] for name in ENTRIES}
    _check_history(entries)
    trainer.history = History(**{name: values.tolist() for name, values in entries.items()})
    if held.get("order") is not None:
        order = np.array([_count(held, "order")], np.uint64)
        trainer._drawn = (session.epochs, session.step, order)
    trainer._resumed = True
    trainer._interrupted = _interrupted(held.get("interrupted"))
    return trainer


def _interrupted(held: dict[str, Any] | None) -> Interrupted | None:
    if held is None:  # or of version 1, which knew of no interrupted epochs
        return None
    n, rows = _count(held, "n_samples", 2**62), _count(held, "rows")
    steps = _count(held, "steps")
    sums = [as_real(held[name], name, -LARGEST) for name in ("loss", "penalty")]
    if not steps <= rows <= n:  # of batches whose size may have been changed since
        raise ValueError(f"{rows} of {n} rows in {steps} steps are no part of an epoch")
    return Interrupted(n, Position(rows, steps, *sums))


def _count(held: dict[str, Any], name: str, below: int = 2**64) -> int:
    number = as_int(held[name], name, 0)
    if number >= below:
        raise ValueError(f"{name} is {number}, expected below 2**{below.bit_length() - 1}")
    return number


def _check_history(entries: dict[str, Array]) -> None:
    """Raise ValueError where these are not the entries of a history."""
    for name, values in entries.items():
        if values.dtype != np.float64 or values.ndim != 1:
            raise ValueError(f"history.{name} is {values.dtype} of shape {values.shape}")
    always = [entries[name] for name in ("loss", "learning_rate", "seconds")]
    lengths = {len(values) for values in always}
    if len(lengths) > 1:
        raise ValueError(f"its history is of {sorted(lengths)} epochs at once")
    if any(len(values) > len(always[0]) for values in entries.values()):
        raise ValueError("its history is of more validations than epochs")
    if any(first_nonfinite(values) >= 0 for values in always) or (entries["seconds"] < 0).any():
        raise ValueError("its history holds numbers that cannot be")


def _state(of_bits: Any) -> dict[str, Any]:
    """Return the state of a bit generator in lists and ints."""
    state: dict[str, Any] = _plain(of_bits)
    name = state["bit_generator"]
    if name not in GENERATORS:
        raise TypeError(f"seed draws from {name}, but checkpoints hold {', '.join(GENERATORS)}")
    return state


def _generator(state: dict[str, Any]) -> "np.random.Generator":
    name = state["bit_generator"]
    if name not in GENERATORS:
        raise ValueError(f"its random generator is {name!r}")
    bits = getattr(np.random, name)()
    bits.state = state
    place, end = 0, 0
    if name == "MT19937":
        place, end = state["state"]["pos"], len(state["state"]["key"])
    elif name == "Philox":
        place, end = state["buffer_pos"], len(state["buffer"])
    if not 0 <= place <= end or _plain(bits.state) != state:
        raise ValueError(f"the state of its random generator, {name}, is not valid")
    return np.random.Generator(bits)


def _plain(value: Any) -> Any:
    """Return NumPy's arrays and numbers as Python's, for JSON."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
