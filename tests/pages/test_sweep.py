"""Sweeping a slider: which recipes that means, what of them is left to measure, and that Start asks for just these."""

from __future__ import annotations

import pytest

from core.recipe import Recipe
from core.work import Work
from pages.ui import edits, sweep
from tests.pages.conftest import BITS, PRUNE, REPAIR, metrics
from tests.pages.test_explorer import open_page

DISTILL = {"step": "distill", "temperature": 4}
HERE = Recipe.from_json({"steps": [PRUNE, BITS, REPAIR]})


@pytest.fixture
def session(monkeypatch):
    remembered: dict = {}
    monkeypatch.setattr(sweep.state, "session", lambda: remembered)
    return remembered


def test_each_recipe_differs_in_the_one_field_alone(session):
    distilled = Recipe.from_json({"steps": [PRUNE, DISTILL, BITS, REPAIR]})
    for what, at, field, values in (
        ("Sparsity", 0, "sparsity", sweep.SPARSITIES),
        ("Bits", 2, "weight_bits", sweep.BITS),
        ("Temperature", 1, "temperature", sweep.TEMPERATURES),
    ):
        found = sweep.variations(distilled, what)
        assert [getattr(recipe.steps[at], field) for recipe in found] == list(values)
        assert {edits.set_field(recipe, at, field, getattr(distilled.steps[at], field)) for recipe in found} == {distilled}


def test_channels_have_positions_of_their_own(session):
    removed = Recipe.from_json({"steps": [{"step": "channel_prune", "sparsity": 0.3}]})
    assert [recipe.steps[0].sparsity for recipe in sweep.variations(removed, "Sparsity")] == list(sweep.CHANNELS)
    session["pruning"] = edits.CHANNELS  # chosen, but at nothing
    assert {recipe.steps[0].name for recipe in sweep.variations(Recipe(), "Sparsity")} == {edits.CHANNELS}


@pytest.fixture
def works(notes, monkeypatch) -> list[Work]:
    """What the page asks to have measured."""
    asked: list[Work] = []
    plain = notes.submit
    monkeypatch.setattr(notes, "submit", lambda work, lane=None: asked.append(work) or plain(work, lane))
    return asked


def opened(what: str | None = None, **query):
    page = open_page(**query)
    page.session_state["sweep"] = True
    page.run()
    return page.radio(key="sweep-what").set_value(what).run() if what else page


@pytest.mark.parametrize(("what", "count"), [("Sparsity", 11), ("Bits", 6)])
def test_start_asks_for_every_position_that_was_not_measured(notes, works, what, count):
    page = opened(what)
    assert page.radio(key="sweep-what").options == ["Sparsity", "Bits"]  # nothing is distilled
    assert page.button(key="sweep-start").label == f"Start {count} runs" and works == []
    assert any(f"{count} runs that were not measured yet, ≈ " in caption.value for caption in page.caption)
    page.button(key="sweep-start").click().run()
    swept = works[:count]
    positions = sweep.SPARSITIES if what == "Sparsity" else sweep.BITS
    field = edits.sparsity if what == "Sparsity" else edits.bits
    assert [field(work.recipe) for work in swept] == [value for value in positions if value != field(HERE)]
    assert {(work.model, work.dataset, work.split, work.images, work.latency) for work in swept} == {("resnet18", "fashion_mnist", "validation", None, True)}
    assert works[count:] == [] and not [button for button in page.button if button.key == "sweep-start"]  # it has closed


def test_temperatures_are_swept_where_something_is_distilled(notes, works):
    page = opened("Temperature", step=["distill~temperature~4", "quantize~clipping~mse", "calibrate_batchnorm"])
    page.button(key="sweep-start").click().run()
    assert [work.recipe.steps[0].temperature for work in works] == [1, 2, 8, 16]


def test_when_everything_is_measured_there_is_nothing_to_start(notes, works):
    page = opened("Bits")
    page.button(key="sweep-start").click().run()
    for work in list(works):
        result = {
            "model": work.model, "dataset": work.dataset, "recipe": work.recipe.to_json(), "key": work.recipe.key(), "identity": work.identity(),
            "split": "validation", "machine": {"id": "here"}, "baseline": metrics(92.0, 44_700_000), "metrics": metrics(90.0, 1e6),
            "difference": {"top1": -2.0, "low": -2.3, "high": -1.7}, "seconds": {}, "date": "2026-11-22T10:00:00+00:00",
        }  # fmt: skip
        notes.store.complete(work.identity(), result, b"", origin="here")
    page = opened("Bits")
    assert any("Every position of this slider is measured already." in caption.value for caption in page.caption)
    assert not [button for button in page.button if button.key == "sweep-start"]
