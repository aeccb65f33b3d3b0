"""Somebody's own pictures and weights, made outside the project: digits as PNG files in class folders, and a plain torch training on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

CLASSES = ("0", "1", "6")
MEAN, STD = (0.3, 0.3, 0.3), (0.4, 0.4, 0.4)


def write_folder(root: Path, side: int, splits: dict[str, int], classes: tuple[str, ...] = CLASSES) -> Path:
    """`root/split/class/N.png` with so many pictures a class, each `side` + 8 wide; without names of splits, `root/class/N.png`."""
    raw = load_digits()
    start = 0
    for split, count in splits.items():
        for label in classes:
            folder = root / split / f"digit-{label}"
            folder.mkdir(parents=True)
            for number, picture in enumerate(raw.images[raw.target == int(label)][start : start + count]):
                grey = np.clip(picture * (255 / 16), 0, 255).round().astype(np.uint8)
                colour = np.stack([grey, 255 - grey, np.full_like(grey, 20 * int(label))], axis=2)
                Image.fromarray(colour).resize((side + 8, side), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        start += count
    return root


def preparation(resize: int, crop: int) -> transforms.Compose:
    return transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def loader(folder: Path, resize: int, crop: int, shuffle: bool = False) -> DataLoader:
    """As anybody reads such a folder with torchvision."""
    pictures = torchvision.datasets.ImageFolder(str(folder), preparation(resize, crop))
    return DataLoader(pictures, batch_size=32, shuffle=shuffle, generator=torch.Generator().manual_seed(0))


def trained(root: Path, resize: int, crop: int, epochs: int = 6) -> nn.Module:
    """A shufflenet_v2_x0_5 with a Dropout and Linear head, trained by a plain loop on `root/train`."""
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=1000)
    model.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(1024, len(CLASSES)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = loader(root / "train", resize, crop, shuffle=True)
    for _epoch in range(epochs):
        for x, labels in data:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
    return model.eval()


def labels(model: nn.Module, pictures: list[Path], resize: int, crop: int) -> list[str]:
    """What plain torch answers to each file: the name of a class folder."""
    read = preparation(resize, crop)
    with torch.no_grad():
        return [f"digit-{CLASSES[int(model(read(Image.open(path).convert('RGB'))[None]).argmax())]}" for path in pictures]


def accuracy(model: nn.Module, folder: Path, resize: int, crop: int) -> float:
    """Percent right, by plain torch."""
    right = count = 0
    with torch.inference_mode():
        for x, labels in loader(folder, resize, crop):
            right += int((model(x).argmax(1) == labels).sum())
            count += len(labels)
    return 100 * right / count
