"""Builds programs in C out of a file of tests/ and all of csrc/."""

import subprocess
from pathlib import Path

TESTS = Path(__file__).parent
CSRC = TESTS.parent / "csrc"


def build(compiler, mains, folder):
    """Build tests/MAIN.c into folder/MAIN for every one of `mains`; return the folder."""
    compiler = [*compiler, "-std=gnu11", "-ffp-contract=off", "-Wall", "-Werror", "-pthread"]
    sources = [source for source in CSRC.glob("*.c") if not source.name.endswith(".inc.c")]
    jobs = [
        subprocess.Popen([*compiler, f"-I{CSRC}", "-c", source, "-o", folder / f"{source.stem}.o"])
        for source in [*sources, *(TESTS / f"{main}.c" for main in mains)]
    ]
    assert [job.wait() for job in jobs] == [0] * len(jobs)
    objects = [folder / f"{source.stem}.o" for source in sources]
    for main in mains:
        command = [*compiler, *objects, folder / f"{main}.o", "-o", folder / main, "-lm"]
        subprocess.run(command, check=True)
    return folder
