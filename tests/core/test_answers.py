"""A teacher's answer to one picture: the picture is a real PNG, and an answer is only shown for its own checkpoint."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from core import answers, zoo
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
