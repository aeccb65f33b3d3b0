"""The datasets: disjoint splits fixed by seed, fair prefixes, and one sentence for what is not here or is damaged."""

import gzip
import hashlib
import itertools
import pickle
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from core.__main__ import main
from core.datasets import DATASETS, SPLITS, Dataset, base, fashion_mnist, load, torchvision_sets
from core.datasets.base import stratified_order
from core.errors import BadField, NotHere, ParetoscopeError, UnknownName

# What every checkpoint, run and gallery row was measured on: a change here is a change of every figure.
FINGERPRINTS = {"digits": "f366962108738ac9", "fashion_mnist": "071acc5b0b7b87f4", "fashion_mnist_full": "a83dca586770811e"}
SIZES = {
    "digits": {"train": 900, "calibration": 97, "validation": 400, "test": 400},
    "fashion_mnist": {"train": 10_000, "calibration": 2_000, "validation": 5_000, "test": 5_000},
    "fashion_mnist_full": {"train": 58_000, "calibration": 2_000, "validation": 5_000, "test": 5_000},
}
EMBEDDED = ("digits", "fashion_mnist")
HERE = [name for name in SIZES if DATASETS.get(name).missing() is None]


def pictures(dataset: Dataset, split: str) -> list[bytes]:
    return [picture.tobytes() for picture in dataset.split(split).images]


def test_the_embedded_datasets_are_always_here():
    assert all(DATASETS.get(name).missing() is None for name in EMBEDDED)


@pytest.mark.parametrize("name", HERE)
def test_sizes_types_and_fingerprints_do_not_change(name):
    dataset, source = load(name), DATASETS.get(name)
    assert {split: len(dataset.split(split)) for split in SPLITS} == SIZES[name]
    for split in SPLITS:
        images, labels = dataset.split(split).images, dataset.split(split).labels
        assert images.shape[1:] == (source.channels, source.size, source.size) and images.dtype == np.uint8
        assert labels.dtype == np.int64 and set(labels) == set(range(len(source.classes)))
    assert dataset.fingerprint == FINGERPRINTS[name]


@pytest.mark.parametrize("name", HERE)
def test_what_is_told_without_decoding_is_what_decoding_tells(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path))
    forget()
    assert base.fingerprint(name) == FINGERPRINTS[name]
    assert all(np.array_equal(base.labels(name, split), load(name).split(split).labels) for split in SPLITS)
    forget()
    if DATASETS.get(name).files:  # known by now, so that nothing is decoded
        monkeypatch.setattr(base, "load", None)
    assert base.fingerprint(name) == FINGERPRINTS[name]
    forget()


def test_other_files_have_another_fingerprint(monkeypatch, tmp_path):
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path / "home"))
    forget()
    assert base.fingerprint("fashion_mnist") == FINGERPRINTS["fashion_mnist"]
    changed = tmp_path / "changed.npz"
    with np.load(fashion_mnist.SUBSET) as stored:
        arrays = dict(stored)
    arrays["test_labels"] = np.roll(arrays["test_labels"], 1)
    np.savez(changed, **arrays)
    monkeypatch.setattr(fashion_mnist, "SUBSET", changed)
    load.cache_clear()
    try:
        assert base.fingerprint("fashion_mnist") not in FINGERPRINTS.values()
    finally:
        forget()
        load.cache_clear()


def forget() -> None:
    base._fingerprint.cache_clear()
    base.labels.cache_clear()


def test_the_digits_splits_hold_every_digit_once():
    raw = np.clip(load_digits().images * (255 / 16), 0, 255).round().astype(np.uint8)
    everything = sorted(itertools.chain.from_iterable(pictures(load("digits"), split) for split in SPLITS))
    assert everything == sorted(picture.tobytes() for picture in raw)


def test_the_subset_splits_share_no_picture():
    """Byte for byte; the original 70,000 hold no duplicates between the chosen parts either."""
    sets = {split: set(pictures(load("fashion_mnist"), split)) for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not sets[one] & sets[other], f"{one} and {other} share pictures"


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("split", SPLITS)
def test_every_prefix_is_a_fair_sample(name, split):
    labels = load(name).split(split).labels
    shares = np.bincount(labels) / len(labels)
    for count in (64, 250, 1_000, len(labels)):
        found = np.bincount(labels[:count], minlength=len(shares))
        assert np.abs(found - shares * min(count, len(labels))).max() <= 2.5


def test_stratified_order_is_a_permutation_fixed_by_its_seed():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    order = stratified_order(labels)
    assert sorted(order) == list(range(1000)) and np.array_equal(order, stratified_order(labels))
    assert not np.array_equal(order, stratified_order(labels, seed=1))
    for count in range(1, 1000):
        found = np.bincount(labels[order[:count]], minlength=3)
        assert np.abs(found - np.array([0.7, 0.2, 0.1]) * count).max() < 3


def test_full_fashion_mnist_holds_out_the_same_pictures_or_says_how_to_get_it():
    absent = DATASETS.get("fashion_mnist_full").missing()
    if absent:
        assert "dataset-fashion-mnist" in absent.action and "--fetch fashion_mnist_full" in absent.action
        return
    full, subset = load("fashion_mnist_full"), load("fashion_mnist")
    for split in ("calibration", "validation", "test"):
        assert np.array_equal(full.split(split).images, subset.split(split).images)
        assert np.array_equal(full.split(split).labels, subset.split(split).labels)
    assert set(pictures(subset, "train")) <= set(pictures(full, "train"))


def test_both_fashion_mnists_are_of_one_family():
    subset, full = DATASETS.get("fashion_mnist"), DATASETS.get("fashion_mnist_full")
    assert subset.family == full.family == "fashion_mnist" and subset.classes == full.classes and "MIT" in subset.licence


def test_the_mit_licence_of_the_embedded_pictures_lies_beside_them():
    """The three paragraphs that the licence itself asks to be kept, and whose they are."""
    text = " ".join((fashion_mnist.SUBSET.parent / "LICENSE-fashion-mnist.txt").read_text(encoding="utf-8").split())
    assert fashion_mnist.SUBSET.name in text and "The MIT License (MIT)" in text and "Copyright (c) 2017 Zalando SE" in text
    assert "Permission is hereby granted, free of charge, to any person obtaining a copy of this software" in text
    assert "The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software." in text
    assert 'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND' in text and "OUT OF OR IN CONNECTION WITH THE SOFTWARE" in text


@pytest.fixture
def originals(tmp_path, monkeypatch):
    """Four idx files of random pictures in the shape of Fashion-MNIST's, a hundredth of its size."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 600), ("t10k", 100)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    monkeypatch.setattr(fashion_mnist, "SYSTEM", tmp_path)
    monkeypatch.setattr(fashion_mnist, "CALIBRATION", 20)
    monkeypatch.setattr(fashion_mnist, "SUBSET_TRAIN", 100)
    return tmp_path


def write_idx(path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1))


def test_the_subset_is_cut_from_the_original_files(originals, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "SUBSET", tmp_path / "cut" / "subset.npz")
    fashion_mnist.write_subset(fashion_mnist.SUBSET)
    subset, full = fashion_mnist.read_subset(), fashion_mnist.read_full()
    assert np.array_equal(subset["train"][0], full["train"][0][:100]) and len(full["train"][1]) == 580
    for split in ("calibration", "validation", "test"):
        assert np.array_equal(subset[split][0], full[split][0]) and np.array_equal(subset[split][1], full[split][1])


@pytest.mark.slow
def test_the_shipped_subset_is_what_its_command_makes(tmp_path):
    if fashion_mnist.originals() is None:
        assert fashion_mnist.missing_full() is not None
        return
    fashion_mnist.write_subset(tmp_path / "subset.npz")
    with np.load(tmp_path / "subset.npz") as made, np.load(fashion_mnist.SUBSET) as shipped:
        assert set(made) == set(shipped) and all(np.array_equal(made[name], shipped[name]) for name in made)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],  # a byte short
        lambda data: data + b"\0",  # a byte long
        lambda data: b"\0\0\x0d" + data[3:],  # floats
        lambda data: data[:4] + struct.pack(">I", 2**31) + data[8:],  # a size that lies
        lambda data: data[:3],  # no header at all
        lambda data: b"",
    ],
)
def test_a_damaged_idx_file_is_refused_with_a_sentence(tmp_path, damage):
    path = tmp_path / "labels.gz"
    write_idx(path, np.arange(50, dtype=np.uint8))
    assert np.array_equal(fashion_mnist.read_idx(path), np.arange(50))
    path.write_bytes(gzip.compress(damage(gzip.decompress(path.read_bytes()))))
    with pytest.raises(ParetoscopeError, match="is not a whole idx file"):
        fashion_mnist.read_idx(path)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"not gzip", lambda data: data[:20] + b"\xff" * 8 + data[28:]])
def test_a_damaged_gzip_file_is_refused_with_a_sentence(tmp_path, damage):
    path = tmp_path / "labels.gz"
    write_idx(path, np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ParetoscopeError, match="is not a whole idx file"):
        fashion_mnist.read_idx(path)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_what_was_not_downloaded_is_listed_with_the_one_command_that_gets_it(name, home):
    source = DATASETS.get(name)
    with pytest.raises(NotHere) as raised:
        load(name)
    assert str(raised.value) == f"{source.title} is not here: it has not been downloaded. Run `python -m core datasets --fetch {name}` while online."
    assert raised.value.exit_status == 2
    listed = source.to_json()
    assert listed["here"] is False and listed["reason"] == str(raised.value)


def test_full_fashion_mnist_is_missing_where_neither_package_nor_download_is(home, monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "SYSTEM", tmp_path / "nowhere")
    with pytest.raises(NotHere, match=r"^Full Fashion-MNIST is not here: .* the Debian package dataset-fashion-mnist\.$"):
        load.__wrapped__("fashion_mnist_full")


def test_a_downloaded_dataset_is_split_like_the_others(home, monkeypatch):
    """torchvision's own reader on files of its own format, as a download leaves them."""
    folder = home / "datasets" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for part, count in (("train", 300), ("t10k", 60)):
        for kind, array in (("images-idx3", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)), ("labels-idx1", (np.arange(count) % 10).astype(np.uint8))):
            write_idx(folder / f"{part}-{kind}-ubyte.gz", array)
            (folder / f"{part}-{kind}-ubyte").write_bytes(gzip.decompress((folder / f"{part}-{kind}-ubyte.gz").read_bytes()))
    monkeypatch.setattr(torchvision_sets, "CALIBRATION", 40)
    source = DATASETS.get("mnist")
    assert source.missing() is not None, "what torchvision left is not yet ours"
    source.fetch()
    assert source.missing() is None
    dataset = Dataset(source, source.read())
    assert {split: len(dataset.split(split)) for split in SPLITS} == {"train": 260, "calibration": 40, "validation": 30, "test": 30}
    assert dataset.split("train").images.shape[1:] == (1, 28, 28)


def test_colours_stay_where_they_are(home, monkeypatch):
    """CIFAR-10 by torchvision's own reader, on small files of its own format: 1,024 red numbers, then green, then blue, row by row."""
    import torchvision.datasets

    folder = home / "datasets" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng, rows, sums = np.random.default_rng(2), {}, {}

    def write(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        rows[name], labels = rng.integers(0, 256, (40, 3072), dtype=np.uint8), [number % 10 for number in range(40)]
        sums[name] = write(name, {"data": rows[name], "labels": labels})
    classes = DATASETS.get("cifar10").classes
    meta = dict(zip(("filename", "md5"), write("batches.meta", {"label_names": list(classes)})), key="label_names")
    kind = torchvision.datasets.CIFAR10
    for attribute, value in (("train_list", [sums[name] for name in rows if name != "test_batch"]), ("test_list", [sums["test_batch"]]), ("meta", meta)):
        monkeypatch.setattr(kind, attribute, value)
    monkeypatch.setattr(torchvision_sets, "CALIBRATION", 50)
    source = DATASETS.get("cifar10")
    source.fetch()
    dataset = Dataset(source, source.read())
    assert {split: len(dataset.split(split)) for split in SPLITS} == {"train": 150, "calibration": 50, "validation": 20, "test": 20}
    for splits, names in ((("train", "calibration"), [name for name in rows if name != "test_batch"]), (("validation", "test"), ["test_batch"])):
        written = sorted((row.tobytes(), number % 10) for name in names for number, row in enumerate(rows[name]))
        read = [(picture, int(label)) for split in splits for picture, label in zip(pictures(dataset, split), dataset.split(split).labels)]
        assert sorted(read) == written  # (C, H, W) is the very order of the file
    x = dataset.prepare(dataset.split("test").images[:2], 32)
    wanted = (torch.from_numpy(dataset.split("test").images[:2]).float() / 255 - torch.tensor(source.mean).view(3, 1, 1)) / torch.tensor(source.std).view(
        3, 1, 1
    )
    assert torch.allclose(x, wanted, atol=1e-5) and source.flip


def test_a_damaged_download_says_how_to_mend_it(home):
    torchvision_sets.place("cifar10").parent.mkdir(parents=True)
    torchvision_sets.place("cifar10").write_bytes(b"PK not a whole archive")
    with pytest.raises(NotHere, match=r"is damaged\. Run `python -m core datasets --fetch cifar10` again\."):
        DATASETS.get("cifar10").read()


def test_an_unknown_dataset_or_split_names_the_choices():
    with pytest.raises(UnknownName, match=r"^There is no dataset named 'imagenet'; it takes one of digits, fashion_mnist, "):
        load("imagenet")
    with pytest.raises(BadField, match=r"^split cannot be 'dev'"):
        load("digits").split("dev")


def test_pictures_a_little_too_small_are_padded_with_the_mean():
    dataset = load("fashion_mnist")
    raw = dataset.split("validation").images[:3]
    x = dataset.prepare(raw, 32)
    assert x.shape == (3, 3, 32, 32) and x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    inner = (torch.from_numpy(raw).float() / 255 - 0.286) / 0.353
    assert torch.allclose(x[:, :, 2:30, 2:30], inner.expand(-1, 3, -1, -1), atol=1e-6)
    assert x[:, :, :2].abs().max() == 0 and x[..., 30:].abs().max() == 0


@pytest.mark.parametrize("size", [16, 32, 64])
def test_other_sizes_are_resized_as_torch_does(size):
    dataset = load("digits")
    raw = dataset.split("test").images[:4]
    expected = F.interpolate((torch.from_numpy(raw).float() / 255 - 0.3053) / 0.3761, size=(size, size), mode="bilinear")
    assert torch.allclose(dataset.prepare(raw, size), expected.expand(-1, 3, -1, -1), atol=1e-5)


def test_normalisation_is_that_of_the_training_pictures():
    for name in EMBEDDED:
        source, images = DATASETS.get(name), load(name).split("train").images / 255
        assert images.mean() == pytest.approx(source.mean[0], abs=0.01) and images.std() == pytest.approx(source.std[0], abs=0.01)


def test_batches_are_the_split_in_order_from_any_start():
    dataset = load("digits")
    images, labels = dataset.tensors("test", 32)
    for start, count in ((0, None), (0, 130), (64, 130)):
        parts = list(dataset.batches("test", 32, 50, count, start))
        end = count or 400
        assert torch.equal(torch.cat([x for x, _ in parts]), images[start:end]) and torch.equal(torch.cat([y for _, y in parts]), labels[start:end])
        assert all(len(y) == 50 for _, y in parts[:-1])


def test_a_split_too_large_to_keep_in_memory_gives_the_same_batches(monkeypatch):
    dataset = Dataset(DATASETS.get("digits"), DATASETS.get("digits").read())
    kept = list(dataset.batches("test", 32, 90))
    monkeypatch.setattr(base, "CACHE_LIMIT_BYTES", 1000)
    fresh = Dataset(DATASETS.get("digits"), DATASETS.get("digits").read())
    assert fresh.tensors("test", 32)[0] is None
    for (x, y), (other_x, other_y) in zip(kept, fresh.batches("test", 32, 90), strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)


def test_prepared_pictures_are_kept_and_grow():
    dataset = Dataset(DATASETS.get("digits"), DATASETS.get("digits").read())
    few, _labels = dataset.tensors("test", 16, 10)
    all_of_them, _labels = dataset.tensors("test", 16)
    again, _labels = dataset.tensors("test", 16, 10)
    assert len(few) == 10 and len(all_of_them) == 400 and torch.equal(few, again) and again.data_ptr() == all_of_them.data_ptr()


def test_loading_is_done_once_a_process():
    assert load("digits") is load("digits")


def test_fetching_offline_ends_in_a_sentence(home, monkeypatch, capsys):
    """By the command line, with every address refused."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert main(["datasets", "--fetch", "mnist"]) == 2
    printed = capsys.readouterr()
    sentence = printed.err.splitlines()[-1]
    assert sentence.startswith("MNIST is not here: the download failed (") and sentence.endswith("again while online.")
    assert printed.out == "" and "Traceback" not in printed.err
