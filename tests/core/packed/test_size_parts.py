"""Where the bytes went: every byte of the real file once, the paper's arithmetic beside it, and the stages of one layer against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core import artifact, engine
from core.errors import UnknownName
from core.metrics import size
from core.packed import size_charts
from core.packed.entries import in_order
from core.packed.size_parts import KINDS, SizeParts, by_kind, entry_of, measure
from core.recipe import Recipe
from core.work import Work
from tests import five_layers

PRUNE, BITS = {"step": "magnitude_prune", "sparsity": 0.9, "scope": "layer"}, {"step": "quantize", "weight_bits": 4}
RECIPES = [
    [], [PRUNE], [PRUNE, BITS], [BITS | {"parameters": "weights_and_biases", "symmetric": False}], [{"step": "share_weights", "scope": "model"}],
    [{"step": "binarize"}], [{"step": "cast", "dtype": "float16"}], [BITS | {"granularity": "group"}],
    [{"step": "factorize", "energy": 0.5}, BITS], [{"step": "channel_prune", "sparsity": 0.5, "round_to": 1, "importance": "l2"}, PRUNE, BITS],
]  # fmt: skip


def asked_for(*steps) -> SizeParts:
    return SizeParts(Work(five_layers.NAME, "digits", Recipe.from_json({"steps": list(steps)})))


@pytest.mark.parametrize("steps", RECIPES, ids=lambda steps: "-".join(step["step"] for step in steps) or "none")
def test_every_byte_of_the_runs_own_file_is_counted_once(five_layer_checkpoint, steps):
    asked = asked_for(*steps)
    found, run = measure(asked), engine.run(asked.work)
    assert sum(by_kind(found).values()) == found["bytes"] == run.metrics["artifact_bytes"]
    assert math.ceil(round(sum(by_kind(found, "paper").values()), 6)) == found["paper_bytes"] == run.metrics["paper_bytes"]
    assert found["dense_bytes"] == run.baseline["paper_bytes"]
    subject = engine.compress(asked.work)
    packed = engine.packed(subject, asked.work)
    streams = artifact.streams(packed.data)
    assert sum(stream.length for stream in streams) == packed.size and {kind for row in found["layers"] for kind in row["file"]} <= set(KINDS)
    for kind in ("values", "positions", "header"):
        assert sum(stream.length for stream in streams if stream.kind == kind) == packed.parts[kind]
    by_weight = size.by_weight(subject)
    for row in found["layers"]:
        own = [stream.length for stream in streams if stream.tensor in row["weights"]]
        assert sum(own) == sum(packed.weights[name] for name in row["weights"]) == row["stages"][-1]["bytes"]
        biases = row["paper"].get("biases", 0)
        assert sum(row["paper"].values()) - biases == pytest.approx(sum(by_weight[name] for name in row["weights"]))


def test_one_layer_is_followed_to_its_bytes(five_layer_checkpoint):
    asked = asked_for(PRUNE | {"sparsity": 0.98}, BITS | {"weight_bits": 8})
    entry = entry_of(measure(asked), "features.9")
    subject = engine.compress(asked.work)
    data = engine.packed(subject, asked.work).data
    numbers = in_order(subject.module.get_parameter("features.9.weight"))
    kept, count = int((numbers != 0).sum()), numbers.size
    lengths = {stream.kind: stream.length for stream in artifact.streams(data) if stream.tensor == "features.9.weight"}
    stages = {stage["stage"]: stage for stage in entry["stages"]}
    assert list(stages) == ["float32", "pruned", "positions", "grid", "file"]
    assert stages["float32"]["bytes"] == 4 * count == entry["stages"][0]["bytes"]
    assert stages["pruned"]["bytes"] == numbers[numbers != 0].nbytes + len(np.packbits(numbers != 0))
    assert stages["positions"]["bytes"] == 4 * kept + lengths["positions"]
    assert stages["grid"]["bytes"] == kept + lengths["positions"] + lengths["scales"]
    assert stages["file"]["bytes"] == sum(lengths.values()) and bytes.fromhex(stages["file"]["sample"]) in data
    places = np.flatnonzero(numbers)
    gaps = [int(gap) for gap in stages["positions"]["sample"].split()[1:]]
    assert [sum(gaps[: end + 1]) + end for end in range(len(gaps))] == places[: len(gaps)].tolist()
    codes = [int(code.replace("−", "-")) for code in stages["grid"]["sample"].split()[1:]]
    scales = in_order(subject.weights["features.9.weight"].grid.scale).repeat(count // 32)
    np.testing.assert_allclose(np.array(codes) * scales[places[: len(codes)]], numbers[places[: len(codes)]], rtol=1e-6)


def test_a_changed_shape_is_a_stage_of_its_own(five_layer_checkpoint):
    stages = entry_of(measure(asked_for({"step": "factorize", "energy": 0.5, "layers": "features.3"})), "features.3")["stages"]
    assert [stage["stage"] for stage in stages] == ["float32", "shape", "file"] and stages[0]["bytes"] == 4 * 16 * 8 * 9
    assert stages[1]["bytes"] == stages[2]["bytes"] < stages[0]["bytes"]


def test_the_chart_draws_what_was_counted_and_frames_the_layer(five_layer_checkpoint):
    found = measure(asked_for(PRUNE, BITS))
    figure = size_charts.bars(found, "fc")
    drawn = [trace for trace in figure["data"] if trace["type"] == "bar"]
    assert sum(sum(trace["x"]) for trace in drawn) == found["bytes"]
    assert {trace["name"] for trace in drawn} == {size_charts.TITLES[kind] for kind in by_kind(found)}
    assert figure["layout"]["shapes"][0]["y0"] == drawn[0]["y"].index("fc") - 0.5
    with pytest.raises(UnknownName, match=r"no layer named 'fc2'; it takes one of features\.0, "):
        entry_of(found, "fc2")
