"""The report: one HTML page that holds its numbers, its style and its script."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.explain.check import AGREEMENT, strongest
from fastmlp.explain.explanation import Explanation, Place
from fastmlp.explain.linearity import compare
from fastmlp.explain.trace import forward

__all__ = ["page"]

Array = NDArray[Any]

ASSETS = Path(__file__).parent
SCRIPTS = ("base", "network", "inspector", "steps", "training", "surface", "pages")
ROWS = 8  # that can be stepped through
NEURONS = 144  # drawn of one layer
PIXELS = 1024  # of an image
SCORES = 12  # outputs traced back to the pixels of one
FRAMES = 60  # states on the slider
TRACKED = 2000  # parameters kept of every state
BOUNDARY = 56  # cells along each side of a decision boundary
POINTS = 400  # rows drawn as points
TABLE = 60  # derivatives in the table
LARGEST = 1e30  # of a surface or boundary: what is beyond, or not a number, is drawn as this


@np.errstate(over="ignore", invalid="ignore")
def page(e: Explanation, weights: tuple[Place, Place] | None = None) -> str:
    """Return the report, with the loss over the two `weights`, or those with the largest dW."""
    data = json.dumps(_data(e, weights), separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    script = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    html = _asset("page.html")
    for mark, text in (
        ("/*STYLE*/", _asset("page.css")),
        ("/*SCRIPT*/", script),
        ("/*DATA*/", data),
    ):
        before, _, after = html.partition(mark)
        html = before + text + after
    return html


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _data(e: Explanation, weights: tuple[Place, Place] | None) -> dict[str, Any]:
    model = e.model
    rows = min(len(e.X), ROWS)
    image = _image_shape(e)
    shown = _shown(e, image is not None)
    scores = _scores(e, shown[-1], rows) if image else []
    return {
        "title": f"{'-'.join(map(str, model.sizes))} · {model.loss_name.replace('_', ' ')}",
        "sizes": list(model.sizes),
        "shown": [ids.tolist() for ids in shown],
        "lossName": model.loss_name,
        "dtype": model.dtype,
        "classifies": model.classifies,
        "labels": e.labels,
        "rate": e.learning_rate,
        "nRows": len(e.X),
        "nParameters": model.n_parameters,
        "loss": _finite(e.loss),
        "lossAfter": e.loss_after if np.isfinite(e.loss_after) else "∞",  # less than no number
        "X": _pack(e.X[:rows][:, shown[0]]),
        "dX": _pack(e.dX[:rows][:, shown[0]]),
        "y": e.y[:rows].tolist(),
        "rowLosses": _pack(e.row_losses[:rows]),
        "layers": [_layer(e, number, rows, shown) for number in range(len(e.layers))],
        "image": image,
        "scores": scores,
        "inputGradients": _pack(
            model.input_gradients(e.X[:rows])[:, shown[-1][scores]][:, :, shown[0]]
        )
        if image
        else None,
        "check": _check(e),
        "frames": _frames(e, rows, shown),
        "boundary": _boundary(e),
        "surface": _surface(e, weights),
        "linear": _linear(),
        "omitted": _omitted(e, shown, rows),
    }


def _layer(e: Explanation, number: int, rows: int, shown: list[Array]) -> dict[str, Any]:
    part = e.layers[number]
    into, out = shown[number], shown[number + 1]
    square = np.ix_(into, out)
    return {
        "activation": part.activation,
        "W": _pack(part.W[square]),
        "dW": _pack(part.dW[square]),
        "Wafter": _pack(part.W_after[square]),
        "b": _pack(part.b[out]),
        "db": _pack(part.db[out]),
        "bafter": _pack(part.b_after[out]),
        **{key: _pack(getattr(part, key)[:rows][:, out]) for key in ("Z", "A", "slope", "dZ")},
    }


def _shown(e: Explanation, image: bool) -> list[Array]:
    """Return which neurons of every layer are drawn: where there are many, the strongest."""
    shown = []
    values = [e.X, *(part.A for part in e.layers)]
    for number, A in enumerate(values):
        most = PIXELS if image and number == 0 else NEURONS
        strength = np.abs(A).mean(axis=0)
        if number < len(e.layers):
            strength = strength * np.abs(e.layers[number].W).sum(axis=1)
        elif e.model.classifies:
            strength[e.y[:ROWS]] = np.inf  # the right answers
        shown.append(strongest(strength, most))
    return shown


def _omitted(e: Explanation, shown: list[Array], rows: int) -> list[str]:
    said = []
    for number, (size, ids) in enumerate(zip(e.model.sizes, shown, strict=True)):
        if len(ids) < size:
            what = "inputs" if number == 0 else f"neurons of layer {number}"
            said.append(f"{len(ids):,} of {size:,} {what} are drawn: the strongest on these rows.")
    if rows < len(e.X):
        said.append(f"{rows} of {len(e.X):,} rows can be chosen; sums and derivatives are of all.")
    checked = len(e.check.indices)
    if checked < e.model.n_parameters:
        said.append(
            f"{checked} of {e.model.n_parameters:,} derivatives, the largest, are compared with "
            "differences of the loss."
        )
    return said


def _check(e: Explanation) -> dict[str, Any]:
    found, flat = e.check, e.dparams
    order = np.argsort(-np.abs(found.derivatives), kind="stable")[:TABLE]
    entries = [
        [
            e.name_of(index),
            list(e.place(index)),
            _finite(float(flat[index])),
            _finite(float(numerical)),
            None if kink else _apart(error),
        ]
        for index, numerical, error, kink in zip(
            found.indices.tolist(), found.numerical, found.relative_error, found.kinks, strict=True
        )
    ]
    return {
        "entries": entries,
        "inFloat64": [_finite(float(derivative)) for derivative in found.derivatives],
        "table": order.tolist(),
        "largest": _apart(found.largest),
        "allowed": AGREEMENT,
        "agrees": bool(e.agrees),
        "difference": _apart(e.turn.difference),
        "tolerance": _apart(e.turn.tolerance),
        "path": _apart(_path_check(e)),
    }


def _path_check(e: Explanation) -> float:
    """Return how far sums over paths are from the engine's dW, as a share of the largest."""
    flat = e.dparams
    few = e.check.indices[np.argsort(-np.abs(e.check.derivatives), kind="stable")[:12]]
    apart = [abs(e.weight(*e.place(int(k)), limit=4).total - float(flat[k])) for k in few]
    return max(apart) / (float(np.abs(flat).max()) or 1.0)


def _frames(e: Explanation, rows: int, shown: list[Array]) -> dict[str, Any]:
    recorder = e.recorder
    places = recorder.frames(FRAMES)
    states = np.stack([recorder.states[k] for k in places])
    tracked = _tracked(e, shown)
    model = e.model.copy(dtype="float64")
    losses, results = [], []
    for state in states:
        model.params[:] = state
        with np.errstate(over="ignore", invalid="ignore"):
            losses.append(model.loss(e.X, e.y))
            results.append(np.nan_to_num(forward(model, e.X[:rows].astype(np.float64))[1][-1]))
    here = [k for k, state in enumerate(states) if np.array_equal(state, e.model.params)]
    return {
        "rehearsed": e.rehearsed,
        "epochs": [recorder.epochs[k] for k in places],
        "loss": [_finite(loss) for loss in losses],
        "tracked": [list(e.place(int(index))) for index in tracked],
        "states": _pack(states[:, tracked]),
        "outputs": _pack(np.array(results)),
        "here": here[-1] if here else None,
        "cost": repr(recorder),
    }


def _tracked(e: Explanation, shown: list[Array]) -> Array:
    """Return which parameters the slider moves: all of a small network, else the largest drawn."""
    model = e.model
    if model.n_parameters <= TRACKED:
        return np.arange(model.n_parameters)
    strength = np.zeros(model.n_parameters)
    weights, _ = model.split(strength)
    for number, (W, view) in enumerate(zip(model.weights, weights, strict=True)):
        square = np.ix_(shown[number], shown[number + 1])
        view[square] = (
            np.abs(W[square])
            * np.abs(e.layers[number].inputs).mean(axis=0)[shown[number], np.newaxis]
        )
        chosen = strongest(view.ravel(), TRACKED // (4 * len(weights)))
        kept = np.zeros(view.size, bool)
        kept[chosen] = True
        view[...] = np.where(kept.reshape(view.shape), view, 0)
    return np.flatnonzero(strength)


def _boundary(e: Explanation) -> dict[str, Any] | None:
    """Return the plane of two inputs, coloured by what the network says, in every frame."""
    model = e.model
    if model.sizes[0] != 2 or not (model.classifies or model.sizes[-1] == 1):
        return None
    extent = _extent(e.X)
    grid = _grid(extent)
    copy = model.copy(dtype="float64")
    places = e.recorder.frames(FRAMES)
    colours = []
    for k in places:
        copy.params[:] = e.recorder.states[k]
        colours.append(copy.predict_proba(grid) if copy.classifies else forward(copy, grid)[1][-1])
    return {
        "n": BOUNDARY,
        "extent": extent,
        "classes": model.sizes[-1] if model.classifies else 0,
        "frames": _bytes(np.stack(colours)),
        "points": _points(e.X, e.y),
    }


def _extent(X: Array) -> list[float]:
    low, high = X.min(axis=0), X.max(axis=0)
    margin = np.maximum(0.15 * (high - low), 0.5)
    return [float(v) for v in (*(low - margin), *(high + margin))]


def _grid(extent: list[float]) -> Array:
    x0, y0, x1, y1 = extent
    across, up = np.linspace(x0, x1, BOUNDARY), np.linspace(y1, y0, BOUNDARY)
    return np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)


def _bytes(values: Array) -> dict[str, Any]:
    """Return planes as one byte a cell.

    Two classes: the probability of the second. More: class · 16 + how sure, 0..15. A value: between
    the least and the most.
    """
    values = np.nan_to_num(values, nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST)
    values = np.clip(values, -LARGEST, LARGEST)
    low, high = float(values.min()), float(values.max())
    if values.shape[-1] == 2:
        cells = np.round(255 * values[..., 1])
    elif values.shape[-1] > 2:
        cells = 16 * np.minimum(values.argmax(-1), 15) + np.round(15 * values.max(-1))
    else:
        cells = np.round(255 * (values[..., 0] - low) / ((high - low) or 1))
    return {"u8": _base64(cells.astype(np.uint8)), "low": low, "high": high}


def _points(X: Array, y: Array) -> list[list[float | None]]:
    rows = np.linspace(0, len(X) - 1, min(len(X), POINTS)).round().astype(int)
    targets = y.reshape(len(y), -1)[:, 0]
    return [[_short(X[r, 0]), _short(X[r, 1]), _short(targets[r])] for r in rows]


def _surface(e: Explanation, weights: tuple[Place, Place] | None) -> dict[str, Any]:
    s = e.surface if weights is None else e.loss_over(*weights)
    return {
        "chosen": weights is not None,
        "names": [e.name_of(index) for index in s.indices],
        "u": _pack(s.u),
        "v": _pack(s.v),
        "loss": _pack(np.minimum(np.nan_to_num(s.loss, nan=LARGEST), LARGEST)),
        "path": _pack(s.path),
        "arrows": _pack(s.arrows),
    }


def _linear() -> dict[str, Any]:
    found = compare()
    extent = _extent(found.X)
    grid = _grid(extent)
    return {
        "n": BOUNDARY,
        "extent": extent,
        "classes": 2,
        "sizes": list(found.relu.sizes),
        "frames": _bytes(np.stack([m.predict_proba(grid) for m in (found.identity, found.relu)])),
        "points": _points(found.X, found.y),
        "accuracy": list(found.accuracy),
        "weights": [_pack(W) for W in found.identity.weights],
        "W": _pack(found.W),
        "b": _pack(found.b),
        "difference": found.difference,
    }


def _image_shape(e: Explanation) -> list[int] | None:
    """Return [height, width] of what may be images: ink from 0 up, in a square, of some class."""
    n = e.model.sizes[0]
    side = round(n**0.5)
    if not e.model.classifies or side * side != n or not 8 <= side <= 32:
        return None
    return [side, side] if e.X.min() >= 0 and e.X.max() > 0 else None


def _scores(e: Explanation, drawn: Array, rows: int) -> list[int]:
    """Return which of the drawn outputs can be traced to the pixels: right or most likely."""
    strength = e.layers[-1].A[:rows][:, drawn].max(axis=0).astype(np.float64)
    strength[np.isin(drawn, e.y[:rows])] = np.inf
    return [int(place) for place in strongest(strength, SCORES)]


def _pack(values: Array) -> Any:
    """Return numbers as JSON can hold them; many of them as the bytes of float32."""
    if values.size > 512:
        return {"f32": _base64(values.astype("<f4")), "shape": list(values.shape)}
    return np.vectorize(_short, otypes=[object])(values).tolist() if values.size else []


def _base64(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _short(value: float) -> float | None:
    return _finite(float(f"{value:.9g}"))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _apart(value: float) -> float:
    """Return how far two numbers are apart, with the largest number for what is none."""
    return float(value) if np.isfinite(value) else float(np.finfo(np.float64).max)
