"""The teaching models: the two LeNets that papers on compression have measured on for a decade, beside torchvision's classifiers.

Both read 28×28 grey pixels, as their papers' did. Paretoscope hands every model pictures of (B, 3, 32, 32): those of MNIST's size come
with a frame of two pixels of the mean and the same values in all three channels, so cutting the frame off and taking one channel
gives the picture back exactly. Only `core.zoo` and `core.models.model_list` look here; everyone else asks the zoo.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

INPUT_SIZE, FRAME, PIXELS = 32, 2, 28
FAMILY = "LeNet"


class LeNet300100(nn.Module):
    """784 – 300 – 100 – K, fully connected with ReLUs: 266,610 parameters at K = 10 (LeCun et al. 1998, doi:10.1109/5.726791)."""

    def __init__(self, classes: int):
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(PIXELS**2, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(grey(x), 1))  # (B, 784) → (B, K)


class LeNet5(nn.Module):
    """Caffe's LeNet, which Deep Compression measured: 20 and 50 kernels of 5×5, each with a pool of 2×2, 500 hidden units.

    431,080 parameters at K = 10 (Han et al. 2016, arXiv:1510.00149, table 3). Caffe's has no ReLU behind its convolutions; here each
    has one, so that steps that need a ReLU between two layers find it. That changes no count.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.features = nn.Sequential(*_block(1, 20), *_block(20, 50))  # (B, 20, 12, 12), (B, 50, 4, 4)
        self.classifier = nn.Sequential(nn.Linear(50 * 4 * 4, 500), nn.ReLU(), nn.Linear(500, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(grey(x)), 1))


def grey(x: Tensor) -> Tensor:
    """(B, 3, 32, 32) → (B, 1, 28, 28): the middle of the first channel. Of a colour picture that is its red."""
    return x[:, :1, FRAME : FRAME + PIXELS, FRAME : FRAME + PIXELS]


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 5), nn.ReLU(), nn.MaxPool2d(2)]


MODELS: dict[str, Callable[[int], nn.Module]] = {"lenet_300_100": LeNet300100, "lenet_5": LeNet5}


def construct(model: str, classes: int, size: int) -> nn.Module:
    """A freshly initialised teaching model; raises `ValueError` for pictures of another size than 32 × 32."""
    if size != INPUT_SIZE:
        raise ValueError(f"{model} reads pictures of {INPUT_SIZE}×{INPUT_SIZE}, not of {size}×{size}")
    return MODELS[model](classes)
