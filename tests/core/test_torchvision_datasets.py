"""torchvision's other small datasets: each decoded by torchvision's own reader from small files of its own format, as a download leaves them."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as tv
from PIL import Image

from core.datasets import DATASETS, SPLITS, Dataset, class_names, decoded, torchvision_sets
from core.datasets.preparation import Preparation
from core.errors import NotHere

RNG = np.random.default_rng(0)
ADDED = ("kmnist", "cifar100", "svhn", "imagenette", "flowers102", "oxford_pets")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def photograph(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(9, 12, 3)).save(path)


def kmnist(root: Path, _monkeypatch) -> None:
    folder = root / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        for kind, array in (("images-idx3", noise(count, 28, 28)), ("labels-idx1", (np.arange(count) % 10).astype(np.uint8))):
            data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(data)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))


def cifar100(root: Path, monkeypatch) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in (("train", 200), ("test", 100)):
        (folder / name).write_bytes(pickle.dumps({"data": noise(count, 3072), "fine_labels": [number % 100 for number in range(count)]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(class_names.CIFAR100)}))
    monkeypatch.setattr(tv.CIFAR100, "train_list", [["train", md5(folder / "train")]])
    monkeypatch.setattr(tv.CIFAR100, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(tv.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5(folder / "meta")})


def svhn(root: Path, monkeypatch) -> None:
    root.mkdir(parents=True)
    parts = {}
    for part, count in (("train", 40), ("test", 20)):
        path = root / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": noise(32, 32, 3, count), "y": (np.arange(count) % 10 + 1)[:, None]})
        parts[part] = ["", path.name, md5(path)]
    monkeypatch.setattr(tv.SVHN, "split_list", parts)


def imagenette(root: Path, _monkeypatch) -> None:
    for part, count in (("train", 4), ("val", 2)):
        for wnid in tv.Imagenette._WNID_TO_CLASS:
            for number in range(count):
                photograph(root / "imagenette2" / part / wnid / f"{number}.jpeg")
                (root / "imagenette2" / part / wnid / f"{number}.jpeg").rename(root / "imagenette2" / part / wnid / f"{number}.JPEG")


def flowers102(root: Path, monkeypatch) -> None:
    folder = root / "flowers-102"
    for number in range(1, 409):
        photograph(folder / "jpg" / f"image_{number:05d}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.arange(408) % 102 + 1})
    scipy.io.savemat(folder / "setid.mat", {"trnid": np.arange(1, 103), "valid": np.arange(103, 205), "tstid": np.arange(205, 409)})
    files = {"image": ("102flowers.tgz", ""), "label": ("imagelabels.mat", md5(folder / "imagelabels.mat")), "setid": ("setid.mat", md5(folder / "setid.mat"))}
    monkeypatch.setattr(tv.Flowers102, "_file_dict", files)


def oxford_pets(root: Path, _monkeypatch) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, numbers in (("trainval", (1, 2)), ("test", (3, 4))):
        lines = []
        for label, name in enumerate(class_names.OXFORD_PETS, 1):
            for number in numbers:
                photograph(folder / "images" / f"{name.replace(' ', '_')}_{number}.jpg")
                lines.append(f"{name.replace(' ', '_')}_{number} {label} 1 1")
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")


SIZES = {
    "kmnist": {"train": 30, "calibration": 10, "validation": 10, "test": 10}, "cifar100": {"train": 190, "calibration": 10, "validation": 50, "test": 50},
    "svhn": {"train": 30, "calibration": 10, "validation": 10, "test": 10}, "imagenette": {"train": 36, "calibration": 4, "validation": 10, "test": 10},
    "flowers102": {"train": 92, "calibration": 10, "validation": 102, "test": 204},
    "oxford_pets": {"train": 67, "calibration": 7, "validation": 37, "test": 37},
}  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_what_is_not_here_is_listed_with_the_command_that_gets_it(name, home):
    source = DATASETS.get(name)
    assert isinstance(source.missing(), NotHere) and not source.to_json()["here"] and not source.to_json()["imported"]
    assert str(source.missing()) == f"{source.title} is not here: it has not been downloaded. Run `python -m core datasets --fetch {name}` while online."
    with pytest.raises(NotHere):
        raise source.missing()


@pytest.mark.parametrize("name", ADDED)
def test_a_download_is_decoded_and_split(name, home, monkeypatch):
    globals()[name](home / "datasets", monkeypatch)
    monkeypatch.setattr(torchvision_sets, "CALIBRATION", 10)
    listed = DATASETS.get(name)
    listed.fetch()
    source = DATASETS.get(name)
    assert source.missing() is None and source.classes == listed.classes and source.title == listed.title and source.fetch is not None
    dataset = Dataset(source, source.read())
    assert {split: len(dataset.split(split)) for split in SPLITS} == SIZES[name]
    for split in SPLITS:
        held = dataset.split(split)
        assert held.images.shape[1:] == (source.channels, source.size, source.size) and held.images.dtype == np.uint8
        assert set(held.labels) <= set(range(len(source.classes)))
    assert set(dataset.split("train").labels) | set(dataset.split("calibration").labels) == set(range(len(source.classes)))


def test_photographs_are_prepared_as_for_imagenet(home, monkeypatch):
    flowers102(home / "datasets", monkeypatch)
    DATASETS.get("flowers102").fetch()
    dataset = Dataset(DATASETS.get("flowers102"), DATASETS.get("flowers102").read())
    official = tv.Flowers102(str(home / "datasets"), split="val")
    wanted = {label: Preparation().square(path) for path, label in zip(official._image_files, official._labels, strict=True)}
    held = dataset.split("validation")
    assert all(np.array_equal(image, wanted[int(label)]) for image, label in zip(held.images, held.labels, strict=True))
    (home / "datasets" / "flowers102" / "train.bin").write_bytes(b"half")
    assert DATASETS.get("flowers102").missing() is not None, "a damaged one can be fetched again"
    DATASETS.get("flowers102").fetch()
    assert DATASETS.get("flowers102").missing() is None and decoded.FACTS in {path.name for path in (home / "datasets" / "flowers102").iterdir()}


def test_the_colours_and_digits_of_svhn_stay_where_they_are(home, monkeypatch):
    svhn(home / "datasets", monkeypatch)
    monkeypatch.setattr(torchvision_sets, "CALIBRATION", 10)
    DATASETS.get("svhn").fetch()
    raw = scipy.io.loadmat(home / "datasets" / "test_32x32.mat")
    written = sorted((raw["X"][..., number].transpose(2, 0, 1).tobytes(), int(raw["y"][number, 0]) % 10) for number in range(20))
    dataset = Dataset(DATASETS.get("svhn"), DATASETS.get("svhn").read())
    read = [(image.tobytes(), int(label)) for split in ("validation", "test") for image, label in zip(dataset.split(split).images, dataset.split(split).labels)]
    assert sorted(read) == written
