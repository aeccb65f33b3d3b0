"""The floor where positions are refused while they are measured: they fail, with the reason, and what is not their fault ends the search."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadInput, Cancelled, ClusterError, NotHere, ParetoscopeError
from core.floor import Vary, most_probes, search, sentence
from core.recipe import Recipe


def recipe(*steps: dict) -> Recipe:
    return Recipe.from_json({"steps": list(steps)})


REFUSAL = "The loss became nan while training, and takes finite values only; take a learning rate below 0.1."


def search_rates(min_top1: float, bound: float) -> tuple[Vary, dict]:
    """Over learning rates, of which those from `bound` on are refused, and less keeps less."""

    def measure(asked: Recipe) -> dict:
        rate = asked.steps[0].learning_rate
        if rate >= bound:
            raise BadInput(REFUSAL)
        return {"top1": 100 * rate, "top1_low": 0.0, "top1_high": 99.0, "images": 50, "artifact_bytes": 1_230_000}

    vary = Vary.parse("finetune.learning_rate", recipe({"step": "finetune"}))
    return vary, search(vary, min_top1, measure)


def test_a_position_that_is_refused_while_it_is_measured_fails():
    vary, found = search_rates(0.5, 0.1)
    assert (found["holds"]["value"], found["fails"]["value"]) == (0.07, 0.1) and found["recipe"]["steps"][0]["learning_rate"] == 0.07
    first = found["evaluations"][0]
    assert (first["value"], first["holds"], first["top1"], first["refused"]) == (0.2, False, None, REFUSAL)
    assert sentence(vary, 0.5, found["holds"], found["fails"], len(found["evaluations"])) == (
        "The floor for at least 0.5 % top-1 is learning rate 0.07, which keeps 7.00 % top-1 (1.23 MB); "
        "0.1 was refused (The loss became nan while training, and takes finite values only). "
        "Accuracy need not fall steadily with this field: this is the highest place at which it was found to change."
    )


def test_a_position_that_is_refused_is_never_the_best():
    vary, found = search_rates(50, 0.1)
    assert found["holds"] is None and found["fails"]["top1"] == max(look["top1"] or 0 for look in found["evaluations"]) >= 5
    assert "keeps at least 50 % top-1; the best of them, learning rate 0.0" in sentence(vary, 50, None, found["fails"], len(found["evaluations"]))


def test_where_every_position_is_refused_that_is_the_answer():
    with pytest.raises(BadInput, match=r"^None of the 6 positions looked at could be measured: The loss became nan .*\.$"):
        search_rates(1, 0.0)


def search_epochs(min_top1: float, refused, screen=lambda asked: None) -> tuple[Vary, dict]:
    """Over epochs from 50 to 1, of which each keeps a point; those for which `refused` is true are not measured."""

    def measure(asked: Recipe) -> dict:
        epochs = asked.steps[0].epochs
        if refused(epochs):
            raise BadInput(REFUSAL)
        return {"top1": float(epochs), "top1_low": 0.0, "top1_high": 99.0, "images": 5000, "artifact_bytes": 1_230_000}

    vary = Vary.parse("finetune.epochs", recipe({"step": "finetune"}))
    return vary, search(vary, min_top1, measure, screen)


def test_a_search_by_halves_goes_on_past_a_refusal():
    vary, found = search_epochs(10, lambda epochs: epochs < 20)
    assert (found["holds"]["value"], found["fails"]["value"]) == (20, 19) and found["recipe"]["steps"][0]["epochs"] == 20
    assert len(found["evaluations"]) <= most_probes(50) and found["fails"] in found["evaluations"]
    assert {look["value"] for look in found["evaluations"] if look.get("refused") == REFUSAL} == {13, 17, 19}
    assert sentence(vary, 10, found["holds"], found["fails"], len(found["evaluations"])) == (
        "The floor for at least 10 % top-1 is epochs 20, which keeps 20.00 % top-1 (1.23 MB); "
        "19 was refused (The loss became nan while training, and takes finite values only)."
    )


@given(st.floats(0, 60), st.sets(st.integers(1, 50), max_size=49))
def test_whatever_is_refused_the_pair_is_two_neighbours(min_top1, refused):
    try:
        _vary, found = search_epochs(min_top1, refused.__contains__)
    except BadInput as error:
        assert str(error).startswith("None of the ") and len(refused) >= math.floor(math.log2(50))
        return
    holds, fails = found["holds"], found["fails"]
    assert len({look["value"] for look in found["evaluations"]}) == len(found["evaluations"]) <= most_probes(50)
    assert holds is None or holds["top1"] >= min_top1 and holds["value"] not in refused
    assert fails is None or fails["value"] in refused or fails["top1"] < min_top1
    assert (51 if holds is None else holds["value"]) - 1 == (0 if fails is None else fails["value"])


def test_the_mildest_may_be_the_one_that_is_refused():
    vary, found = search_epochs(40, lambda epochs: epochs > 35)
    assert found["holds"] is None and found["recipe"] is None and any(look["top1"] for look in found["evaluations"])
    assert sentence(vary, 40, None, found["fails"], len(found["evaluations"])) == (
        "Already the mildest position, epochs 50, fails: it was refused (The loss became nan while training, and takes finite values only), "
        "and at least 40 % top-1 is asked for."
    )


def test_where_every_position_that_is_halved_to_is_refused_that_is_the_answer():
    with pytest.raises(BadInput, match=r"^None of the 5 positions looked at could be measured: The loss became nan .*\.$"):
        search_epochs(1, lambda epochs: True)


@pytest.mark.parametrize("clear", [True, False])
def test_a_refusal_on_the_first_pictures_is_one_and_costs_no_second_look(clear):
    def screen(asked: Recipe) -> dict:
        epochs = asked.steps[0].epochs
        if epochs < 20:
            raise BadInput(REFUSAL)
        wide = 1.0 if clear else 90.0
        return {"top1": float(epochs), "top1_low": epochs - wide, "top1_high": epochs + wide, "images": 500, "artifact_bytes": 1}

    _vary, found = search_epochs(10, lambda epochs: epochs < 20 and pytest.fail("measured after it was refused"), screen)
    assert (found["holds"]["value"], found["holds"]["images"], found["fails"]["value"]) == (20, 5000, 19)
    assert found["fails"]["refused"] == REFUSAL


def test_a_position_that_only_its_first_pictures_did_not_refuse_is_refused():
    kept = lambda asked: {"top1": 80.0, "top1_low": 79.0, "top1_high": 81.0, "images": 500, "artifact_bytes": 1}
    _vary, found = search_epochs(10, lambda epochs: epochs < 20, kept)
    assert (found["holds"]["value"], found["fails"]["value"]) == (20, 19) and found["fails"]["refused"] == REFUSAL


@pytest.mark.parametrize("vary", ["finetune.epochs", "finetune.learning_rate"])
@pytest.mark.parametrize(
    "error", [ParetoscopeError("It broke."), ClusterError("No cluster."), Cancelled("Stopped."), NotHere("It", "gone", "Fetch it."), KeyError()]
)
def test_what_is_not_the_positions_fault_ends_either_search(vary, error):
    def measure(_asked: Recipe) -> dict:
        raise error

    with pytest.raises(type(error)) as caught:
        search(Vary.parse(vary, recipe({"step": "finetune"})), 1, measure)
    assert caught.value is error
