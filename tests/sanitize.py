"""Runs the tests under a sanitizer: ``python tests/sanitize.py KIND [ARGUMENT ...]``.

``address``
    The tests of kernels, core and all that stands on them, with the modules built under the address
    and the undefined-behaviour sanitizer.
``thread``
    The tests with several threads, with the modules built under the thread sanitizer.
``valgrind``
    tests/short_fit.py under valgrind's memcheck, with the modules as they are shipped. It knows no
    AVX-512, so that the level is AVX2.

What follows is handed to Python in place of these tests, to run anything on such a build:
``python tests/sanitize.py address -m pytest tests/test_bits.py``. The checkout stays as it is: a
copy of it is built, in a temporary folder. Needs Linux, GCC with its libraries, or valgrind, and in
the running environment what pyproject.toml asks for to build and to test.

Every process writes what is found into a file of its own, whatever becomes of its output. The last
line says how many findings there are, and the exit code is 0 only where there are none and the
command has succeeded.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
KERNELS_AND_CORE = [
    *("bits", "checkpoint", "csr", "data", "epoch", "fused", "gradients", "inference", "inputs"),
    *(
        "estimators",
        "estimators_extras",
        "estimators_files",
        "explain",
        "kernels",
        "maths",
        "model",
    ),
    *("options", "persist", "steps", "threads", "trainer", "training", "vector_math"),
    *("worked_examples", "zeros"),
]
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
LEFT_OUT = {
    "preload an allocator of their own": ["tests/test_epoch.py::test_no_step_allocates"],
    "see what is kept, as nothing is here": [
        "tests/test_inference.py::test_working_space_is_kept_for_the_next_call"
    ],
    "promise a time": [
        "tests/test_epoch.py::test_ctrl_c_is_answered_within_a_tenth_of_a_second",
    ],
}
THREADS = ["threads", "inference", "csr", "zeros"]
# Under the thread sanitizer a child that was forked beside threads cannot make others.
FORKS = [
    "test_forks_in_the_middle_of_another_fit",
    "test_a_fork_between_epochs_leaves_two_fits",
    "test_a_fork_in_a_signal_handler_in_the_middle_of_a_step",
    "test_a_fork_in_a_signal_handler_in_the_middle_of_gradients",
    "test_a_fork_in_the_middle_of_a_prediction_leaves_two",
]
# And this takes minutes there.
SLOW = "tests/test_inference.py::test_an_interrupt_ends_a_prediction_in_many_threads"
COMMANDS = {
    "address": [
        *PYTEST,
        *(f"--deselect={test}" for tests in LEFT_OUT.values() for test in tests),
        *(f"tests/test_{name}.py" for name in KERNELS_AND_CORE),
    ],
    "thread": [
        *PYTEST,
        *(f"--deselect=tests/test_{name}.py::{test}" for name in THREADS for test in FORKS),
        f"--deselect={SLOW}",
        *(f"tests/test_{name}.py" for name in THREADS),
        "tests/test_concurrency.py",
    ],
    "valgrind": ["tests/short_fit.py"],
}
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
LIBRARIES = {"address": ["asan", "ubsan"], "thread": ["tsan"]}
FINDING = re.compile(r"(?:ERROR|FATAL|WARNING): \w+Sanitizer: |: runtime error: ")
MEMCHECK = ["valgrind", "-q", "--leak-check=full", "--show-leak-kinds=definite", "--xml=yes"]
# Where an error shows that may be its caller's.
LIBRARY = re.compile(r"vgpreload|/libc\.so|/libm\.so|openblas")


def build(kind: str, copy: Path) -> None:
    """Copy the checkout and build its modules there."""
    ignored = shutil.ignore_patterns(".git", "build", "*.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    environment = dict(os.environ)
    if kind in SANITIZERS:
        environment["FASTMLP_SANITIZE"] = SANITIZERS[kind]
    command = [sys.executable, "setup.py", "-q", "build_ext", "-i"]
    subprocess.run(command, cwd=copy, env=environment, check=True)


def preloaded(name: str) -> str:
    """Return the path of a sanitizer's library: it has to be in the process before Python is."""
    command = ["gcc", f"-print-file-name=lib{name}.so"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(path):
        sys.exit(f"gcc has no lib{name}.so: install its sanitizers")
    return path


def settings(kind: str, copy: Path, reports: Path) -> dict[str, str]:
    """Return the environment in which the tests run."""
    # files that claim to be huge make NumPy ask for it, and say so when it gets nothing
    options = f"log_path={reports / 'report'}:allocator_may_return_null=1"
    found = {"PYTHONPATH": str(copy / "src"), "PYTHONMALLOC": "malloc"}
    if kind in LIBRARIES:
        found["LD_PRELOAD"] = " ".join(map(preloaded, LIBRARIES[kind]))
    # CPython frees little of its own at the end: leaks are looked for in tests/test_sanitizers.py
    found["ASAN_OPTIONS"] = f"{options}:detect_leaks=0"
    found["UBSAN_OPTIONS"] = f"{options}:print_stacktrace=1"
    found["TSAN_OPTIONS"] = f"{options}:die_after_fork=0"
    return {**os.environ, **found}


def memcheck_findings(report: Path) -> list[str]:
    """Return the errors of memcheck that are this project's, as text.

    CPython and the loader make some of their own. An error is ours where its innermost frame is, or
    the one that called the C library or BLAS.
    """
    try:
        errors = ElementTree.parse(report).getroot().findall("error")
    except ElementTree.ParseError as problem:
        return [f"the report cannot be read: {problem}\n"]
    found = []
    for error in errors:
        frames = error.findall("stack")[0].findall("frame")
        files = [frame.findtext("obj", "") for frame in frames]
        culprit = next((file for file in files if not LIBRARY.search(file)), "")
        if "/src/fastmlp/" in culprit:
            where = "\n".join(f"    {frame.findtext('fn', '?')}" for frame in frames)
            found.append(f"{error.findtext('kind')}\n{where}\n")
    return found


def findings(report: Path) -> list[str]:
    """Return what one process has found."""
    if report.suffix == ".xml":
        return memcheck_findings(report)
    text = report.read_text(errors="replace")
    starts = [match.start() for match in FINDING.finditer(text)]
    return [text[i:j] for i, j in itertools.pairwise([*starts, len(text)])]


def main(kind: str, arguments: list[str]) -> int:
    """Build, run, count."""
    with tempfile.TemporaryDirectory(prefix="fastmlp-") as folder:
        copy, reports = Path(folder, "copy"), Path(folder, "reports")
        reports.mkdir()
        start = time.monotonic()
        build(kind, copy)
        built = time.monotonic()
        command = [sys.executable, *(arguments or COMMANDS[kind])]
        if kind == "valgrind":
            command = [*MEMCHECK, f"--xml-file={reports}/report.%p.xml", *command]
        done = subprocess.run(command, cwd=copy, env=settings(kind, copy, reports), check=False)
        ran = time.monotonic()
        found = [finding for path in sorted(reports.iterdir()) for finding in findings(path)]
    print(*found, sep="\n")
    print(
        f"{kind}: {len(found)} findings, exit code {done.returncode}, "
        f"{built - start:.0f} s to build, {ran - built:.0f} s to run"
    )
    return 1 if found or done.returncode else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
