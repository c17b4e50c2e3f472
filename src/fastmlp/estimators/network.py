"""Network: the parameters of a fitted estimator, in training and on view."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.inputs import sparse_rows
from fastmlp.losses import row_losses
from fastmlp.model import MLP
from fastmlp.session import Session

__all__ = ["Network", "dense_blocks"]

Array = NDArray[Any]

# So many bytes of a sparse matrix are made dense at a time.
DENSE_BYTES = 16 << 20
# What training may put another in the place of.
_REPLACED = ("session", "_session_is", "seed", "settings", "rule")


class Network:
    """A model, the session that trains it, and the arrays its owner may see and change.

    Training happens in a copy of the parameters that the session keeps. As long as nobody has
    seen `coefs` or `intercepts`, that copy is written back only when somebody wants to predict.
    From then on the arrays may be changed at any time, so every training reads them first and
    writes them afterwards.

    Attributes
    ----------
    model : MLP
    session : Session or None
    seed : int
        Of dropout.
    settings, rule : tuple and dict
        Parameters of the estimator when it trained last, and what they mean to `Session.epoch`.
    """

    def __init__(self, model: MLP) -> None:
        self.model = model
        self.session: Session | None = None
        self.seed = 0
        self.settings: tuple[Any, ...] | None = None
        self.rule: dict[str, Any] = {}
        self._session_is: tuple[Any, ...] = ()
        self._shown: tuple[list[Array], list[Array]] | None = None

    def arrays(self) -> tuple[list[Array], list[Array]]:
        """Return the lists of weights and biases, which stay the same lists and live views."""
        if self._shown is None:
            self._shown = (list(self.model.weights), list(self.model.biases))
            if self.session is not None:
                self.session.store()
        self.settle()
        return self._shown

    def replace(self, which: int, arrays: Any) -> None:
        """Put other values in the place of all weights (`which` is 0) or all biases (1)."""
        self.arrays()[which][:] = list(arrays)
        self.settle()

    def settle(self) -> None:
        """Make the model what it should be for whoever reads it now."""
        session = self.session
        if self._shown is not None:
            for name, held, views in zip(
                ("coefs_", "intercepts_"),
                self._shown,
                (self.model.weights, self.model.biases),
                strict=True,
            ):
                _take(name, held, views)
        elif session is not None:
            session.store()

    def train(self, optimizer: str, **options: Any) -> Session:
        """Return the session for this optimizer and these options, up to date with the model.

        Moments are carried over from the session before, if it had the same optimizer.
        """
        wanted = (optimizer, *options.items())
        if self.session is None or self._session_is != wanted:
            self.settle()
            before, self.session = self.session, Session(self.model, optimizer, **options)
            if before is not None and self._session_is[0] == optimizer:
                self.set_moments(before.moments, before.step)
            self._session_is = wanted
        else:
            self.changed()
        return self.session

    def set_moments(self, moments: list[Array], step: int) -> None:
        """Give the session another past: what its optimizer remembers, after so many steps."""
        assert self.session is not None
        for mine, other in zip(self.session.moments, moments, strict=True):
            mine[:] = other
        self.session.step = step
        self.session.load()

    def set_params(self, params: Array) -> None:
        """Give the network other parameters, whatever the session had arrived at."""
        if self.session is not None:
            self.session.store()  # for the moments, which stay
        self.model.write(params)
        if self.session is not None:
            self.session.load()

    def trained(self) -> None:
        """Write back what was trained, if somebody may be looking."""
        if self._shown is not None and self.session is not None:
            self.session.store()

    def changed(self) -> None:
        """Take over what others may have done to the arrays on view, between two epochs."""
        if self._shown is not None:
            if self.session is not None:
                self.session.store()  # another thread has asked to see them since
            self.settle()
            if self.session is not None:
                self.session.load()

    def outputs(self, X: Any, n_threads: int | None) -> Array:
        """Return what the last layer computes; X is an ndarray or a CSR matrix of the dtype."""
        return self.model.forward(sparse_rows(X), n_threads=n_threads)

    def loss(self, Z: Array, targets: Array, sample_weight: Array | None) -> float:
        """Return the mean loss of rows for which the last layer has computed Z."""
        model = self.model
        losses = row_losses(
            Z, targets, model.loss_name, model.loss_parameter, model.probability_clip
        )
        return float(np.average(losses, weights=sample_weight))

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` needs to come back to this point."""
        self.settle()
        state = {name: vars(self)[name] for name in _REPLACED}
        state["params"] = self.model.params.copy()
        if self.session is not None:
            self.session.store()
            state["moments"] = [moment.copy() for moment in self.session.moments]
            state["step"] = self.session.step
        return state

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to where `snapshot` was taken."""
        for name in _REPLACED:
            setattr(self, name, snapshot[name])
        self.model.params[:] = snapshot["params"]  # not `write`, which may find no memory
        if self.session is not None:
            self.set_moments(snapshot["moments"], snapshot["step"])

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return {**vars(self), "_shown": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if not self.model.params.flags.writeable:  # mapped from a file, read-only
            self.model = self.model.copy()
            if self.session is not None:
                self.session.model = self.model
                self.session.moments = [moment.copy() for moment in self.session.moments]


def dense_blocks(X: Any) -> Iterator[tuple[slice, Array]]:
    """Yield a CSR matrix as arrays of a few rows each, with the places of the rows."""
    step = max(1, DENSE_BYTES // (max(1, X.shape[1]) * X.dtype.itemsize))
    for start in range(0, X.shape[0], step):
        rows = slice(start, min(start + step, X.shape[0]))
        yield rows, X[rows].toarray()


def _take(name: str, held: list[Array], views: tuple[Array, ...]) -> None:
    """Copy the arrays that have replaced a view into it, and put the view back in its place."""
    if len(held) != len(views):
        raise ValueError(f"{name} has {len(held)} arrays, the network has {len(views)} layers")
    for i, (array, view) in enumerate(zip(held, views, strict=True)):
        if array is not view:
            if np.shape(array) != view.shape:
                raise ValueError(
                    f"{name}[{i}] has shape {np.shape(array)}, the network needs {view.shape}"
                )
            view[...] = array
            held[i] = view
