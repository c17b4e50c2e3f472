"""What a newcomer does: the README's first command, and installing a wheel without a compiler."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
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
def clones(tmp_path_factory):
    """Two folders with the project as a fresh clone has it: tracked files only."""
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
    folders = [tmp_path_factory.mktemp("clone") for _ in range(2)]
    for name in filter(None, listed.stdout.split("\0")):
        for folder in folders if (ROOT / name).exists() else ():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folders


@pytest.fixture(scope="module")
def done(clones, tmp_path_factory):
    """What there is to look at, by what was done for it: both at once, since each takes minutes."""
    with ThreadPoolExecutor() as pool:
        yield {
            do: pool.submit(do, clone, tmp_path_factory.mktemp("made"))
            for do, clone in zip((try_the_readme, build_and_install), clones, strict=True)
        }


def try_the_readme(clone, folder):
    """Run the README's first command in a fresh environment; give what it and `info` print."""
    (command,) = re.findall(r"<!-- try -->\n```sh\n(.*?)\n```", (clone / "README.md").read_text())
    environment = fresh_environment(folder / "environment")
    shown = run(["bash", "-c", command], clone, environment)
    again = run(["python", "-m", "fastmlp", "info", "model.safetensors"], clone, environment)
    return shown, again


def build_and_install(clone, folder):
    """Build an sdist and of that a wheel, and use it where nothing can be compiled."""
    run([sys.executable, "-m", "build", "--outdir", folder, "."], clone)
    (wheel,) = folder.glob("*.whl")
    environment = fresh_environment(folder / "environment")
    no_compiler = {"CC": "false", "CXX": "false"}
    run(
        ["pip", "install", "-q", "--only-binary", ":all:", wheel],
        folder,
        environment,
        **no_compiler,
    )
    shown = run(["fastmlp", "train", "--data", "digits", "--json"], folder, environment)
    run(["fastmlp", "explain", "--html", folder / "report.html"], folder, environment)
    return folder, shown


def test_the_readmes_first_command(done, clones):
    shown, again = done[try_the_readme].result()
    assert float(re.search(r"test accuracy +([\d.]+)", shown)[1]) >= 0.97
    assert float(re.search(r"seconds +([\d.]+)", shown)[1]) < 5
    assert (clones[0] / "model.safetensors").stat().st_size > 4 * 7510
    assert "64, 100, 10" in again


def test_the_wheel_needs_no_compiler(done, clones):
    """The sdist is complete, a wheel comes of it, and installs where nothing can be compiled."""
    folder, shown = done[build_and_install].result()
    clone = clones[1]
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")

    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        str(path.relative_to(clone))
        for part in ("src", "csrc")
        for ending in ("pyx", "pxd", "py", "c", "h", "js", "css", "html")
        for path in (clone / part).rglob(f"*.{ending}")
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
    assert '"engine"' in shown
    assert (folder / "report.html").stat().st_size > 50_000
