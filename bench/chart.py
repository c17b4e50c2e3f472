"""The chart of the five main shapes: how much of the machine every contender uses."""

from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from shapes import SETS

# Grey that can be read on white and on black, the background being none.
TEXT = "#7d8590"
COLOURS = {
    "fastmlp": "#e8590c",
    "fastmlp blas": "#f4a26b",
    "JAX": "#2f7ed8",
    "PyTorch compiled": "#2a9d8f",
    "PyTorch eager": "#7ac7bd",
    "scikit-learn": "#9b72cf",
    "NumPy": "#9aa0a6",
}


def draw(machine: dict[str, Any], rows: list[dict[str, Any]], path: str) -> None:
    """Draw a panel for every number of threads, and write them as PNG."""
    names = [shape.name for shape in SETS["main"]]
    rows = [row for row in rows if row["shape"] in names and not row["absent"]]
    threads = sorted({row["threads"] for row in rows})
    names = [name for name in names if any(row["shape"] == name for row in rows)]
    shown = [name for name in COLOURS if any(row["contender"] == name for row in rows)]
    if not rows:
        raise SystemExit("none of the five main shapes was raced: nothing to draw")
    size = (1.4 + 4.2 * len(threads), 1.4 + 0.155 * len(names) * (len(shown) + 1.5))
    plt.rcParams |= {"font.size": 9} | dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT
    )
    figure, panels = plt.subplots(
        1, len(threads), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, n in zip(panels[0], threads, strict=True):
        panel(axes, [row for row in rows if row["threads"] == n], names, shown)
        axes.set_title(f"{n} core{'s' * (n > 1)}", color=TEXT, fontsize=10)
        axes.set_xlabel("% of the peak", fontsize=8)
    figure.suptitle(
        "How much of the CPU's peak speed training reaches (longer is faster)\n", fontsize=11
    )
    figure.text(
        0.5,
        1 - 0.33 / size[1],
        f"five networks by the widths of their layers · {machine['cpu']}, float32, SGD",
        ha="center",
        va="top",
        fontsize=8,
    )
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130, transparent=True)


def panel(axes: plt.Axes, rows: list[dict[str, Any]], names: list[str], shown: list[str]) -> None:
    """A group of bars for every shape, a bar for every contender."""
    percent = {(row["shape"], row["contender"]): row["percent"] for row in rows}
    pitch = len(shown) + 1.5
    for i, contender in enumerate(shown):
        places = [pitch * j + i for j in range(len(names))]
        lengths = [percent.get((name, contender), 0) for name in names]
        bars = axes.barh(places, lengths, height=0.9, color=COLOURS[contender], label=contender)
        ours = contender == "fastmlp"
        axes.bar_label(
            bars,
            [f"{length:.0f} %" if length else "absent" for length in lengths],
            padding=2,
            fontsize=8 if ours else 6.5,
            color=COLOURS[contender] if ours else TEXT,
            fontweight="bold" if ours else "normal",
        )
    middle = (len(shown) - 1) / 2
    axes.set_yticks([pitch * j + middle for j in range(len(names))], [two_lines(n) for n in names])
    axes.set_ylim(pitch * len(names) - 1.5, -1)
    axes.set_xlim(0, 100)
    axes.grid(axis="x", color=TEXT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def two_lines(name: str) -> str:
    layers, _, batch = name.partition(" b")
    return f"{layers}\n{batch} rows a step"
