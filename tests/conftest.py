"""Fixtures that several modules share, and `--long`, for the runs whose figures are published.

The figures of such runs stand in docs/reliability.md.
"""

import signal

import pytest
from commandline import OLD, rents


def pytest_addoption(parser):
    parser.addoption(
        "--long",
        action="store_true",
        help="as many kills, forks, interrupts and examples as docs/reliability.md states",
    )


def pytest_configure(config):
    from hypothesis import settings

    # a shell starts what it runs in the background deaf to Ctrl-C, and so would the programs be
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    is_long = config.getoption("--long")
    settings.register_profile(
        "hostile",
        max_examples=10_000 if is_long else 300,
        deadline=None,
        derandomize=True,
        database=None,
    )


@pytest.fixture(scope="session")
def long(request):
    """Whether this is a long run."""
    return request.config.getoption("--long")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with t.csv, to work in; gives its columns, and what it holds."""
    monkeypatch.chdir(tmp_path)
    rents(tmp_path / "t.csv")
    (tmp_path / "old").write_bytes(OLD)
    return tmp_path
