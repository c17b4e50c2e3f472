"""Memory that runs out: MemoryError, nothing lost, nothing leaked, and on it goes.

The cases are those of memory_faults.py, which runs in a process of its own.
"""

import json
from pathlib import Path

import preload
import pytest

PROGRAM = Path(__file__).with_name("memory_faults.py")
# With the interpreter's pools, or without them: then its smallest allocation can fail as well.
POOLS = {"PYTHONMALLOC": "default"}
NO_POOLS = {"PYTHONMALLOC": "malloc"}


@pytest.mark.parametrize(
    ("whose", "every", "environment"),
    [
        ("ours", 1, POOLS),
        ("threads", 1, POOLS),
        ("arrays", 41, POOLS),
        ("python", 13, POOLS),
        ("behalf", 41, NO_POOLS),
    ],
    ids=["ours", "threads", "arrays", "python", "behalf"],
)
def test_the_nth_allocation_fails(whose, every, environment, long, tmp_path):
    """`every` counts where there are too many to fail each of them in a normal run."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    library = preload.build("faults.c", tmp_path)
    output = preload.run(
        library,
        PROGRAM,
        whose,
        1 if long else every,
        FASTMLP_OVERSUBSCRIBE="1",  # threads even for steps that are too small for them
        RUST_BACKTRACE="0",
        timeout=7200,
        **environment,
    )
    cases = [json.loads(line) for line in output.splitlines()]
    assert {case["case"]: case["wrong"] for case in cases if case["wrong"]} == {}
    faults, errors, leaked = (sum(case[key] for case in cases) for key in FIGURES)
    assert errors > 0
    print(f"{whose}: {faults} faults in {len(cases)} cases, {errors} errors, {leaked} leaked")


FIGURES = ("faults", "errors", "leaked")
