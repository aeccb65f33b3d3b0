"""A five-layer model in torchvision's own registry: small enough that every step can be tested on it in milliseconds.

Its checkpoint on scikit-learn's digits lies in tests/core/data, because processors round otherwise and so train other weights: what a test says of them must
hold everywhere. `python -m tests.five_layers [SEED]` made it by the project's own training.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torchvision.models._api import register_model

NAME = "five_layers"
FACTS = {
    "name": NAME, "family": "test", "parameters": 2000, "macs": 300_000, "smallest_input": 16, "batch_norm": True,
    "weights": ["features.0.weight", "features.3.weight", "features.6.weight", "features.9.weight", "fc.weight"],
}  # fmt: skip


SHIPPED = Path(__file__).parent / "core" / "data" / NAME
SEED = 3


class FiveLayers(nn.Module):
    """conv → conv → depthwise conv → 1×1 conv → linear, each but the last with batch norm and ReLU."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.features = nn.Sequential(*_block(3, 8, 3, 2), *_block(8, 16, 3, 2), *_block(16, 16, 3, 2, groups=16), *_block(16, 32, 1, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


def _block(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def register() -> None:
    """Make torchvision and the zoo know the model, once a process."""
    from core import zoo

    with contextlib.suppress(ValueError):
        register_model(NAME)(lambda num_classes=10, **_: FiveLayers(num_classes))
    zoo.models().setdefault(NAME, FACTS)


def checkpoint():
    """The checkpoint, in the checkpoints of this PARETOSCOPE_HOME."""
    from core import zoo

    register()
    place = zoo.folders()[0] / "digits"
    place.mkdir(parents=True, exist_ok=True)
    for suffix in (".safetensors", ".json"):
        shutil.copy(SHIPPED.with_suffix(suffix), place)
    return zoo.checkpoint(NAME, "digits")


def make(seed: int) -> None:
    """Train the checkpoint anew, and leave it where the tests find it."""
    from core.models import checkpoints

    register()
    torch.set_num_threads(1)
    command = f"python -m tests.five_layers {seed}"
    with tempfile.TemporaryDirectory() as folder:
        made = checkpoints.train(NAME, "digits", epochs=8, learning_rate=0.1, seed=seed, out=Path(folder), command=command)
        for suffix in (".safetensors", ".json"):
            shutil.copy(made.path.with_suffix(suffix), SHIPPED.with_suffix(suffix))
    print(f"validation {made.card['validation']['top1']:.2f} %")


if __name__ == "__main__":
    make(int(sys.argv[1]) if len(sys.argv) > 1 else SEED)
