"""Whether a pruning step does again what one before it has done. Asked by `core.recipe`; imports no torch."""

from __future__ import annotations

import dataclasses

from core.recipe import PRUNE, Step


def prunes_as_much(earlier: Step, later: Step) -> bool:
    """Whether the weights that `earlier` sets to zero, which `later` takes first, are as many as it takes."""
    if getattr(earlier, "threshold", None) is not None or not getattr(earlier, "sparsity", 0.0) >= later.sparsity:
        return False
    if type(earlier) is type(later) and dataclasses.replace(earlier, sparsity=later.sparsity) == later:
        return True
    single = all(step.kind == PRUNE and hasattr(step, "scope") and not step.takes_filters for step in (earlier, later))
    return single and earlier.scope == later.scope and earlier.layers == later.layers
