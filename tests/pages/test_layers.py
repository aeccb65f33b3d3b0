"""The Layers page without a browser: what it asks for, what it draws, and how chosen layers become a step's."""

from __future__ import annotations

import base64
import json

import pytest
from streamlit.testing.v1 import AppTest

from core.keeping import kept
from core.layers.facts import FIGURES, Layers
from core.layers.sensitivity import Sensitivity, layers_of
from core.recipe import STEPS, Recipe
from core.store import blank_row
from core.work import Work
from pages.ui import use_layers
from tests.pages.test_explorer import DASHBOARD, asked_for, components, markup

PAGE = "pages/1_Layers.py"
STEPS_SHOWN = ["magnitude_prune~sparsity~0.7", "calibrate_batchnorm"]
RECIPE = Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": 0.7}, {"step": "calibrate_batchnorm"}]})
NAMES = layers_of("resnet18")


def open_page(**query) -> AppTest:
    page = AppTest.from_file(DASHBOARD, default_timeout=60)
    page.switch_page(PAGE)
    for name, value in (query or {"step": STEPS_SHOWN}).items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


@pytest.mark.parametrize(("name", "told"), [("cuda", ["Accuracy and training: CUDA. Latency: the processor."]), ("cpu", []), ("tpu", [])])
def test_a_page_says_what_computes_where_it_is_not_the_processor(name, told, notes, monkeypatch):
    monkeypatch.setenv("PARETOSCOPE_DEVICE", name)
    page = open_page()
    assert [caption.value for caption in page.sidebar.caption] == told
    assert [error.value for error in page.error][:1] == (["PARETOSCOPE_DEVICE cannot be 'tpu'; it takes one of cpu, cuda, mps."] if name == "tpu" else [])


def keep(asked, result: dict) -> None:
    kept.put("layers", f"{asked.identity()}.json", json.dumps(result).encode())


def sensitivity(name: str = "magnitude_prune") -> Sensitivity:
    return Sensitivity("resnet18", "fashion_mnist", STEPS.get(name)())


def table(asked: Sensitivity) -> dict:
    cell = lambda lost: {"top1": 92.0 - lost, "images": 250, "difference": {"top1": -lost, "low": -lost - 1, "high": 1 - lost}}
    cells = [[cell(float(row + column)) for column in range(len(asked.values))] for row in range(len(NAMES))]
    return asked.to_json() | {"field": asked.field.name, "layers": NAMES, "cells": cells, "whole": "", "baseline": {"top1": 92.0, "images": 250}}


def facts() -> dict:
    figures = lambda size: dict.fromkeys(FIGURES, size)
    weight = {
        "before_shape": [2, 3], "after_shape": [2, 3], "marks": [{"kind": "threshold", "values": [-0.1, 0.1], "said": "pruned below 0.1"}],
        "histogram": {"low": -1.0, "high": 1.0, "before": [3, 3], "after": [2, 1], "zeros": [0, 3]},
        "picture": {"rows": 2, "columns": 3, "shares": base64.b64encode(bytes(6)).decode()}, "singular_values": {"before": [2.0, 1.0], "after": [1.5, 0.5]},
    }  # fmt: skip
    entry = lambda name: {"layer": name, "form": "linear, 3 → 2", "before": figures(4000), "after": figures(1000), "weight": weight, "notes": []}
    return {"layers": [entry(name) for name in NAMES], "notes": []}


@pytest.fixture
def measured(notes):
    keep(sensitivity(), table(sensitivity()))
    keep(Layers(Work("resnet18", "fashion_mnist", RECIPE)), facts())
    return notes


def figures(page: AppTest) -> list[dict]:
    return [json.loads(drawn["fixed"]) for drawn in components(page, "paretoscope_chart")]


def test_what_is_kept_is_drawn_at_once(measured):
    page = open_page()
    heat, weights, picture, singular = figures(page)
    assert heat["data"][0]["type"] == "heatmap" and heat["data"][0]["y"] == NAMES and heat["data"][0]["text"][0][:2] == ["0", "−1.0"]
    assert [trace["name"] for trace in weights["data"]] == ["Before", "Threshold", "After"]
    assert picture["data"][0]["type"] == "heatmap" and singular["data"][1]["y"] == [1.5, 0.5]
    assert "50.0 % are zero" in markup(page) and "measured, paired, validation, n = 250" in markup(page) and "linear, 3 → 2" in markup(page)
    assert measured.asked == [] and components(page, "paretoscope_status")[0]["text"] == "idle"
    assert page.selectbox(key="layer").value == "conv1"
    assert asked_for(page, "step") == STEPS_SHOWN  # the address bar keeps the recipe


def test_what_is_not_known_is_asked_for_and_fills_while_it_is_measured(notes):
    page = open_page()
    assert {entry[1:] for entry in notes.asked} == {("sensitivity", "sensitivity"), ("layers", "layers")}
    assert "Being measured" in markup(page) and components(page, "paretoscope_status")[0]["again_ms"]
    row = notes.examining[sensitivity().identity()]
    row |= {"state": "RUNNING", "fraction": 0.4, "preview": {"metrics": table(sensitivity()) | {"cells": [[None] * 5] * len(NAMES)}}}
    page.run()
    assert "so far n = 0 of 250" in markup(page)
    page.button(key="cancel-map").click().run()
    assert ("cancel", sensitivity().identity()) in notes.asked


def test_a_long_measurement_waits_for_a_word(notes):
    page = open_page()
    page.selectbox(key="layer_pictures").select(3).run()
    assert page.button(key="measure-map").label.startswith("Measure, ≈")
    before = len(notes.asked)
    page.button(key="measure-map").click().run()
    assert notes.asked[before:] == [("examine", "sensitivity", "sensitivity")]


def test_a_step_that_looks_at_its_pictures_often_waits_for_a_word(notes):
    """The oracle evaluates the network once for every few filters."""
    page = open_page()
    notes.asked.clear()
    page.selectbox(key="method").select("contribution_prune").run()
    assert "min" in page.button(key="measure-map").label and ("examine", "sensitivity", "sensitivity") not in notes.asked
    page.selectbox(key="method").select("gradient_prune").run()
    assert ("examine", "sensitivity", "sensitivity") in notes.asked


def test_ranges_that_every_cell_sets_anew_wait_for_a_word(notes):
    """Each of the 105 cells runs 500 pictures to set them, where a heat map of the weights' bits alone runs half a network on 250."""
    page = open_page(step=["quantize~activation_bits~8"])
    assert "min" in page.button(key="measure-map").label and ("examine", "sensitivity", "sensitivity") not in notes.asked
    open_page(step=["quantize~weight_bits~8"])
    assert ("examine", "sensitivity", "sensitivity") in notes.asked


def test_a_failure_is_its_sentence_and_may_be_tried_again(notes):
    asked = sensitivity()
    notes.store.claim(blank_row(asked.identity(), "sensitivity", model="resnet18", dataset="fashion_mnist", owner="test"))
    notes.store.write({asked.identity(): {"state": "FAILED", "message": "The disk is full."}})
    page = open_page()
    assert "The disk is full." in markup(page) and page.button(key="measure-map")


def test_a_result_that_could_not_be_kept_is_not_measured_for_ever(notes):
    page = open_page()
    notes.examining[sensitivity().identity()]["state"] = "COMPLETE"
    asked = len(notes.asked)
    page.run()
    assert "not kept any more" in markup(page) and page.button(key="measure-map")
    assert ("examine", "sensitivity", "sensitivity") not in notes.asked[asked:]


def test_another_method_takes_its_fields_from_the_recipe(measured):
    page = open_page(step=["magnitude_prune~sparsity~0.7", "quantize~weight_bits~4~clipping~mse~layers~fc"])
    page.selectbox(key="method").select("quantize").run()
    identity = Sensitivity("resnet18", "fashion_mnist", STEPS.get("quantize")(clipping="mse")).identity()
    assert identity in measured.examining
    page.selectbox(key="method").select("share_weights").run()
    assert sensitivity("share_weights").identity() in measured.examining


def test_a_layer_is_chosen_and_another_model_has_its_own(measured):
    page = open_page()
    page.selectbox(key="layer").select("layer2.0.conv1").run()
    assert figures(page)[0]["layout"]["shapes"][0]["y0"] == NAMES.index("layer2.0.conv1") - 0.5
    assert asked_for(page, "layer") == ["layer2.0.conv1"]
    page.selectbox(key="model").select("squeezenet1_1").run()
    assert not page.exception and asked_for(page, "model") == ["squeezenet1_1"]
    assert next(each.value for each in page.selectbox if each.label == "Layer") == "features.0"


def test_what_is_looked_at_is_in_the_address(notes):
    page = open_page(sensitivity=["quantize"], layer=["fc"], **{"map-pictures": ["500"]})
    assert [page.selectbox(key=key).value for key in ("method", "layer", "layer_pictures")] == ["quantize", "fc", 1]
    page.selectbox(key="method").select("factorize").run()
    assert asked_for(page, "sensitivity") == ["factorize"] and asked_for(page, "map-pictures") == ["500"]


def test_a_recipe_that_does_not_fit_the_model_is_said_and_the_map_stays(measured):
    page = open_page(step=["magnitude_prune~sparsity~0.8~layers~nowhere"])
    assert "layers cannot be 'nowhere'" in page.error[0].value and figures(page)


def test_a_long_training_waits_for_a_word(notes):
    page = open_page(step=["finetune~epochs~50~images~60000"])
    assert page.button(key="measure-facts").label.startswith("Train, ≈")


def test_checked_layers_become_the_steps(measured):
    page = open_page()
    assert page.button(key="use-layers").disabled
    changed = use_layers.chosen_for(RECIPE, STEPS.get("magnitude_prune")(), 0, "layer1.*, fc")
    assert changed.steps[0].layers == "layer1.*, fc" and changed.steps[0].sparsity == 0.7 and changed.steps[1:] == RECIPE.steps[1:]
    added = use_layers.chosen_for(RECIPE, STEPS.get("quantize")(), use_layers.ADD, "fc")
    assert [step.name for step in added.steps] == ["magnitude_prune", "quantize", "calibrate_batchnorm"] and added.steps[1].layers == "fc"
    assert use_layers.targets(RECIPE, STEPS.get("quantize")()) == {0: "Prune weights 70 %", use_layers.ADD: "Add: Quantize"}
    assert use_layers.targets(changed, STEPS.get("magnitude_prune")()) == {0: "Prune weights 70 % on layer1.*, fc"}


def test_what_is_missing_says_what_to_do(notes):
    page = open_page(data=["cifar10"])
    assert "python -m core datasets --fetch cifar10" in page.info[0].value and not components(page, "paretoscope_chart")
    assert open_page(model=["alexnet"]).button(key="train").label.startswith("Train, ≈")


def test_the_recipe_goes_along_between_the_pages(measured):
    page = AppTest.from_file(DASHBOARD, default_timeout=60)
    page.query_params["step"] = STEPS_SHOWN
    page.run()
    page.query_params.clear()  # as a link between pages does
    page.switch_page(PAGE).run()
    assert not page.exception and asked_for(page, "step") == STEPS_SHOWN
    page.query_params.clear()
    page.switch_page("dashboard.py").run()
    assert not page.exception and asked_for(page, "step") == STEPS_SHOWN
