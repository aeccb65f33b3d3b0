"""A teacher's answer to one picture: the picture is a real PNG, and an answer is only shown for its own checkpoint."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from core import zoo
from core.home import ASSETS
from core.lessons import answers
from core.zoo import Checkpoint


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_png(channels):
    image = np.random.default_rng(0).integers(0, 256, (channels, 7, 5), dtype=np.uint8)
    url = answers.picture(image)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
    assert np.array_equal(read, image[0] if channels == 1 else image.transpose(1, 2, 0))


def test_shipped_answers_are_whole_and_just_right():
    for answer in answers._shipped().values():
        assert len(answer["logits"]) == len(answer["names"]) and answer["picture"].startswith("data:image/png")
        assert int(np.argmax(answer["logits"])) == answer["label"]
        zoo.check_model(answer["model"])


def test_another_checkpoint_has_no_answer(tmp_path):
    weights = tmp_path / "resnet18.safetensors"
    weights.write_bytes(b"other weights")
    assert answers.find(Checkpoint("resnet18", "fashion_mnist", weights, {})) is None


def test_several_pictures_a_shipped_checkpoint_no_class_twice():
    for checkpoint in zoo.checkpoints():
        if ASSETS not in checkpoint.path.parents:
            continue
        found = answers.several(answers.find(checkpoint))
        assert len(found) >= 4 and found[0]["logits"] == answers.find(checkpoint)["logits"]
        labels = [answer["label"] for answer in found]
        assert len(set(labels)) == len(labels) and len({answer["number"] for answer in found}) == len(found)


def test_doubt_first_then_one_told_wrong_and_one_that_is_sure():
    told = np.array([[0.76, 0.24, 0, 0, 0], [0.3, 0.7, 0, 0, 0], [0.7, 0, 0.2, 0.1, 0], [0, 0, 0, 0.6, 0.4], [0, 0, 0, 0.01, 0.99], [0.9, 0.1, 0, 0, 0]])
    assert answers.choose(told, np.array([0, 1, 2, 3, 4, 4])) == [0, 1, 2, 3, 4]
    assert answers.choose(np.array([[1.0, 0]]), np.array([1])) == [0]


def test_the_cluster_asks_a_checkpoint_that_has_no_answers_shipped(five_layer_checkpoint):
    """The job as a worker does it, on a checkpoint that was trained here."""
    import contextlib
    from types import SimpleNamespace

    from core.jobs import tasks

    turns = []
    job = SimpleNamespace(turn=lambda: turns.append(1) or contextlib.nullcontext())
    done = tasks._KINDS["answers"]({"model": five_layer_checkpoint.model, "dataset": "digits"}, job)
    assert len(turns) >= answers.LOOKED_AT / answers.BATCH  # a waiting preview comes in between, and so does a cancellation
    made = done["result"]["metrics"]
    assert answers.find(five_layer_checkpoint) is None and done["state"] == "COMPLETE" and json.loads(json.dumps(made)) == made
    first, *others = answers.several(made)
    assert first["label"] == int(np.argmax(first["logits"])) and len(first["logits"]) == len(made["names"]) == 10
    assert all(each["number"] < answers.LOOKED_AT for each in (first, *others))
