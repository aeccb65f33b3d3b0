"""Re-estimates batch-norm statistics after the weights before them changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies
from core.recipe import PRUNE, REPAIR, STRUCTURE, TRAIN, Step, param, register


@register
@dataclass(frozen=True)
class CalibrateBatchnorm(Step):
    """Replaces every batch norm's running mean and variance by the plain average over batches of calibration pictures.

    Pruning and rounding shift the statistics of what a layer puts out; the old ones then scale it wrongly. No weight is
    trained and no label is used. Li et al. 2020, arXiv:2007.02491.
    """

    name: ClassVar[str] = "calibrate_batchnorm"
    title: ClassVar[str] = "Repair batch norm"
    kind: ClassVar[str] = REPAIR
    makes_up: ClassVar[bool] = True

    images: int = param(1000, 50, 2000, 50, unit="pictures", help="Calibration pictures to re-estimate the statistics on.")

    def undone_by(self, later: Step) -> str:
        if later.name == self.name:
            return "the later one averages the statistics anew; leave one of the two out"
        if later.kind == TRAIN:
            return f"{later.name} averages the statistics anew; put {self.name} after {later.name}"
        if later.kind in (PRUNE, STRUCTURE):  # a grid moves them little
            return f"{later.name} changes the weights that the statistics were taken with; put {self.name} after {later.name}"
        return ""

    def idle(self, before: tuple[Step, ...], facts: Mapping) -> str:
        return "" if facts.get("batch_norm", True) else f"{facts['name']} has no batch norm"


@applies(CalibrateBatchnorm)
def apply(step: CalibrateBatchnorm, subject, context) -> None:
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [layer for layer in subject.module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        subject.notes.append(f"calibrate_batchnorm changes nothing, because {subject.architecture.model} has no batch norm.")
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    seen = 0
    with torch.no_grad():
        for x in context.calibration(step.images, batch_size=100):
            if len(x) < 2:
                continue
            with context.turn():
                subject.module(x)
            seen += len(x)
            context.report({"fraction": seen / step.images})
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
