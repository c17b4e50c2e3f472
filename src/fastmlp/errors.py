"""The exceptions of fastmlp that are not plain ValueErrors."""

__all__ = ["DivergedError", "FileFormatError"]


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
