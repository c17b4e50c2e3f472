"""The exceptions of fastmlp that are not plain ValueErrors, and words for their messages."""

from collections.abc import Sequence

__all__ = ["DivergedError", "FileFormatError", "cut", "listed", "printable", "shown"]


class DivergedError(FloatingPointError):
    """Training left the finite numbers.

    Attributes
    ----------
    epoch, step : int
        Where the loss stopped being finite, both counted from 1.
    """

    def __init__(self, epoch: int, step: int, advice: str) -> None:
        super().__init__(f"the loss is not finite in epoch {epoch}, step {step}: {advice}")
        self.epoch = epoch
        self.step = step
        self._advice = advice

    def __reduce__(self) -> tuple[type["DivergedError"], tuple[int, int, str]]:
        return type(self), (self.epoch, self.step, self._advice)


class FileFormatError(ValueError):
    """A file does not hold what its reader expects; the message names the file and the place."""


def listed(names: Sequence[str]) -> str:
    """Return names in a row, the first ten where they are many, and the beginning of long ones."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(cut(name) if name.isprintable() else shown(name) for name in names[:10]) + more


def printable(text: str) -> str:
    """Return a text for a terminal, without what would steer it or cannot be encoded."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(text: str) -> str:
    """Return a text in quotes, the beginning of it where it is long."""
    return repr(cut(text))


def cut(text: str, most: int = 40) -> str:
    """Return a text, the beginning of it where it is long."""
    return text if len(text) <= most else text[: most - 1] + "…"
