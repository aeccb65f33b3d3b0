"""The floor: which positions are looked at, how many, and that the pair is always two neighbours measured on all pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import core.methods  # noqa: F401
from core.errors import BadInput
from core.floor import Vary, bracket, most_probes, search, sentence
from core.metrics.accuracy import Predictions, summary
from core.recipe import STEPS, Recipe, params

PRUNE, QUANTIZE = {"step": "magnitude_prune", "sparsity": 0.8}, {"step": "quantize", "weight_bits": 4}


def recipe(*steps: dict) -> Recipe:
    return Recipe.from_json({"seed": 3, "steps": list(steps)})


@given(st.integers(1, 12_000), st.data())
def test_a_monotone_field_is_bracketed_in_few_calls(count, data):
    holding = data.draw(st.integers(0, count))  # so many positions hold
    asked = []
    last, beyond = bracket(range(100, 100 + count), lambda value: asked.append(value) or value < 100 + holding)
    assert last == (100 + holding - 1 if holding else None) and beyond == (100 + holding if holding < count else None)
    assert len(asked) == len(set(asked)) <= most_probes(count) <= math.ceil(math.log2(count)) + 2


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_whatever_holds_the_pair_is_two_neighbours(holds):
    last, beyond = bracket(range(len(holds)), holds.__getitem__)
    assert last is None or holds[last]
    assert beyond is None or not holds[beyond]
    assert (-1 if last is None else last) + 1 == (len(holds) if beyond is None else beyond)


def test_what_is_known_is_not_asked_again():
    known = {0: True, 4: True, 6: False}
    assert bracket(range(10), {5: True}.__getitem__, known) == (5, 6) and known[5]


@pytest.mark.parametrize("name,spec", [(name, spec) for name, kind in STEPS.items() for spec in params(kind)], ids=lambda value: getattr(value, "name", value))
def test_only_numbers_say_which_way_compresses(name, spec):
    assert spec.harder in ("", "up", "down")
    assert not spec.harder or spec.type in (int, float)
    assert spec.harder == "up" or spec.type is not float or spec.name not in ("sparsity", "threshold")
    assert spec.harder == "down" or spec.name not in ("weight_bits", "activation_bits")


def test_positions_are_the_sliders_from_mild_to_hard():
    both = recipe(PRUNE, QUANTIZE, QUANTIZE)
    assert Vary.parse("magnitude_prune.sparsity", both).positions == tuple(np.linspace(0, 0.99, 100).round(9))
    assert Vary.parse("quantize#2.weight_bits", both).positions == (16, 8, 7, 6, 5, 4, 3, 2)
    assert Vary.parse("quantize#1.activation_bits", both).positions == (8, 7, 6, 5, 4)
    threshold = Vary.parse("magnitude_prune.threshold", both).positions
    assert len(threshold) == 10_001 and threshold[3] == 0.003 and threshold[-1] == 10
    decades = Vary.parse("gradient_prune.threshold", recipe({"step": "gradient_prune"})).positions
    assert decades[:5] == (0, 1e-10, 2e-10, 5e-10, 1e-9) and decades[-1] == 10 and list(decades) == sorted(decades)
    assert len(Vary.parse("channel_prune.sparsity", recipe({"step": "channel_prune"})).positions) == 19
    assert Vary.parse("quantize.group_size", recipe(QUANTIZE | {"granularity": "group"})).positions == (16, 32, 64, 128)
    assert Vary.parse("finetune.epochs", recipe({"step": "finetune"})).positions == tuple(range(50, 0, -1))
    assert Vary.parse("nm_prune.n", recipe({"step": "nm_prune", "n": 2, "m": 4})).positions == (3, 2, 1)
    assert Vary.parse("nm_prune.m", recipe({"step": "nm_prune", "n": 4, "m": 8})).positions == tuple(range(5, 17))


def test_the_rest_of_the_recipe_stays():
    vary = Vary.parse("quantize#2.weight_bits", recipe(PRUNE, QUANTIZE, QUANTIZE))
    assert vary.recipe_at(2) == recipe(PRUNE, QUANTIZE, QUANTIZE | {"weight_bits": 2}) and vary.name == "quantize#2.weight_bits"
    assert Vary.parse("quantize#1.weight_bits", recipe(QUANTIZE)).name == "quantize.weight_bits"


@pytest.mark.parametrize(
    ("vary", "steps", "said"),
    [
        ("sparsity", [PRUNE], "vary cannot be 'sparsity'; it takes a step and a field, such as magnitude_prune.sparsity"),
        ("melt.heat", [PRUNE], "There is no step named 'melt'"),
        ("quantize.weight_bits", [PRUNE], "The recipe has no step quantize; it has magnitude_prune."),
        ("quantize.weight_bits", [], "The recipe has no step quantize; it has none at all."),
        ("quantize.weight_bits", [QUANTIZE, QUANTIZE], "has 2 steps named quantize; say which one is varied: quantize#1.weight_bits, quantize#2.weight_bits."),
        ("quantize#3.weight_bits", [QUANTIZE, QUANTIZE], "The recipe has no step quantize#3; it has 2 of that name, counted from 1."),
        ("quantize#0.weight_bits", [QUANTIZE], "The recipe has no step quantize#0"),
        ("quantize.bits", [QUANTIZE], "quantize has no field named 'bits'; it takes weight_bits, "),
        (
            "quantize.clipping",
            [PRUNE, QUANTIZE],
            "quantize.clipping cannot be varied, because neither end of it compresses more or spares work; this recipe's magnitude_prune.sparsity, "
            "magnitude_prune.threshold, quantize.weight_bits, quantize.activation_bits can be.",
        ),
        ("quantize.group_size", [QUANTIZE], "it says nothing where the granularity is channel; set that to group."),
        ("cast.dtype", [{"step": "cast"}], "no field of this recipe can be."),
        ("distill.temperature", [{"step": "distill"}], "this recipe's distill.epochs, distill.images can be."),
        ("magnitude_prune.sparsity", [PRUNE | {"threshold": 0.1}], "because the threshold 0.1 stands in its place"),
    ],
)
def test_what_cannot_be_varied_is_one_sentence(vary, steps, said):
    with pytest.raises(BadInput) as caught:
        Vary.parse(vary, recipe(*steps))
    assert said in str(caught.value) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


class Pictures:
    """A model that gets a picture right up to a position of that picture's own: accuracy is monotone, on any part of the pictures."""

    def __init__(self, vary: Vary, pictures: int = 4000, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.order = {value: number for number, value in enumerate(vary.positions)}
        self.limit = rng.beta(6, 2, pictures) * 1.2 * len(self.order)  # (n,)
        self.vary, self.measured, self.screened = vary, 0, 0

    def of(self, asked: Recipe, count: int) -> dict:
        right = self.limit[:count] > self.order[getattr(asked.steps[self.vary.at], self.vary.field)]  # (n,)
        labels = np.zeros(count, np.int64)
        return summary(Predictions(np.where(right, 0, 1).astype(np.uint16), labels, right)) | {"artifact_bytes": 10}

    def measure(self, asked: Recipe) -> dict:
        self.measured += 1
        return self.of(asked, len(self.limit))

    def screen(self, asked: Recipe) -> dict:
        self.screened += 1
        return self.of(asked, 500)

    def slow(self, min_top1: float) -> tuple:
        """Every position in turn."""
        top1 = [(value, self.of(self.vary.recipe_at(value), len(self.limit))["top1"]) for value in self.order]
        return next((v for v, at in reversed(top1) if at >= min_top1), None), next((v for v, at in top1 if at < min_top1), None)


@given(st.floats(0, 100), st.integers(0, 5), st.booleans())
def test_search_finds_what_trying_every_position_finds(min_top1, seed, screened):
    vary = Vary.parse("magnitude_prune.sparsity", recipe(PRUNE, QUANTIZE))
    pictures = Pictures(vary, seed=seed)
    found = search(vary, min_top1, pictures.measure, *([pictures.screen] if screened else []))
    values = tuple(found[name] and found[name]["value"] for name in ("holds", "fails"))
    assert values == pictures.slow(min_top1)
    assert all(found[name] is None or found[name]["images"] == 4000 for name in ("holds", "fails"))
    assert found["recipe"] == (None if values[0] is None else vary.recipe_at(values[0]).to_json())
    assert len(found["evaluations"]) == pictures.measured + pictures.screened and pictures.measured <= most_probes(100) + 2
    assert all(look["holds"] == (look["top1"] >= min_top1) for look in found["evaluations"])


def test_a_screen_spares_the_positions_that_are_clear():
    vary = Vary.parse("magnitude_prune.sparsity", recipe(PRUNE))
    pictures = Pictures(vary)
    search(vary, 60.0, pictures.measure, pictures.screen)
    assert pictures.screened in (6, 7) and 2 <= pictures.measured <= 5


@pytest.mark.parametrize("lie", [0.0, 100.0])
def test_a_screen_that_errs_costs_time_and_nothing_else(lie):
    """The first pictures say that everything holds, or nothing does."""
    vary = Vary.parse("quantize.weight_bits", recipe(QUANTIZE))
    pictures = Pictures(vary)
    wrong = {"top1": lie, "top1_low": lie, "top1_high": lie, "top5": lie, "images": 500, "artifact_bytes": 1}
    found = search(vary, 80.0, pictures.measure, lambda asked: wrong)
    assert (found["holds"]["value"], found["fails"]["value"]) == pictures.slow(80.0)
    assert found["holds"]["images"] == found["fails"]["images"] == 4000


def test_exactly_the_accuracy_asked_for_holds():
    vary = Vary.parse("quantize.weight_bits", recipe(QUANTIZE))
    top1 = {16: 92.0, 8: 92.0, 7: 92.0, 6: 91.9, 5: 91.02, 4: 91.0, 3: 88.0, 2: 10.0}
    metrics = lambda asked: {"top1": top1[asked.steps[0].weight_bits], "top1_low": 0.0, "top1_high": 100.0, "images": 5000, "artifact_bytes": 1_230_000}
    found = search(vary, 91.02, metrics)
    assert (found["holds"]["value"], found["fails"]["value"]) == (5, 4)
    said = sentence(vary, 91.02, found["holds"], found["fails"])
    assert said == "The floor for at least 91.02 % top-1 is 5 bits, which keeps 91.02 % top-1 (1.23 MB); 4 bits keeps 91.00 %."
    found = search(vary, 95, metrics)
    assert found["holds"] is None and found["recipe"] is None
    said = sentence(vary, 95, None, found["fails"])
    assert said == "Already the mildest position, 16 bits, fails: it keeps 92.00 %, and at least 95 % top-1 is asked for."
    found = search(vary, 5, metrics)
    assert found["fails"] is None and sentence(vary, 5, found["holds"], None).startswith("Even the hardest position, 2 bits, holds: it keeps 10.00 % top-1 (")
