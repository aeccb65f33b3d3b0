"""The floor beside a slider: it asks for one run after another, moves the slider to what it found, and says the pair."""

from __future__ import annotations

import json

import pytest

from core.errors import BadRecipe
from core.recipe import Recipe
from core.store import blank_row
from core.work import Work
from pages.ui import edits, floor
from tests.pages.conftest import metrics
from tests.pages.test_explorer import asked_for, components, markup, open_page

STEPS = ["magnitude_prune~sparsity~0.6", "calibrate_batchnorm"]


@pytest.fixture
def works(notes, monkeypatch):
    """What the page asked to have measured, by identity; the notes' cluster keeps it waiting."""
    asked: dict[str, Work] = {}
    plain = notes.submit

    def submit(work, lane=None):
        asked[work.identity()] = work
        return notes.store.find(work.identity()) or plain(work, lane)

    monkeypatch.setattr(notes, "submit", submit)
    return asked


def top1(recipe: Recipe) -> float:
    """Falls by half a point for every point of sparsity beyond 50 %, and for every bit below 8; by a tenth for every shared value below 64;
    by half a point for every degree that a temperature is above 6."""
    fewer = sum(max(0, 64 - step.clusters) for step in recipe.steps if step.name == "share_weights")
    hot = sum(0.5 * max(0, step.temperature - 6) for step in recipe.steps if step.name == "distill")
    return 92.0 - 50 * max(0.0, edits.sparsity(recipe) - 0.5) - 0.5 * max(0, 8 - edits.bits(recipe)) - 0.1 * fewer - hot


def complete(notes, works) -> None:
    """The cluster has measured everything that it was asked for."""
    for identity, work in works.items():
        result = {
            "model": work.model, "dataset": work.dataset, "recipe": work.recipe.to_json(), "key": work.recipe.key(), "identity": identity,
            "split": "validation", "machine": {"id": "here"}, "baseline": metrics(92.0, 44_700_000), "metrics": metrics(top1(work.recipe), 1e6, None),
            "difference": {"top1": 0.0, "low": -0.1, "high": 0.1}, "seconds": {}, "date": "2026-11-22T10:00:00+00:00",
        }  # fmt: skip
        notes.store.complete(identity, result, b"", origin="here")


def start(page, slider: str, least: float):
    """Open the popover, name an accuracy, and start."""
    page.session_state[f"floor-{slider}"] = True
    page.run()
    page.number_input(key=f"floor-{slider}-top1").set_value(least).run()
    return page.button(key=f"floor-start-{slider}").click().run()


def to_the_end(page, notes, works):
    """Until it asks for nothing new: the run after the last answer moves the slider, and one more draws what that changed."""
    quiet = 0
    while quiet < 2:
        known = len(works)
        complete(notes, works)
        page.run()
        quiet = quiet + 1 if len(works) == known else 0
    assert not page.exception
    return page


def test_the_slider_moves_to_the_floor(notes, works):
    page = open_page(step=STEPS)
    works.clear()
    start(page, floor.SPARSITY, 89.0)
    status = components(page, "paretoscope_status")[0]
    assert status["text"] == "floor: sparsity 49 %" and status["again_ms"] and status["fraction"] == 0
    assert [edits.sparsity(work.recipe) for work in works.values()] == [0.49] and not any(work.latency for work in works.values())
    complete(notes, works)
    page.run()
    assert [edits.sparsity(work.recipe) for work in works.values()] == [0.49, 0.74]
    to_the_end(page, notes, works)
    assert asked_for(page, "step") == ["magnitude_prune~sparsity~0.56", "calibrate_batchnorm"]
    assert "The floor for at least 89 % top-1 is sparsity 56 %, which keeps 89.00 % top-1 (1.00 MB); 57 % keeps 88.50 %." in markup(page)
    assert len(works) <= 7 and all(edits.repaired(work.recipe) for work in works.values())
    drawn = components(page, "paretoscope_chart")[0]
    shown = {y for trace in [*json.loads(drawn["fixed"])["data"], *drawn["moving"]] for y in trace.get("y", ())}
    assert 88.5 in shown  # what it measured are points


def test_bits_that_were_off_get_a_step(notes, works):
    page = start(open_page(step=["calibrate_batchnorm"]), floor.BITS, 90.5)
    to_the_end(page, notes, works)
    assert asked_for(page, "step") == ["quantize~weight_bits~5~clipping~mse", "calibrate_batchnorm"]
    assert "is 5 bits, which keeps 90.50 %" in markup(page)


def start_in_chip(page, at: int, field: str, least: float):
    page.session_state[f"chip-{at}"] = True
    page.run()
    page.button(key=f"floor-field-{at}-{field}").click().run()
    page.number_input(key=f"floor-{at}-{field}-top1").set_value(least).run()
    return page.button(key=f"floor-start-{at}-{field}").click().run()


@pytest.mark.slow
def test_a_field_has_a_floor_in_its_chip(notes, works):
    page = open_page(step=["share_weights~clusters~128", "calibrate_batchnorm"])
    start_in_chip(page, 0, "clusters", 90.05)
    assert not [button for button in page.button if (button.key or "").startswith("floor-start")]  # it closes
    to_the_end(page, notes, works)
    assert asked_for(page, "step") == ["share_weights~clusters~45", "calibrate_batchnorm"] and "is 45 values, which keeps 90.10 %" in markup(page)
    page = open_page(step=["magnitude_prune~sparsity~0.9~scope~layer"])
    to_the_end(start_in_chip(page, 0, "sparsity", 89.0), notes, works)
    assert asked_for(page, "step") == ["magnitude_prune~sparsity~0.56~scope~layer"]


DISTILL = ["distill", "calibrate_batchnorm"]


def test_a_temperature_has_a_floor_beside_its_slider_and_in_its_chip(notes, works):
    page = open_page(step=DISTILL)
    works.clear()
    start(page, floor.TEMPERATURE, 90.5)
    assert components(page, "paretoscope_status")[0]["text"] == "floor: temperature 20"
    to_the_end(page, notes, works)
    searched = [work.recipe.steps[0].temperature for work in works.values() if not work.latency]
    assert searched[:3] == [20, 4, 12] and len(searched) <= 8
    assert asked_for(page, "step") == ["distill~temperature~9.0", "calibrate_batchnorm"]
    assert "The floor for at least 90.5 % top-1 is temperature 9, which keeps 90.50 % top-1 (1.00 MB); 9.5 keeps 90.25 %. Accuracy need not" in markup(page)
    page = to_the_end(start_in_chip(open_page(step=DISTILL), 0, "temperature", 90.0), notes, works)
    assert asked_for(page, "step") == ["distill~temperature~10.0", "calibrate_batchnorm"]


def test_what_is_known_already_costs_no_run(notes, works):
    """A search asks the cluster by the same identities as everything else; what is complete is answered at once."""
    page = open_page(step=DISTILL)
    to_the_end(start(page, floor.TEMPERATURE, 90.5), notes, works)
    before = len(works)
    page = start(open_page(step=DISTILL), floor.TEMPERATURE, 90.5)
    page.run()
    assert len(works) == before and asked_for(page, "step") == ["distill~temperature~9.0", "calibrate_batchnorm"]


def test_nothing_moves_when_none_that_was_looked_at_holds(notes, works):
    page = to_the_end(start(open_page(step=DISTILL), floor.TEMPERATURE, 95.0), notes, works)
    assert asked_for(page, "step") == DISTILL
    assert "None of the 7 positions looked at keeps at least 95 % top-1; the best of them, temperature " in markup(page)


def test_every_number_in_a_chip_has_a_button_and_nothing_else_does(notes):
    def buttons(*steps: str) -> set[str]:
        page = open_page(step=list(steps))
        page.session_state["chip-0"] = True
        page.run()
        return {button.key.rpartition("-")[2] for button in page.button if (button.key or "").startswith("floor-field-0-")}

    assert buttons("distill") == {"temperature", "alpha", "hints", "epochs", "learning_rate", "images"}
    assert buttons("distill~checkpoint_activations~true~memory_limit~20") == buttons("distill")
    assert "temperature" not in buttons("distill~targets~hard")
    assert buttons("channel_prune") == {"sparsity", "round_to", "images"}
    assert buttons("calibrate_batchnorm") == {"images"} and not buttons("cast")


def test_a_floor_in_a_chip_moves_no_other_step(notes, works):
    page = start_in_chip(open_page(step=["share_weights~clusters~128", "calibrate_batchnorm"]), 0, "clusters", 90.05)
    page.button(key="remove-0").click().run()
    to_the_end(page, notes, works)
    assert asked_for(page, "step") == ["calibrate_batchnorm"] and "is 45 values" in markup(page)


def test_nothing_moves_when_even_the_mildest_fails(notes, works):
    page = to_the_end(start(open_page(step=STEPS), floor.SPARSITY, 95.0), notes, works)
    assert asked_for(page, "step") == STEPS and "Already the mildest position, sparsity 0 %, fails" in markup(page)
    page.checkbox(key="repair").uncheck().run()
    assert "Already the mildest" not in markup(page)  # it was about another recipe


def test_a_recipe_that_was_changed_meanwhile_stays(notes, works):
    page = start(open_page(step=STEPS), floor.SPARSITY, 89.0)
    page.checkbox(key="repair").uncheck().run()
    to_the_end(page, notes, works)
    assert asked_for(page, "step") == STEPS[:1] and "is sparsity 56 %" in markup(page)


def test_another_model_is_not_told_of_this_ones_floor(notes, works):
    page = start(open_page(step=STEPS), floor.SPARSITY, 89.0)
    page.selectbox(key="model").select("squeezenet1_1").run()
    to_the_end(page, notes, works)
    assert asked_for(page, "step") == STEPS and "sparsity 56 %" not in markup(page)
    page.selectbox(key="model").select("resnet18").run()
    assert "is sparsity 56 %" in markup(page)


def test_a_failed_run_ends_the_search_with_its_sentence(notes, works):
    page = start(open_page(step=STEPS), floor.SPARSITY, 89.0)
    identity = list(works)[-1]
    notes.store.claim(blank_row(identity, model="resnet18", dataset="fashion_mnist", owner="test"))
    notes.store.write({identity: {"state": "FAILED", "message": "The disk is full."}})
    page.run()
    assert "The floor was not found: The disk is full." in markup(page)


def fail(notes, works, error: str, where) -> None:
    """The runs of recipes for which `where` is true fail by an error of that class."""
    for identity, work in works.items():
        if where(work.recipe) and (notes.store.find(identity) or {}).get("state") != "FAILED":
            notes.store.claim(blank_row(identity, model="resnet18", dataset="fashion_mnist", owner="test"))
            message = "The loss became nan while training, and takes finite values only; take a learning rate below 0.2."
            notes.store.write({identity: {"state": "FAILED", "stage": error, "message": message}})


def test_a_learning_rate_that_leads_nowhere_fails_and_the_search_goes_on(notes, works, monkeypatch):
    page = open_page(step=DISTILL)
    works.clear()
    page.session_state["chip-0"] = True
    page.run()
    page.button(key="floor-field-0-learning_rate").click().run()
    captions = " ".join(caption.value for caption in page.caption)
    assert "Ends at the highest place at which it was seen to change" in captions and "two neighbouring positions" not in captions
    page.number_input(key="floor-0-learning_rate-top1").set_value(80.0).run()
    page.button(key="floor-start-0-learning_rate").click().run()
    refuse(page, notes, works, lambda recipe: recipe.steps[0].learning_rate > 0.1)
    assert asked_for(page, "step") == ["distill~learning_rate~0.1", "calibrate_batchnorm"]
    assert "is learning rate 0.1, which keeps 92.00 % top-1 (1.00 MB); 0.15 was refused (The loss became nan" in markup(page)


def refuse(page, notes, works, where):
    """To the end of a search in which the runs of recipes for which `where` is true are refused, and the others are measured."""
    known = -1
    while known < len(works):
        known = len(works)
        fail(notes, works, "BadInput", where)
        for identity, work in [(identity, work) for identity, work in works.items() if not where(work.recipe)]:
            complete(notes, {identity: work})
        page.run()
    page.run()
    assert not page.exception
    return page


def test_a_search_by_halves_goes_on_past_a_refusal(notes, works):
    page = open_page(step=STEPS)
    works.clear()
    refuse(start(page, floor.SPARSITY, 80.0), notes, works, lambda recipe: edits.sparsity(recipe) > 0.45)
    assert asked_for(page, "step") == ["magnitude_prune~sparsity~0.45", "calibrate_batchnorm"]
    assert "is sparsity 45 %, which keeps 92.00 % top-1 (1.00 MB); 46 % was refused (The loss became nan" in markup(page)


def test_where_every_position_is_refused_that_is_the_answer(notes, works):
    page = open_page(step=STEPS)
    works.clear()
    refuse(start(page, floor.SPARSITY, 80.0), notes, works, lambda recipe: True)
    assert asked_for(page, "step") == STEPS
    assert f"The floor was not found: None of the {len(works)} positions looked at could be measured: The loss became nan" in markup(page)


def test_a_position_that_is_refused_before_it_is_asked_for_fails_too(notes, works, monkeypatch):
    submit = notes.submit

    def refusing(work, lane=None):
        if not work.latency and edits.sparsity(work.recipe) > 0.45:
            raise BadRecipe("This does not fit; take less.")
        return submit(work, lane)

    monkeypatch.setattr(notes, "submit", refusing)
    page = to_the_end(start(open_page(step=STEPS), floor.SPARSITY, 80.0), notes, works)
    assert "is sparsity 45 %, which keeps 92.00 % top-1 (1.00 MB); 46 % was refused (This does not fit)." in markup(page)


@pytest.mark.parametrize(("state", "stage"), [("CANCELLED", "BadInput"), ("FAILED", "train"), ("FAILED", None)])
def test_what_is_not_the_positions_fault_ends_a_search_by_halves(notes, works, state, stage):
    page = start(open_page(step=STEPS), floor.SPARSITY, 89.0)
    identity = list(works)[-1]
    notes.store.claim(blank_row(identity, model="resnet18", dataset="fashion_mnist", owner="test"))
    notes.store.write({identity: {"state": state, "stage": stage, "message": "The cluster lost it." if state == "FAILED" else ""}})
    page.run()
    said = "The cluster lost it." if state == "FAILED" else "The run of sparsity 49 % was cancelled."
    assert f"The floor was not found: {said}" in markup(page) and list(works)[-1] == identity


def test_no_more_pictures_are_tried_than_the_split_has(notes, works):
    page = open_page(step=["finetune"])
    works.clear()
    page = to_the_end(start_in_chip(page, 0, "images", 95.0), notes, works)
    tried = [work.recipe.steps[0].images for work in works.values() if not work.latency]
    assert max(tried) == 10_000 and len(tried) <= 7 and "Already the mildest position, 10,000 pictures, fails: it keeps 92.00 %" in markup(page)


def test_what_is_not_the_positions_fault_ends_that_search_too(notes, works):
    page = start(open_page(step=DISTILL), floor.TEMPERATURE, 90.5)
    fail(notes, works, "ParetoscopeError", lambda recipe: True)
    page.run()
    assert "The floor was not found: The loss became nan" in markup(page)


def test_it_can_be_stopped(notes, works):
    page = start(open_page(step=STEPS), floor.SPARSITY, 89.0)
    identity = list(works)[-1]
    page.session_state["floor-bits"] = True
    page.run()
    page.button(key="floor-stop-bits").click().run()
    assert notes.asked[-1] == ("cancel", identity)
    complete(notes, works)
    page.run()
    assert "floor" not in components(page, "paretoscope_status")[0]["text"] and asked_for(page, "step") == STEPS


def test_the_usual_accuracy_is_the_budget_or_a_point_below_the_baseline(notes):
    page = open_page(step=STEPS)
    page.session_state["floor-sparsity"] = True
    page.run()
    assert page.number_input(key="floor-sparsity-top1").value == 91.0
    page = open_page(step=STEPS, accuracy=["88.5"])
    page.session_state["floor-bits"] = True
    page.run()
    assert page.number_input(key="floor-bits-top1").value == 88.5
