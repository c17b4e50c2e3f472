"""Race the contenders: ``python bench/run.py [--set main] [--rounds 5] [--threads 1 2]``.

The rules: every contender is a process of its own, held to as many processors as it has threads,
with the variables that pin OpenBLAS to older kernels unset. All have the same data, dtype,
initial weights and order of the rows. They take turns, one at a time, the FMA probe among them,
and every round another one begins; figures are medians over the rounds. The final training loss
of all has to agree, so that nobody wins by doing less.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import report
from contender import PROBE, Contender, names, usable_cpus
from shapes import SETS, SHAPES, Shape
from tqdm import tqdm

# How far a contender's last loss may be from ours, relative to it. Rounding lets trajectories
# part slowly; scikit-learn, which shuffles on its own, ends somewhere near.
LOSS_BOUND, OWN_ORDER_BOUND = 0.002, 0.1


def race(shape: Shape, threads: int, rounds: int, chosen: list[str] | None = None) -> list[dict]:
    """Race the contenders on one shape; a row for each, absent ones with the reason."""
    wanted = [name for name in names(shape.task) if chosen is None or name in chosen]
    contenders = []
    for name in tqdm([PROBE, *wanted], desc=f"{shape.name}, starting", leave=False):
        contenders.append(Contender(name, shape, threads))
    here = [contender for contender in contenders if not contender.absent]
    for i in tqdm(range(rounds), desc=f"{shape.name}, rounds", leave=False):
        first = i % len(here)
        for contender in here[first:] + here[:first]:
            contender.turn()
    for contender in here:
        contender.close()
    probe = statistics.median(turn["gflops"] for turn in contenders[0].turns)
    return judge([row(contender, shape, threads, probe) for contender in contenders[1:]])


def row(contender: Contender, shape: Shape, threads: int, probe: float) -> dict[str, Any]:
    """What a contender has reached."""
    result = {
        "shape": shape.name,
        "task": shape.task,
        "rows": shape.rows,
        "threads": threads,
        "contender": contender.name,
        "absent": contender.absent,
    }
    if contender.absent:
        return result
    seconds = [turn["seconds"] / shape.repeats / shape.rows for turn in contender.turns]
    median = statistics.median(seconds)
    gflops = shape.flops_per_row / median / 1e9
    return result | {
        "version": contender.about["version"],
        "kernels": contender.about["kernels"],
        "seconds_per_row": seconds,
        "samples_per_second": 1 / median,
        "gflops": gflops,
        "probe": probe,
        "percent": 100 * gflops / probe,
        "spread": (max(seconds) - min(seconds)) / median,
        "value": contender.turns[-1]["value"],
    }


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to every row whether its last loss (or probability) agrees with the first row's."""
    ours = next(row["value"] for row in rows if not row["absent"])
    for row in rows:
        if not row["absent"]:
            wide = row["contender"] == "scikit-learn" and row["task"] == "train"
            bound = OWN_ORDER_BOUND if wide else LOSS_BOUND
            row["agrees"] = abs(row["value"] - ours) <= bound * abs(ours)  # NaN does not
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=SHAPES, metavar="NAME", help="these shapes")
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS), help="or these (all)")
    parser.add_argument("--contender", nargs="+", metavar="NAME", help="only these, ours always")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="one race for each")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there")
    parser.add_argument("--chart", metavar="FILE", help="draw the five main shapes (.png)")
    parser.add_argument("--results", action="store_true", help="put a section in RESULTS.md")
    parser.add_argument("--load", nargs="+", metavar="FILE", help="race nothing, read --json files")
    arguments = parser.parse_args()
    if max(arguments.threads) > len(usable_cpus()):
        parser.error(f"--threads {max(arguments.threads)}: {len(usable_cpus())} may be used here")

    if arguments.load:
        loaded = [json.loads(Path(name).read_text()) for name in arguments.load]
        machine, rows = loaded[0]["machine"], [row for one in loaded for row in one["rows"]]
        print(report.section(machine, rows))
    else:
        machine, rows = report.machine(), []
        print(report.about(machine))
        shapes = arguments.shape or [shape.name for name in arguments.set for shape in SETS[name]]
        chosen = arguments.contender and ["fastmlp", *arguments.contender]
        for threads in arguments.threads:
            for shape in map(SHAPES.get, shapes):
                raced = race(shape, threads, arguments.rounds, chosen)
                rows += raced
                print(f"\n{report.details(raced)}", flush=True)
        print(f"\n{report.summary(rows)}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    if arguments.chart:
        from chart import draw

        draw(machine, rows, arguments.chart)
    if arguments.results:
        report.publish(machine, rows)


if __name__ == "__main__":
    main()
