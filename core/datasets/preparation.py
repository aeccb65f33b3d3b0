"""From a picture of any size to the square that a model reads: torchvision's Resize, CenterCrop and Normalize, by Pillow. Imports no torch."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import BadField

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP, RESIZE = 224, 256
SMALLEST, LARGEST = 8, 512
MOST_PIXELS = 100_000_000  # of one picture
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)  # what Pillow raises of damaged files


@dataclass(frozen=True)
class Preparation:
    """Brings the shorter side to `resize`, cuts out the middle `crop` × `crop`, and gives each colour its `mean` and `std` (of values from 0 to 1).

    `resize` is by default 256 for a crop of 224, else the crop itself. Raises `BadField`.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: int | None = None
    crop: int = CROP

    def __post_init__(self):
        for name, above in (("mean", -math.inf), ("std", 0)):
            value = getattr(self, name)
            value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
            value = value * 3 if len(value) == 1 else value
            fine = len(value) == 3 and all(isinstance(part, (int, float)) and not isinstance(part, bool) and above < part < 100 for part in value)
            if not fine or min(value) < -100:
                raise BadField(name, getattr(self, name), f"one number for all colours, or three for red, green and blue{', above 0' if above == 0 else ''}")
            object.__setattr__(self, name, tuple(map(float, value)))
        if not _whole(self.crop) or not SMALLEST <= self.crop <= LARGEST:
            raise BadField("crop", self.crop, f"a whole number of pixels from {SMALLEST} to {LARGEST}")
        if self.resize is None:
            object.__setattr__(self, "resize", RESIZE if self.crop == CROP else self.crop)
        if not _whole(self.resize) or not self.crop <= self.resize <= 4 * LARGEST:
            raise BadField("resize", self.resize, f"a whole number of pixels from the crop, {self.crop}, to {4 * LARGEST}")

    def to_json(self) -> dict:
        return {"mean": list(self.mean), "std": list(self.std), "resize": self.resize, "crop": self.crop}

    def square(self, path: Path) -> np.ndarray | None:
        """The picture as (3, crop, crop) uint8; None when it cannot be read.

        Pixel for pixel what `torchvision.datasets.ImageFolder` with `Resize` and `CenterCrop` gives.
        """
        from PIL import Image

        try:
            with Image.open(path) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    return None
                picture = picture.convert("RGB")
        except (*UNREADABLE, Image.DecompressionBombError):
            return None
        width, height = picture.size
        short, long = sorted(picture.size)
        if short != self.resize:
            along = int(self.resize * long / short)
            if along > 32 * LARGEST:  # a line rather than a picture
                return None
            picture = picture.resize((self.resize, along) if width <= height else (along, self.resize), Image.Resampling.BILINEAR)
        left, top = (round((side - self.crop) / 2.0) for side in picture.size)
        return np.asarray(picture.crop((left, top, left + self.crop, top + self.crop))).transpose(2, 0, 1)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
