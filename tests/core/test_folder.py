"""Folders and zips of somebody's pictures: classes and splits, the very pixels of torchvision's transforms, and a sentence for what cannot be used."""

import json
import os
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from core.datasets import DATASETS, SPLITS, Dataset, archive, brought
from core.datasets.folder import look
from core.datasets.preparation import Preparation
from core.errors import BadField, BadInput
from tests.own_pictures import write_folder

SMALL = Preparation(resize=12, crop=8)


@pytest.fixture
def flat(tmp_path):
    return write_folder(tmp_path / "flat", 12, {"": 20})


@pytest.fixture
def split(tmp_path):
    return write_folder(tmp_path / "split", 12, {"train": 20, "val": 10, "test": 5})


def counts(listing) -> dict[str, int]:
    return {split: len(listing.splits[split]) for split in SPLITS}


def test_a_flat_folder_is_split_by_a_fixed_stratified_order(flat):
    listing = look(flat)
    assert listing.classes == ("digit-0", "digit-1", "digit-6") and counts(listing) == {"train": 30, "calibration": 6, "validation": 12, "test": 12}
    everything = [path for split in SPLITS for path, _label in listing.splits[split]]
    assert sorted(everything) == sorted(flat.resolve().rglob("*.png")) and look(flat) == listing
    for split in SPLITS:
        found = np.bincount([label for _path, label in listing.splits[split]])
        assert found.max() - found.min() <= 2
        assert all(path.parent.name == listing.classes[label] for path, label in listing.splits[split])


def test_a_folder_keeps_its_own_split(split):
    listing = look(split)
    assert listing.own and counts(listing) == {"train": 54, "calibration": 6, "validation": 30, "test": 15}
    for part, names in (("validation", "val"), ("test", "test"), ("train", "train"), ("calibration", "train")):
        assert {path.parents[1].name for path, _label in listing.splits[part]} == {names}


def test_without_test_pictures_there_is_none_and_without_val_test_is_halved(tmp_path):
    assert counts(look(write_folder(tmp_path / "a", 12, {"training": 20, "valid": 10}))) == {"train": 54, "calibration": 6, "validation": 30, "test": 0}
    assert counts(look(write_folder(tmp_path / "b", 12, {"train": 20, "test": 5}))) == {"train": 54, "calibration": 6, "validation": 8, "test": 7}


def test_an_order_of_classes_changes_labels_alone(flat):
    order = ("digit-6", "digit-0", "digit-1")
    listing = look(flat, order)
    assert listing.classes == order and all(order[label] == path.parent.name for path, label in listing.splits["train"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: [path.unlink() for path in root.rglob("*.png")], "^No pictures were found in class folders of "),
        (lambda root: [path.unlink() for path in (root / "digit-1").iterdir()], "^The class folder 'digit-1' of .* holds no pictures; fill it or remove it.$"),
        (lambda root: [(root / name).rename(root.parent / name) for name in ("digit-0", "digit-1")], "has one class, 'digit-6', and a classifier tells at lea"),
        (
            lambda root: [path.unlink() for path in list(root.rglob("*.png")) if path.stem not in tuple("012")],
            "holds 9 pictures; it takes from 10 to 1,000,000.$",
        ),
        (lambda root: (root / "digit-0" / "more.png").symlink_to("/etc/hosts"), "more.png is a link that leads out of the folder to /etc/hosts; put the pict"),
        (lambda root: (root / "digit-9").symlink_to(root.parent), "digit-9 is a link that leads out of the folder"),
        (lambda root: (root / "digit-0" / "more").symlink_to(root / "digit-1"), "more is a link to another folder; put the pictures themselves there.$"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(flat, spoil, said):
    spoil(flat)
    with pytest.raises(BadInput, match=said):
        look(flat)


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("train", "elsewhere", "train is a link that leads out of the folder to .*elsewhere; put the pictures themselves there.$"),
        ("val", "elsewhere", "val is a link that leads out of the folder to .*elsewhere; put the pictures themselves there.$"),
        ("val", "split/train", "val is a link to another folder; put the pictures themselves there.$"),
        ("test", "split/val", "test is a link to another folder; put the pictures themselves there.$"),
    ],
)
def test_a_split_that_is_a_link_is_refused(split, tmp_path, name, target, said):
    (split / name).rename(tmp_path / "elsewhere")
    (split / name).symlink_to(tmp_path / target)
    with pytest.raises(BadInput, match=said):
        look(split)


@pytest.mark.parametrize("name", ["more.png", "more"])
def test_links_that_lead_in_a_circle_are_one_sentence(flat, name):
    (flat / "digit-0" / name).symlink_to(flat / "digit-1" / name)
    (flat / "digit-1" / name).symlink_to(flat / "digit-0" / name)
    with pytest.raises(BadInput, match=rf"^{flat / 'digit-[01]' / name} is a link that cannot be followed \(.+\); put the pictures themselves there\.$"):
        look(flat)


def test_a_link_to_itself_is_no_class_and_no_folder(flat):
    (flat / "digit-9").symlink_to("digit-9")
    assert look(flat).classes == ("digit-0", "digit-1", "digit-6"), "no folder, so no class"
    with pytest.raises(BadInput, match=r"^There is no folder .*digit-9'; it takes"):
        look(flat / "digit-9")


def test_a_link_to_a_picture_of_the_same_folder_is_a_picture(flat):
    (flat / "digit-0" / "again.png").symlink_to(flat / "digit-0" / "0.png")
    assert len(look(flat)) == 61


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("digit-0", "digit-1"), "^The list of classes lacks the class folder 'digit-6'; it takes"),
        (("digit-0", "digit-1", "digit-6", "cat"), "^The list of classes names 'cat', which is no class folder of "),
        (("digit-0", "digit-1", "digit-6", "digit-1"), "^The list of classes names 'digit-1' twice; "),
    ],
)
def test_classes_are_those_of_the_folder(flat, classes, said):
    with pytest.raises(BadInput, match=said):
        look(flat, classes)


def test_held_out_pictures_of_a_class_without_training_pictures_are_refused(split):
    (split / "val" / "cat").mkdir()
    (split / "val" / "digit-0" / "0.png").rename(split / "val" / "cat" / "0.png")
    with pytest.raises(BadInput, match=r"The validation pictures of .* have the class 'cat', which its train pictures have not;"):
        look(split)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (28, 28), (12, 97), (300, 8)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_pixels_are_those_of_torchvisions_transforms(tmp_path, size, mode):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as opened:
        expected = transforms.Compose([transforms.Resize(28), transforms.CenterCrop(21)])(opened.convert("RGB"))
    made = Preparation(resize=28, crop=21).square(tmp_path / "picture.png")
    assert np.array_equal(made, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean": (0.5, 0.5)}, "^mean cannot be "), ({"std": 0.0}, "^std cannot be 0.0; it takes one number for all colours, or three"),
        ({"std": float("nan")}, "^std cannot be nan"), ({"crop": 4}, "^crop cannot be 4; it takes a whole number of pixels from 8 to 512"),
        ({"resize": 100}, "^resize cannot be 100; it takes a whole number of pixels from the crop, 224,"),
    ],
)  # fmt: skip
def test_a_preparation_that_cannot_be_is_refused(given, said):
    with pytest.raises(BadField, match=said):
        Preparation(**given)


def test_the_usual_preparation_is_imagenets():
    assert Preparation().to_json() == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "resize": 256, "crop": 224}
    assert Preparation(mean=0.5, crop=32).resize == 32 and Preparation(mean=0.5).mean == (0.5, 0.5, 0.5)


def test_what_was_brought_stands_in_the_list_and_is_read_from_its_files(split, home):
    listing = look(split)
    facts = brought.keep("tiny", listing, SMALL)
    source = DATASETS.get("tiny")
    assert "tiny" in list(DATASETS) and source.missing() is None and source.to_json()["imported"] and source.family == "tiny"
    dataset = Dataset(source, source.read())
    assert dataset.fingerprint == facts["fingerprint"]
    for name in SPLITS:
        held, wanted = dataset.split(name), listing.splits[name]
        assert held.images.shape == (len(wanted), 3, 8, 8) and isinstance(held.images, np.memmap)
        assert held.labels.tolist() == [label for _path, label in wanted]
        assert all(np.array_equal(picture, SMALL.square(path)) for picture, (path, _label) in zip(held.images, wanted, strict=True))
    assert brought.keep("tiny", listing, SMALL) == facts, "the same pictures again"
    with pytest.raises(BadInput, match="There is a dataset named 'tiny' already, of other pictures or another preparation; choose another name"):
        brought.keep("tiny", listing, Preparation(resize=16, crop=8))
    assert not [path for path in (home / "imports").iterdir() if path.name.startswith(".")]
    left = home / "imports" / ".killed"
    left.mkdir()
    (left / "dataset.json").write_bytes((home / "imports" / "tiny" / "dataset.json").read_bytes())
    assert ".killed" not in DATASETS
    os.utime(left, (0, 0))
    brought.keep("tiny", listing, SMALL)
    assert not left.exists()
    (home / "imports" / "tiny" / "test.bin").write_bytes(b"")
    assert "is not whole any more" in str(DATASETS.get("tiny").missing())


@pytest.mark.parametrize("name", ["", "With Space", "../up", "fashion_mnist", "a" * 41])
def test_a_name_that_cannot_be_given_is_refused(name):
    with pytest.raises(BadField, match=r"^name cannot be"):
        brought.check_name(name)


def test_unreadable_pictures_are_listed_or_left_out(flat, home):
    (flat / "digit-0" / "0.png").write_bytes(b"no picture")
    whole = (flat / "digit-1" / "1.png").read_bytes()
    (flat / "digit-1" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"^2 of 60 pictures cannot be read \(.*(0/0|1/1)\.png, .*\.png\); mend or remove them, or ask"):
        brought.keep("tiny", look(flat), SMALL)
    assert "tiny" not in DATASETS
    facts = brought.keep("tiny", look(flat), SMALL, skip_unreadable=True)
    assert len(facts["unreadable"]) == 2 and sum(facts["pictures"].values()) == 58


def test_a_zip_gives_the_same_pictures_as_its_folder(flat, tmp_path):
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as packed:
        for path in sorted(flat.rglob("*.png")):
            packed.write(path, f"wrapped/{path.relative_to(flat)}")
        packed.writestr("__MACOSX/wrapped/._x.png", b"")
        packed.writestr("wrapped/notes.txt", b"not a picture")
    archive.unpack(tmp_path / "flat.zip", tmp_path / "out")
    theirs = look(tmp_path / "out")
    names = lambda listing: [(path.name, label) for split in SPLITS for path, label in listing.splits[split]]
    assert names(theirs) == names(look(flat)) and not list((tmp_path / "out").rglob("*.txt"))


def entry(name: str, mode: int = stat.S_IFREG) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = (mode | 0o644) << 16
    return made


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("../../up.png", stat.S_IFREG, "holds '../../up.png', a path that leads out of it"),
        ("/etc/cat.png", stat.S_IFREG, "a path that leads out of it"),
        ("..\\up.png", stat.S_IFREG, "a path that leads out of it"),
        ("cat/link.png", stat.S_IFLNK, "holds the link 'cat/link.png'; it takes pictures in class folders, and no links"),
    ],
)
def test_a_zip_that_leads_out_writes_nothing(tmp_path, name, mode, said):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.writestr(entry("cat/1.png"), b"x")
        packed.writestr(entry(name, mode), b"/etc/passwd")
    with pytest.raises(BadInput, match=said):
        archive.unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_zip_bomb_and_a_broken_zip_are_sentences(tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("cat/1.png", "w") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(BadInput, match=r"^bomb\.zip would unpack to 0\.3 GB from 0\.3 MB; pictures do not shrink like that\.$"):
        archive.unpack(bomb, tmp_path / "out")
    data = bomb.read_bytes()
    (tmp_path / "half.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"^half\.zip is not a whole zip file; "):
        archive.unpack(tmp_path / "half.zip", tmp_path / "out")
    lying = bytearray(data)  # the directory says 100 bytes where 300 MB are
    at = lying.rindex(b"PK\x01\x02")
    lying[at + 24 : at + 28] = (100).to_bytes(4, "little")
    (tmp_path / "lies.zip").write_bytes(lying)
    with pytest.raises(BadInput, match=r"^lies\.zip "):
        archive.unpack(tmp_path / "lies.zip", tmp_path / "out")
    assert sum(path.stat().st_size for path in tmp_path.joinpath("out").rglob("*.png")) <= 100


def test_a_dataset_file_that_was_damaged_is_not_there(home):
    place = home / "imports" / "tiny"
    place.mkdir(parents=True)
    for content in ("", "[]", json.dumps({"classes": []})):
        (place / "dataset.json").write_text(content)
        os.utime(place / "dataset.json", ns=(len(content), len(content)))
        assert "tiny" not in DATASETS
