"""Runs command lines in this process, checks how they end, and gives them a table to learn."""

import contextlib
import csv
import io
import json
import signal
import subprocess
import sys

import numpy as np

from fastmlp import cli

OLD = b"what was there before"


def run(*argv):
    """Run a command line; return the exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(argument) for argument in argv])
        except SystemExit as stop:  # how argparse ends
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def ctrl_c(*argv):
    """Interrupt a training in a process of its own, after an epoch; return what `run` does."""
    command = [sys.executable, "-m", "fastmlp", "train", "--epochs", "1000000", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        seen = b""
        while b"loss=" not in seen:  # the bar after the first epochs: it is training
            seen += (more := process.stderr.read1())
            assert more, seen
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    return process.returncode, out.decode(), err.decode()


def refused(result, what="", code=2):
    """Check an exit code, one sentence on standard error, and silence on standard output."""
    assert result[0] == code and result[1] == "", result
    assert result[2].count("\n") == 1 and result[2].startswith("fastmlp: error: "), result[2]
    assert what in result[2], result[2]


def train(*argv):
    """Train with --json; give what it prints."""
    code, out, err = run("train", "--json", *argv)
    assert (code, err) == (0, ""), err
    return json.loads(out)


def predictions(*argv):
    code, out, err = run("predict", *argv)
    assert (code, err) == (0, ""), err
    rows = list(csv.reader(io.StringIO(out)))
    return rows[0], rows[1:]


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def split(n, n_test, n_validation=0):
    order = np.random.default_rng(0).permutation(n)
    middle = n_test + n_validation
    return order[middle:], order[n_test:middle], order[:n_test]


def rents(path, n=240, order=None, end="\n", bom=False, more=False):
    """Write a table of flats: two columns of text, two of numbers, and their rents."""
    rng = np.random.default_rng(0)
    city = rng.choice(["Köln", "Bonn", "Aachen, West"], n)
    rooms = rng.integers(1, 6, n)
    size = np.round(rooms * 20 + rng.normal(0, 5, n), 1)
    garden = rng.choice(["True", "False"], n)
    price = np.array([{"K": 14, "B": 11, "A": 8}[name[0]] for name in city])
    rent = np.round(size * price + 100 * (garden == "True") + rng.normal(0, 10, n), 2)
    columns = {"city": city, "rooms": rooms, "size": size, "garden": garden, "rent": rent}
    columns = {name: columns[name].tolist() for name in order or columns}
    if more:
        columns["note"] = [""] * n
    with path.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        writer = csv.writer(file, lineterminator=end)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return columns
