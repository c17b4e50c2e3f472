"""Checkpoints: a run in a file, to go on with as if it had never been interrupted.

A checkpoint is a model file that holds the trainer as well: parameters, moments and history as
tensors, options, counters and random stream under "trainer" in its description.
"""

import os
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import engines, persist
from fastmlp.history import History
from fastmlp.inputs import as_int, as_real
from fastmlp.model import MLP
from fastmlp.schedules import Schedule

if TYPE_CHECKING:
    from fastmlp.trainer import Trainer

__all__ = ["check", "resume", "save"]

Array = NDArray[Any]
Path_ = str | os.PathLike[str]
AnyTrainer = TypeVar("AnyTrainer", bound="Trainer")

NAMES = {"sgd": "SGD", "adam": "Adam"}
COMMON = ("weight_decay", "max_norm", "batch_size", "shuffle")
OPTIONS = {
    "sgd": (*COMMON, "momentum", "nesterov"),
    "adam": (*COMMON, "beta_1", "beta_2", "epsilon", "decoupled"),
}
SWITCHES = ("shuffle", "nesterov", "decoupled")
TOO_MUCH = (OverflowError, RecursionError)  # for an integer, or for lists in lists
# The bit generators of NumPy. Two of them read from a buffer at a place which is for us to check.
GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def check(trainer: "Trainer", path: Path_) -> None:
    """Raise what `save` would raise, as far as that can be known before training."""
    persist.check_writable(path)
    persist.as_text(_parts(trainer)[1])


def save(trainer: "Trainer", path: Path_) -> None:
    """Write a trainer that is between two epochs, with its model."""
    persist.save(path, *_parts(trainer))


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
    tensors, description = persist.load(path, "checkpoint")
    held = description.pop("trainer")
    try:
        trainer = _restored(kind, held, tensors, description, engine, n_threads)
        scheduled = held["learning_rate"] is None
    except (AttributeError, LookupError, TypeError, ValueError, *TOO_MUCH) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise persist.not_a_model(path, reason, "checkpoint") from None
    if learning_rate is not None:
        trainer.learning_rate = learning_rate
    elif scheduled:
        raise TypeError(
            f"the run in {path} has a schedule for its learning rate, which a file cannot hold; "
            f"give it again: {kind.__name__}.resume(path, learning_rate=schedule)"
        )
    return trainer


def _parts(trainer: "Trainer") -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors and the description to write."""
    session, rate = trainer._session, trainer.learning_rate
    session.store()
    tensors, description = trainer.model.parts()
    options = {name: getattr(trainer, name) for name in OPTIONS[session.optimizer]}
    options |= {name: bool(options[name]) for name in SWITCHES if name in options}
    tensors |= {f"moments.{i}": moment for i, moment in enumerate(session.moments)}
    tensors |= {
        f"history.{name}": np.array(entries, np.float64)
        for name, entries in vars(trainer.history).items()
    }
    description["trainer"] = {
        "optimizer": session.optimizer,
        "options": _plain(options),
        "learning_rate": None if callable(rate) else _plain(rate),
        "dropout": session.dropout,
        "engine": session.engine,
        "n_threads": session.n_threads,
        "probability_clip": trainer.model.probability_clip,
        "step": session.step,
        "epochs": session.epochs,
        "seed": session.seed,
        "generator": _state(trainer._rng),
    }
    return tensors, description


def _restored(
    kind: type[AnyTrainer],
    held: dict[str, Any],
    tensors: dict[str, Array],
    description: dict[str, Any],
    engine: str | None,
    n_threads: int | None,
) -> AnyTrainer:
    optimizer = held["optimizer"]
    if optimizer != kind._optimizer:
        name = NAMES[optimizer]
        raise ValueError(f"it holds a run of {name}: go on with {name}.resume")
    options = held["options"]
    if set(options) != set(OPTIONS[optimizer]):
        raise ValueError(f"its options are {sorted(options)}")
    for name in SWITCHES:
        if not isinstance(options.get(name, False), bool):
            raise TypeError(f"{name} is {options[name]!r}, expected true or false")
    moments = [tensors.pop(name) for name in sorted(tensors) if name.startswith("moments.")]
    history = _history({name: tensors.pop(f"history.{name}") for name in vars(History())})

    model = MLP.from_parts(tensors, description)
    model.probability_clip = as_real(held["probability_clip"], "probability_clip", 0, below=0.5)
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
    session.epochs = _count(held, "epochs")
    session.seed = _count(held, "seed")
    if len(moments) != len(session.moments):
        raise ValueError(f"it holds {len(moments)} moments, expected {len(session.moments)}")
    for own, moment in zip(session.moments, moments, strict=True):
        if moment.shape != own.shape or moment.dtype != own.dtype:
            raise ValueError(f"a moment is {moment.dtype} of shape {moment.shape}")
        own[:] = moment
    trainer._rng = _generator(held["generator"])
    trainer.history = history
    trainer._resumed = True
    return trainer


def _count(held: dict[str, Any], name: str, below: int = 2**64) -> int:
    number = as_int(held[name], name, 0)
    if number >= below:
        raise ValueError(f"{name} is {number}, expected below 2**{below.bit_length() - 1}")
    return number


def _history(entries: dict[str, Array]) -> History:
    for name, values in entries.items():
        if values.dtype != np.float64 or values.ndim != 1:
            raise ValueError(f"history.{name} is {values.dtype} of shape {values.shape}")
    lengths = {len(entries[name]) for name in ("loss", "learning_rate", "seconds")}
    if len(lengths) > 1:
        raise ValueError(f"its history is of {sorted(lengths)} epochs at once")
    return History(**{name: values.tolist() for name, values in entries.items()})


def _state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of a generator in lists and ints."""
    state: dict[str, Any] = _plain(rng.bit_generator.state)
    name = state["bit_generator"]
    if name not in GENERATORS:
        raise TypeError(f"seed draws from {name}, but checkpoints hold {', '.join(GENERATORS)}")
    return state


def _generator(state: dict[str, Any]) -> np.random.Generator:
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
