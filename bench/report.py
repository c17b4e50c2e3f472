"""What the race has shown, as Markdown, and bench/RESULTS.md."""

import datetime
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

from contender import usable_cpus

import fastmlp

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
MARK = "<!-- newest first -->\n"
Row = dict[str, Any]


def machine() -> dict[str, Any]:
    """Where and with what is measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable": len(usable_cpus()),
        "caches": caches(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "simd": fastmlp.engines.simd_level(),
    }


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def caches() -> str:
    """Of one core, as Linux tells them: L1d 48K, L2 1024K, ..."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / n).read_text().strip() for n in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level}{'d' if kind == 'Data' else ''} {size}")
    return ", ".join(found) or "unknown"


def about(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores of which {machine['usable']} were used at "
        f"most ({machine['caches']}), {machine['simd']}; {machine['system']}, "
        f"Python {machine['python']}; commit {machine['commit']}"
    )


def versions(rows: list[Row]) -> str:
    """Every contender with its version and what computes in it; absent ones with the reason."""
    lines = {}
    for row in rows:
        if row["absent"]:
            lines[row["contender"]] = f"- {row['contender']}: absent, {row['absent']}"
        else:
            kernels = f" ({row['kernels']})"
            lines[row["contender"]] = f"- {row['contender']} {row['version']}{kernels}"
    return "\n".join(lines.values())


def details(rows: list[Row]) -> str:
    """The rows of one race; `fastmlp is` counts how many times as fast as the contender."""
    present = [row for row in rows if not row["absent"]]
    ours, one_row = present[0], present[0]["rows"] == 1
    title = f"### {ours['shape']}, {ours['threads']} thread{'s' * (ours['threads'] > 1)}"
    value = "probability" if ours["task"] == "predict" else "final loss"
    if one_row:
        columns = ["µs a row", "spread", "fastmlp is", value]
    else:
        title += f" (probe {ours['probe']:.0f} GFLOP/s)"
        columns = ["samples/s", "GFLOP/s", "of the probe", "spread", "fastmlp is", value]
    head = f"| contender | {' | '.join(columns)} |"
    lines = [title, "", head, "|---" + "|--:" * len(columns) + "|"]
    for row in present:
        if one_row:
            speeds = f"{1e6 / row['samples_per_second']:.2f}"
        else:
            speeds = (
                f"{row['samples_per_second']:,.0f} | {row['gflops']:.1f} | {row['percent']:.0f} %"
            )
        lines.append(
            f"| {row['contender']} | {speeds} | {100 * row['spread']:.0f} % "
            f"| {times_as_fast(ours, row):.2f} × "
            f"| {row['value']:.5g}{'' if row['agrees'] else ' **differs**'} |"
        )
    lines += [f"\nAbsent: {row['contender']}, {row['absent']}." for row in rows if row["absent"]]
    return "\n".join(lines)


def races(rows: list[Row]) -> list[list[Row]]:
    """Rows of the same shape and threads together."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["shape"], row["threads"]), []).append(row)
    return list(found.values())


def summary(rows: list[Row]) -> str:
    """A line for every race: ours, the best of the others, and how many times as fast we are."""
    lines = [
        "| network | threads | fastmlp | fastmlp blas | fastest peer | ÷ fastest peer "
        "| ÷ PyTorch eager | losses |",
        "|---|--:|--:|--:|---|--:|--:|---|",
    ]
    for raced in races(rows):
        present = {row["contender"]: row for row in raced if not row["absent"]}
        ours = present["fastmlp"]
        others = [row for name, row in present.items() if not name.startswith("fastmlp")]
        best = min(others, key=lambda row, ours=ours: times_as_fast(ours, row), default=None)
        differing = [row["contender"] for row in present.values() if not row["agrees"]]
        cells = [
            ours["shape"],
            str(ours["threads"]),
            speed(ours),
            speed(present.get("fastmlp blas")),
            f"{best['contender']}, {speed(best)}" if best else "–",
            ratio(ours, best),
            ratio(ours, present.get("PyTorch eager")),
            f"**differ**: {', '.join(differing)}" if differing else "agree",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speed(row: Row | None) -> str:
    """GFLOP/s and the share of the probe, or the time of one row."""
    if row is None:
        return "–"
    if row["rows"] == 1:
        return f"{1e6 / row['samples_per_second']:.2f} µs"
    return f"{row['gflops']:.1f} GFLOP/s ({row['percent']:.0f} %)"


def times_as_fast(ours: Row, other: Row) -> float:
    """The median over the rounds: where the machine is shared, turns of one round are alike."""
    pairs = zip(ours["seconds_per_row"], other["seconds_per_row"], strict=True)
    return statistics.median(theirs / mine for mine, theirs in pairs)


def ratio(ours: Row, other: Row | None) -> str:
    """How many times as fast as another; bold where we lose."""
    if other is None:
        return "–"
    times = times_as_fast(ours, other)
    return f"{times:.2f}" if times >= 1 else f"**{times:.2f}, slower**"


def section(machine: dict[str, Any], rows: list[Row]) -> str:
    """All of a run, as bench/RESULTS.md has it."""
    parts = [
        f"## {machine['date']}, commit {machine['commit']}",
        about(machine) + ".",
        summary(rows),
        "Who took part, and what computes in it:\n\n" + versions(rows),
        *map(details, races(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def publish(machine: dict[str, Any], rows: list[Row]) -> None:
    """Put a section on top of those in bench/RESULTS.md."""
    before, mark, after = RESULTS.read_text().partition(MARK)
    if not mark:
        raise SystemExit(f"{RESULTS.name} has no line {MARK.strip()}")
    RESULTS.write_text(f"{before}{mark}\n{section(machine, rows)}{after}")
