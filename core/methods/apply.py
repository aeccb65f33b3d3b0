"""How a step meets a model: the context it works in, and the table from a step's type to the function that applies it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.recipe import Step

if TYPE_CHECKING:
    from core.datasets import Dataset
    from core.weights import Compressed


@dataclass
class Context:
    """What a step may use besides the model.

    `seed` derives from the key of the steps before it. `turn` is entered around every piece of computing and may wait,
    or raise `Cancelled`. `report` receives dicts such as `{"fraction": 0.4, "loss": 0.31}`. `images_at_most` bounds how
    many pictures a step reads while a preview is made.
    """

    dataset: Dataset
    input_size: int
    seed: int = 0
    images_at_most: int | None = None
    turn: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    report: Callable[[dict], None] = field(default=lambda event: None)

    def images(self, wanted: int) -> int:
        return wanted if self.images_at_most is None else min(wanted, self.images_at_most)

    def calibration(self, wanted: int, batch_size: int = 250):
        """Batches of prepared pictures (B, 3, S, S) of the calibration split."""
        for x, _labels in self.dataset.batches("calibration", self.input_size, batch_size, self.images(wanted)):
            yield x


Apply = Callable[[Step, "Compressed", Context], None]
_APPLY: dict[type[Step], Apply] = {}


def applies(step_type: type[Step]) -> Callable[[Apply], Apply]:
    """Decorator: this function applies steps of that type, changing the `Compressed` it is given."""

    def enter(function: Apply) -> Apply:
        if step_type in _APPLY:
            raise ValueError(f"two functions apply {step_type.__name__}")
        _APPLY[step_type] = function
        return function

    return enter


def apply(step: Step, subject: Compressed, context: Context) -> None:
    """Apply one step in place."""
    _APPLY[type(step)](step, subject, context)
