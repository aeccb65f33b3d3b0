"""The page "Size" without a browser: what it asks for, what it draws, and the layer at hand."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

from core.keeping import kept
from core.packed.size_parts import SizeParts
from core.recipe import Recipe
from core.store import blank_row
from core.work import Work
from tests.pages.test_explorer import DASHBOARD, asked_for, components, markup

STEPS = ["magnitude_prune~sparsity~0.7"]
ASKED = SizeParts(Work("resnet18", "fashion_mnist", Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": 0.7}]})))


def open_page(**query) -> AppTest:
    page = AppTest.from_file(DASHBOARD, default_timeout=60)
    page.switch_page("pages/7_Size.py")
    for name, value in ({"step": STEPS} | query).items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


@pytest.fixture
def counted(notes):
    stage = lambda name, count: {"stage": name, "title": name, "bytes": count, "said": f"{count} bytes <b>", "sample": "0.1  −0.2"}
    layer = lambda name, count: {
        "layer": name, "form": "linear, 3 → 2", "weights": [f"{name}.weight"], "numbers": 6, "nonzero": 3, "file": {"values": count, "positions": 2},
        "paper": {"values": count - 1.5}, "stages": [stage("As trained", 4 * count), stage("In the file", count + 2)],
    }  # fmt: skip
    found = {
        "model": "resnet18", "dataset": "fashion_mnist", "recipe": ASKED.work.recipe.to_json(), "bytes": 94, "paper_bytes": 60, "dense_bytes": 400,
        "layers": [layer("conv1", 20), layer("fc", 60)], "rest": [{"title": "header and checksum", "file": {"header": 10}, "paper": {}}], "notes": [],
    }  # fmt: skip
    kept.put("layers", f"{ASKED.identity()}.json", json.dumps(found).encode())
    return notes


def test_the_bars_the_largest_layer_and_the_sums(counted):
    page = open_page()
    drawn = json.loads(components(page, "paretoscope_chart")[0]["fixed"])
    assert drawn["data"][0]["x"] == [20, 60, 0] and drawn["layout"]["shapes"][0]["y0"] == 0.5
    assert page.selectbox(key="layer").value == "fc" and "4.3 times smaller" in markup(page) and "bytes &lt;b&gt;" in markup(page)
    page.selectbox(key="layer").select("conv1").run()
    assert asked_for(page, "layer") == ["conv1"] and not page.exception


def test_it_is_measured_when_nobody_did_and_a_failure_is_its_sentence(notes):
    page = open_page()
    assert ("examine", "size", "size") in notes.asked and not components(page, "paretoscope_chart")
    assert page.button(key="cancel-size")
    notes.examining.clear()
    notes.store.claim(blank_row(ASKED.identity(), "size", model="resnet18", dataset="fashion_mnist", owner="test"))
    notes.store.write({ASKED.identity(): {"state": "FAILED", "message": "The disk is full."}})
    page.run()
    assert page.error[0].value == "The disk is full." and page.button(key="measure-size")


def test_a_long_training_waits_for_a_word_and_a_bad_recipe_is_said(notes):
    assert open_page(step=["finetune~epochs~50~images~60000"]).button(key="measure-size").label.startswith("Train, ≈")
    assert "layers cannot be 'nowhere'" in open_page(step=["magnitude_prune~layers~nowhere"]).error[0].value
