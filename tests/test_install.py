"""What a newcomer does: the README's first command, and installing a wheel without a compiler."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONPATH", "VIRTUAL_ENV")

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="the README's commands are for a Unix shell"
)


def run(command, folder, environment=None, **variables):
    """Run a command in a folder, with a virtual environment's programs first on the path."""
    settings = {key: value for key, value in os.environ.items() if key not in PINS}
    if environment is not None:
        settings["PATH"] = f"{environment / 'bin'}{os.pathsep}{settings['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=settings | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def fresh_environment(path):
    run([sys.executable, "-m", "venv", path], path.parent)
    return path


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The project as a fresh clone has it: tracked files only."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: there is nothing to clone")
    folder = tmp_path_factory.mktemp("index")
    command = ["pip", "download", "-q", "--no-deps", "-d", folder, "setuptools"]
    index = subprocess.run([sys.executable, "-m", *command], capture_output=True, check=False)
    if index.returncode != 0:
        pytest.skip("no package index can be reached, so nothing can be installed afresh")
    folder = tmp_path_factory.mktemp("clone")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_readmes_first_command(clone, tmp_path):
    (command,) = re.findall(r"<!-- try -->\n```sh\n(.*?)\n```", (clone / "README.md").read_text())
    environment = fresh_environment(tmp_path / "environment")
    shown = run(["bash", "-c", command], clone, environment)
    assert float(re.search(r"test accuracy +([\d.]+)", shown)[1]) >= 0.97
    assert float(re.search(r"seconds +([\d.]+)", shown)[1]) < 5
    assert (clone / "model.safetensors").stat().st_size > 4 * 7510
    again = run(["python", "-m", "fastmlp", "info", "model.safetensors"], clone, environment)
    assert "64, 100, 10" in again


def test_the_wheel_needs_no_compiler(clone, tmp_path):
    """The sdist is complete, a wheel comes of it, and installs where nothing can be compiled."""
    run([sys.executable, "-m", "build", "--outdir", tmp_path, "."], clone)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")

    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        str(path.relative_to(clone))
        for folder in ("src", "csrc")
        for ending in ("pyx", "pxd", "py", "c", "h", "js", "css", "html")
        for path in (clone / folder).rglob(f"*.{ending}")
        if not re.search(r"fastmlp/_\w+\.c$", str(path))
    }
    assert sources <= held, "the sdist lacks sources"
    assert not [name for name in held if re.search(r"fastmlp/_\w+\.(c|so)$|_blas_int\.pxi$", name)]

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert any(name.endswith("fastmlp/py.typed") for name in names)
    assets = {name for name in sources if name.endswith((".js", ".css", ".html"))}
    assert len(assets) == 9 and {name.removeprefix("src/") for name in assets} <= set(names)
    assert not [name for name in names if name.endswith((".pyx", ".c", ".h"))]
    if "t-" not in wheel.name:
        assert "cp311-abi3" in wheel.name

    environment = fresh_environment(tmp_path / "environment")
    no_compiler = {"CC": "false", "CXX": "false"}
    run(
        ["pip", "install", "-q", "--only-binary", ":all:", wheel],
        tmp_path,
        environment,
        **no_compiler,
    )
    shown = run(["fastmlp", "train", "--data", "digits", "--json"], tmp_path, environment)
    assert '"engine"' in shown
    shown = run(["fastmlp", "explain", "--html", tmp_path / "report.html"], tmp_path, environment)
    assert (tmp_path / "report.html").stat().st_size > 50_000
