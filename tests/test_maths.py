"""docs/maths.md: every block runs, and prints what stands below it."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import commandline
import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "maths.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```\n```text\n(.*?)```", TEXT, re.DOTALL)


def test_every_block_has_its_output():
    assert len(BLOCKS) == len(re.findall(r"^```(?:python|sh)$", TEXT, re.MULTILINE)) > 20


@pytest.mark.parametrize(
    ("command", "expected"), [(code, text) for kind, code, text in BLOCKS if kind == "sh"]
)
def test_commands(command, expected):
    program, *arguments = shlex.split(command)
    code, out, err = commandline.run(*arguments)
    assert (program, code, err) == ("fastmlp", 0, "")
    assert f"\n{expected}" in f"\n{out}"


def test_python(tmp_path, monkeypatch):
    """The blocks are one program, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for kind, code, expected in BLOCKS:
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, "docs/maths.md", "exec"), names)
            assert out.getvalue() == expected, code
    assert (tmp_path / "seven.html").stat().st_size < 3e6
