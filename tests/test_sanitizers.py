"""The C sources under sanitizers: no finding, and the bits that they have without.

The whole test suite runs under them with `python tests/sanitize.py`.
"""

import os
import shutil
import subprocess
import sys

import pytest
from levels import LEVELS
from programs import build
from test_neon import check, check_steps, sparse_fits

LIBRARIES = {"address,undefined": ["asan", "ubsan"], "thread": ["tsan"]}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def built(sanitizer, mains, folder):
    """Build programs with all of csrc; give the folder they are in."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    for name in LIBRARIES[sanitizer]:
        command = ["gcc", f"-print-file-name=lib{name}.so"]
        if not subprocess.run(command, capture_output=True, check=True).stdout.startswith(b"/"):
            pytest.skip(f"gcc has no lib{name}")
    compiler = ["gcc", "-g", "-DFM_COMPACT", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    return build(compiler, mains, folder)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("address")
    return built("address,undefined", ["neon_main", "threads_main"], folder)


@pytest.fixture(scope="module")
def thread(tmp_path_factory):
    return built("thread", ["threads_main"], tmp_path_factory.mktemp("thread"))


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, check=False, timeout=500, **options
    )
    assert done.returncode == 0, (done.stdout[-200:] + done.stderr[-5000:]).decode(errors="replace")
    return done.stdout


@pytest.mark.parametrize("level", LEVELS)
def test_steps_under_the_address_sanitizer(level, address, long):
    """No access out of bounds, no undefined behaviour, and the bits of the build without."""
    # the program never gives back what it takes
    options = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    program = address / "neon_main"

    def of(jobs):
        return run(program, level, input=jobs, env=options)

    check_steps(of, 1 if long else 11)
    check(of, sparse_fits("float32") + sparse_fits("float64"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_threads(sanitizer, level, request, long):
    """Teams and forks: no leak, and no two threads in the same memory without an order."""
    n = 50 if long else 4
    found = run(request.getfixturevalue(sanitizer) / "threads_main", level, n)
    print(f"{sanitizer}, {level}: {found.decode().strip()}")
    assert found == f"{4 * n} networks, 0 wrong\n".encode()
