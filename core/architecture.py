"""An architecture as data: a torchvision name, its head, its input size, and which layers have other shapes by now.

What a checkpoint of a pruned model, a kept prefix and a packed file say about shapes; never a pickled module.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from core import zoo


@dataclass(frozen=True)
class Architecture:
    """`shapes` maps parameter names to their shapes, only where they differ from torchvision's own."""

    model: str
    classes: int
    input_size: int
    shapes: dict[str, list[int]] = field(default_factory=dict)

    def to_json(self) -> dict:
        return {"model": self.model, "classes": self.classes, "input_size": self.input_size, "shapes": self.shapes}

    def build(self) -> nn.Module:
        """A module of these shapes with arbitrary weights, in eval mode, channels_last; raises `BadArtifact` when the shapes cannot be."""
        raise NotImplementedError

    def of(self, module: nn.Module) -> Architecture:
        """The architecture of `module`, which has been reshaped since."""
        raise NotImplementedError
