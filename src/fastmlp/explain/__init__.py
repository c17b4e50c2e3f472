"""The maths of training with its real numbers: forward, loss, chain rule, gradients, update.

The module itself can be called: ``fastmlp.explain(model, x, y)`` is `explain`.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from fastmlp.explain import descent, explanation, linearity, record
from fastmlp.explain.chain import Chain, Path
from fastmlp.explain.check import Check
from fastmlp.explain.descent import Descent, descend
from fastmlp.explain.explanation import Explanation, Neuron, explain
from fastmlp.explain.linearity import Comparison, collapse, compare
from fastmlp.explain.record import Recorder
from fastmlp.explain.surface import Surface
from fastmlp.explain.trace import Layer
from fastmlp.model import MLP

__all__ = [
    "Chain",
    "Check",
    "Comparison",
    "Descent",
    "Explanation",
    "Layer",
    "Neuron",
    "Path",
    "Recorder",
    "Surface",
    "collapse",
    "compare",
    "descend",
    "explain",
]


class CallableModule(ModuleType):
    """This module, which is also its main function."""

    if TYPE_CHECKING:  # modules have their names anyway
        Descent = descent.Descent
        Explanation = explanation.Explanation
        Recorder = record.Recorder
        collapse = staticmethod(linearity.collapse)
        compare = staticmethod(linearity.compare)
        descend = staticmethod(descent.descend)
        explain = staticmethod(explanation.explain)

    def __call__(
        self,
        model: MLP,
        x: ArrayLike,
        y: ArrayLike,
        *,
        learning_rate: float = 0.1,
        recorder: record.Recorder | None = None,
        labels: Sequence[str] | None = None,
    ) -> explanation.Explanation:
        """Call `explain`."""
        return explain(model, x, y, learning_rate=learning_rate, recorder=recorder, labels=labels)


sys.modules[__name__].__class__ = CallableModule
if TYPE_CHECKING:  # what fastmlp.explain is to those who only read
    this: CallableModule
