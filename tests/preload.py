"""Programs in a process of their own, with a library preloaded that has their system calls fail."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def build(source, folder):
    """Compile a library from a C file beside this one; skip the test where that cannot be."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        pytest.skip("has calls fail by LD_PRELOAD, under Linux with glibc")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the library that has calls fail")
    library = Path(folder, source).with_suffix(".so")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", HERE / source]
    subprocess.run([*command, "-o", library, "-ldl"], check=True)
    return library


def run(library, *arguments, timeout=600, **environment):
    """Run Python with a library preloaded; return what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "LD_PRELOAD": str(library), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
