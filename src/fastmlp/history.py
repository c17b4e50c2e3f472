"""History: what happened in a fit."""

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Callback", "History"]


@dataclass
class History:
    """What happened in a fit, one entry an epoch.

    Attributes
    ----------
    loss : list of float
        Mean training loss over the epoch, measured as it went, weight decay not included.
    validation_loss, validation_accuracy : list of float
        After the epoch; empty without validation data, the latter also where nothing is
        classified.
    learning_rate : list of float
    seconds : list of float
        Wall time of training in the epoch, validation and callbacks excluded.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Number of epochs completed."""
        return len(self.loss)


Callback = Callable[[History], bool | None]
