"""Fixtures that several modules share."""

import pytest
from commandline import OLD, rents


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with t.csv, to work in; gives its columns, and what it holds."""
    monkeypatch.chdir(tmp_path)
    rents(tmp_path / "t.csv")
    (tmp_path / "old").write_bytes(OLD)
    return tmp_path
