"""The floor: which positions are looked at, how many, and that the pair is always two neighbours measured on all pictures."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import core.methods  # noqa: F401
from core.datasets import load
from core.errors import BadInput, BadRecipe
from core.floor import ALIKE, NUMBERS, Vary, highest, most_highest, most_probes, most_seeks, pair, probe, search, sentence
from core.metrics.accuracy import Predictions, summary
from core.recipe import RATES, STEPS, Recipe, params
from core.silent import idle, silenced, unheard

PRUNE, QUANTIZE = {"step": "magnitude_prune", "sparsity": 0.8}, {"step": "quantize", "weight_bits": 4}


def recipe(*steps: dict) -> Recipe:
    return Recipe.from_json({"seed": 3, "steps": list(steps)})


def bracket(count: int, holds, held: dict[int, bool] | None = None) -> tuple[int | None, int | None]:
    held = {} if held is None else held
    while (at := probe(count, held)) is not None:
        assert at not in held
        held[at] = holds(at)
    return pair(held)


@given(st.integers(1, 12_000), st.data())
def test_a_monotone_field_is_bracketed_in_few_calls(count, data):
    holding = data.draw(st.integers(0, count))  # so many positions hold
    asked: dict[int, bool] = {}
    last, beyond = bracket(count, lambda at: at < holding, asked)
    assert last == (holding - 1 if holding else None) and beyond == (holding if holding < count else None)
    assert len(asked) <= most_probes(count) <= math.ceil(math.log2(count)) + 2


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_whatever_holds_the_pair_is_two_neighbours(holds):
    last, beyond = bracket(len(holds), holds.__getitem__)
    assert last is None or holds[last]
    assert beyond is None or not holds[beyond]
    assert (-1 if last is None else last) + 1 == (len(holds) if beyond is None else beyond)


def test_what_is_known_is_not_asked_again():
    known = {0: True, 4: True, 6: False}
    assert bracket(10, {5: True}.__getitem__, known) == (5, 6) and known[5]


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
    distill = recipe({"step": "distill", "learning_rate": 0.1})
    assert Vary.parse("distill.temperature", distill).positions == tuple(np.arange(1, 20.5, 0.5))
    assert Vary.parse("distill.learning_rate", distill).positions == RATES and RATES[0] == 0.0001 and RATES[-1] == 0.2
    assert Vary.parse("channel_prune.round_to", recipe({"step": "channel_prune"})).positions == (1, 4, 8, 16)
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
            "quantize.clipping cannot be varied, because only numbers can be; this recipe's magnitude_prune.sparsity, "
            "magnitude_prune.threshold, quantize.weight_bits, quantize.activation_bits can be.",
        ),
        ("quantize.group_size", [QUANTIZE], "it says nothing where granularity is channel; set that to group."),
        ("cast.dtype", [{"step": "cast"}], "no field of this recipe can be."),
        ("quantize.symmetric", [QUANTIZE], "because only numbers can be; this recipe's quantize.weight_bits, quantize.activation_bits can be."),
        ("magnitude_prune.layers", [PRUNE | {"threshold": 1}], "because only numbers can be; this recipe's magnitude_prune.threshold can be."),
        ("distill.temperature", [{"step": "distill", "targets": "hard"}], "because it says nothing where targets is hard; set that to soft."),
        ("magnitude_prune.sparsity", [PRUNE | {"threshold": 0.1}], "because the threshold 0.1 stands in its place"),
        (
            "finetune.memory_limit",
            [{"step": "finetune", "checkpoint_activations": True, "memory_limit": 20}],
            "finetune.memory_limit cannot be varied, because it limits memory and leaves the accuracy as it is.",
        ),
        (
            "finetune.checkpoint_activations",
            [{"step": "finetune", "checkpoint_activations": True}],
            "; this recipe's finetune.epochs, finetune.learning_rate, finetune.images can be.",
        ),
    ],
)
def test_what_cannot_be_varied_is_one_sentence(vary, steps, said):
    with pytest.raises(BadInput) as caught:
        Vary.parse(vary, recipe(*steps))
    assert said in str(caught.value) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name,spec", [(name, spec) for name, kind in STEPS.items() for spec in params(kind)], ids=lambda value: getattr(value, "name", value))
def test_every_number_of_every_step_can_be_varied_or_another_field_is_in_its_place(name, spec):
    step = {"step": name}
    if spec.type not in NUMBERS:
        with pytest.raises(BadRecipe, match="because only numbers can be; "):
            Vary.parse(f"{name}.{spec.name}", recipe(step))
        return
    if spec.name in ALIKE:
        with pytest.raises(BadRecipe, match=ALIKE[spec.name]):
            Vary.parse(f"{name}.{spec.name}", recipe(step))
        return
    try:
        vary = Vary.parse(f"{name}.{spec.name}", recipe(step))
    except BadRecipe as refused:
        other, choices = silenced(STEPS.get(name)(), spec.name)
        assert f" {other} " in str(refused)
        vary = Vary.parse(f"{name}.{spec.name}", recipe(step | {other: choices[0]}))
    assert len(vary.positions) >= 3 and len(set(vary.positions)) == len(vary.positions)
    assert list(vary.positions) == sorted(vary.positions, reverse=spec.harder == "down")
    assert vary.next_look({}) in range(len(vary.positions)) and 2 <= vary.most_looks <= 2 * most_probes(len(vary.positions))
    assert all(getattr(vary.recipe_at(value).steps[0], spec.name) == value for value in vary.positions[:: max(1, len(vary.positions) // 4)])


IDLE = [  # a step in which a field that is set says nothing, the sentence's end, and the same step where it does
    ("factorize", {"rank": 0.5}, {"energy": 0.8}, "rank is 0.5; set that to null", {"rank": None}),
    ("magnitude_prune", {"threshold": 0.1}, {"sparsity": 0.5}, "threshold is 0.1; set that to null", {"threshold": None}),
    *(
        (name, {"threshold": 0.1}, {"scope": "layer"}, "threshold is 0.1; set that to null", {"threshold": None})
        for name in ("magnitude_prune", "gradient_prune", "entropy_prune", "channel_prune")
    ),
    ("entropy_prune", {"granularity": "weight"}, {"images": 512}, "granularity is weight; set that to filter", {"granularity": "filter"}),
    *(
        ("channel_prune", {"importance": name}, {"images": 512}, f"importance is {name}; set that to taylor or entropy", {"importance": "entropy"})
        for name in ("l1", "l2", "bn_scale", "random")
    ),
    ("quantize", {}, {"activation_scale": "dynamic"}, "activation_bits is null; set that to 4, 5, 6, 7 or 8", {"activation_bits": 5}),
    ("quantize", {}, {"group_size": 32}, "granularity is channel; set that to group", {"granularity": "group"}),
]


@pytest.mark.parametrize(("name", "beside", "field", "said", "cure"), IDLE, ids=lambda value: value if isinstance(value, str) else None)
def test_a_field_that_says_nothing_has_no_floor_and_is_warned_of_where_it_is_set(name, beside, field, said, cure):
    (spec,) = [spec for spec in params(STEPS.get(name)) if spec.name in field]
    step = STEPS.get(name)(**beside | field)
    assert idle(step, spec.name) and unheard(step) == [f"{name}.{spec.name} says nothing where {said}."]
    assert not unheard(STEPS.get(name)(**beside)) and not unheard(STEPS.get(name)(**beside | field | cure))
    if spec.type in NUMBERS:
        with pytest.raises(BadRecipe, match=r"says nothing where|stands in its place; set that to null"):
            Vary.parse(f"{name}.{spec.name}", Recipe((step,)))
        assert Vary.parse(f"{name}.{spec.name}", Recipe((dataclasses.replace(step, **cure),))).positions


@pytest.mark.parametrize("name", ["contribution_prune", "gradient_prune", "finetune", "mixed_precision", "correct_bias"])
def test_a_rule_of_one_step_is_of_no_other(name):
    assert not idle(STEPS.get(name)(), "images")


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
    said = sentence(vary, 91.02, found["holds"], found["fails"], 3)
    assert said == "The floor for at least 91.02 % top-1 is 5 bits, which keeps 91.02 % top-1 (1.23 MB); 4 bits keeps 91.00 %."
    found = search(vary, 95, metrics)
    assert found["holds"] is None and found["recipe"] is None
    said = sentence(vary, 95, None, found["fails"], 4)
    assert said == "Already the mildest position, 16 bits, fails: it keeps 92.00 %, and at least 95 % top-1 is asked for."
    found = search(vary, 5, metrics)
    said = sentence(vary, 5, found["holds"], None, 3)
    assert found["fails"] is None and said.startswith("Even the hardest position, 2 bits, holds: it keeps 10.00 % top-1 (")


def climb(top1: list[float], own: int | None, least: float) -> tuple[int | None, dict[int, dict]]:
    """The highest position that holds, and all that was looked at, in that order."""
    seen: dict[int, dict] = {}
    while (at := highest(len(top1), own, seen)) is not None:
        assert at not in seen
        seen[at] = {"holds": top1[at] >= least, "top1": top1[at]}
    return max((at for at, each in seen.items() if each["holds"]), default=None), seen


def risen(count: int, peak: int, fall: float = 1.0) -> list[float]:
    return [90 - fall * abs(at - peak) for at in range(count)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300), st.data())
def test_whatever_the_accuracy_is_the_pair_is_two_neighbours_or_nothing_that_was_seen_holds(top1, data):
    own = data.draw(st.none() | st.integers(0, len(top1) - 1))
    found, seen = climb(top1, own, 5)
    assert len(seen) <= most_highest(len(top1)) and next(iter(seen)) == len(top1) - 1
    if found is None:
        assert min(len(top1), 3) <= len(seen) + (own in (None, 0, len(top1) - 1)) and len(seen) <= most_seeks(len(top1))
        assert {0, len(top1) - 1 if own is None else own} <= seen.keys() and not any(each["holds"] for each in seen.values())
        assert len(top1) > 4 or max(top1) < 5
    else:
        assert found == len(top1) - 1 or not seen[found + 1]["holds"]


@given(st.integers(2, 2000), st.data())
def test_from_an_own_value_that_holds_the_end_of_what_holds_is_found(count, data):
    """Accuracy rises and falls: what holds is one stretch, and the recipe is in it."""
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, count - 1))
    own = data.draw(st.integers(first, last))
    found, seen = climb([float(first <= at <= last) for at in range(count)], own, 1)
    assert found == last and len(seen) <= 2 + math.ceil(math.log2(count)) and (last < count - 1 or len(seen) == 1)


@given(st.integers(5, 400), st.data())
def test_a_peak_that_holds_is_climbed_to_from_a_value_that_does_not(count, data):
    peak, own = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count - 1))
    wide = count // 6
    found, _seen = climb(risen(count, peak), own, 90 - wide)
    assert found == min(peak + wide, count - 1)


@pytest.mark.parametrize(
    ("top1", "own", "least", "found", "looked"),
    [
        (risen(39, 12), 6, 80, 22, [38, 6, 22, 30, 26, 24, 23]),  # rises and falls
        (risen(39, 12), 30, 80, 22, [38, 30, 0, 15, 22, 26, 24, 23]),  # the recipe's own value fails
        (risen(39, 12), 30, 91, None, [38, 30, 0, 15, 22, 7, 11]),  # nothing holds: it ends beside the peak
        ([50.0] * 39, 6, 50, 38, [38]),  # a plateau that holds
        ([50.0] * 39, 6, 51, None, [38, 6, 0, 22, 30, 14, 34]),  # a plateau that does not
        ([9.0, 1, 9, 1], 1, 5, 0, [3, 1, 0]),  # a place of change, and not the only one
        ([9.0, 1, 1, 1], None, 5, 0, [3, 0, 1]),
        ([1.0, 1, 9, 1], 0, 5, 2, [3, 0, 1, 2]),  # four are all looked at before none is said to hold
        ([1.0], 0, 5, None, [0]),
    ],
)
def test_where_it_looks_when_accuracy_may_rise_and_fall(top1, own, least, found, looked):
    at, seen = climb(top1, own, least)
    assert (at, list(seen)) == (found, looked)


def measure_temperature(asked: Recipe) -> dict:
    top1 = 91 - abs(asked.steps[0].temperature - 6)
    return {"top1": top1, "top1_low": top1 - 1, "top1_high": top1 + 1, "images": 5000, "artifact_bytes": 1_230_000}


def of_temperature(min_top1: float) -> tuple[dict, str]:
    vary = Vary.parse("distill.temperature", recipe({"step": "distill", "temperature": 4}))
    told = []
    found = search(vary, min_top1, measure_temperature, lambda _: pytest.fail("screened"), lambda value, number, most: told.append((value, number, most)))
    assert told == [(look["value"], number, vary.most_looks) for number, look in enumerate(found["evaluations"], 1)]
    return found, sentence(vary, min_top1, found["holds"], found["fails"], len(found["evaluations"]))


def test_the_floor_of_a_temperature_is_the_highest_that_holds():
    found, said = of_temperature(88.0)
    assert (found["holds"]["value"], found["fails"]["value"]) == (9, 9.5) and found["recipe"]["steps"][0]["temperature"] == 9
    assert [look["value"] for look in found["evaluations"]][:3] == [20, 4, 12] and len(found["evaluations"]) <= 7
    assert said == (
        "The floor for at least 88 % top-1 is temperature 9, which keeps 88.00 % top-1 (1.23 MB); 9.5 keeps 87.50 %. "
        "Accuracy need not fall steadily with this field: this is the highest place at which it was found to change."
    )
    found, said = of_temperature(70.0)
    assert said == "Even the highest position, temperature 20, holds: it keeps 77.00 % top-1 (1.23 MB), and at least 70 % top-1 is asked for."
    assert found["fails"] is None and len(found["evaluations"]) == 1


def test_where_nothing_held_the_best_is_named_and_nothing_is_claimed_of_the_rest():
    found, said = of_temperature(95.0)
    assert found["holds"] is None and found["recipe"] is None and found["fails"] == max(found["evaluations"], key=lambda look: look["top1"])
    assert said == (
        f"None of the {len(found['evaluations'])} positions looked at keeps at least 95 % top-1; the best of them, temperature 6, keeps 91.00 %, "
        "and as accuracy need not fall steadily with this field, others may keep more."
    )
    few = Vary.parse("channel_prune.round_to", recipe({"step": "channel_prune"}))
    metrics = lambda asked: {"top1": float(asked.steps[0].round_to), "top1_low": 0.0, "top1_high": 99.0, "images": 50, "artifact_bytes": 1}
    found = search(few, 95, metrics)
    said = sentence(few, 95, None, found["fails"], len(found["evaluations"]))
    assert said == "All 4 positions were looked at, and none keeps at least 95 % top-1; the best of them, round to 16 channels, keeps 16.00 %."


def test_positions_are_those_beside_the_other_fields_of_that_step():
    """What is kept of them is not taken for those of another step, or of other fields."""
    of = lambda **step: Vary.parse("nm_prune.n", recipe({"step": "nm_prune"} | step)).positions
    assert of(n=2, m=4) == of(n=3, m=4) == (3, 2, 1) and of(n=2, m=6) == (5, 4, 3, 2, 1) and of(n=2, m=4) == (3, 2, 1)
    assert Vary.parse("distill.images", recipe({"step": "distill"})).positions == Vary.parse("finetune.images", recipe({"step": "finetune"})).positions


@pytest.mark.parametrize(("name", "spec"), [(name, spec) for name, kind in STEPS.items() for spec in params(kind) if spec.name == "images"])
def test_images_beyond_the_split_that_a_step_reads_have_one_position(name, spec):
    step = {"step": name} | ({"importance": "taylor"} if name == "channel_prune" else {})
    reads = "train" if spec.help.startswith("Training pictures") else "calibration"
    pictures = len(load("digits").split(reads))
    everywhere, positions = (Vary.parse(f"{name}.images", recipe(step), dataset).positions for dataset in ("", "digits"))
    assert STEPS.get(name).reads == reads and positions == everywhere[-len(positions) :] and positions[0] >= pictures > max((0, *positions[1:]))
    assert all(value >= pictures for value in everywhere[: -len(positions)])


def test_images_are_bounded_by_what_there_is():
    of = lambda dataset, **step: Vary.parse("finetune.images", recipe({"step": "finetune"} | step), dataset)
    assert of("digits").positions == tuple(range(900, 0, -100)) and of("digits").most_looks == 4
    assert of("fashion_mnist").positions[0] == 10_000 and of("").positions[0] == 60_000
    assert of("digits", images=60_000).next_look({}) == 4
    assert Vary.parse("gradient_prune.images", recipe({"step": "gradient_prune"}), "digits").positions == (128, 96, 64, 32)
    assert Vary.parse("finetune.epochs", recipe({"step": "finetune"}), "digits").positions[0] == 50
    with pytest.raises(BadInput, match="There is no dataset named 'digit'; "):
        of("digit")
