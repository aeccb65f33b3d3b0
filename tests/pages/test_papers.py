"""The page Papers without a browser: every classic has its block, its figures and its ways to do it oneself."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core import zoo
from core.datasets import load
from core.home import ASSETS
from core.papers.classics import PAPERS
from core.store import blank_row
from pages.ui import link
from tests import small_mnist
from tests.pages.test_explorer import components, markup

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(notes, monkeypatch) -> AppTest:
    monkeypatch.setattr(zoo, "folders", lambda: [ASSETS / "checkpoints"])  # not those that the notes' home makes up
    return opened()


def opened() -> AppTest:
    made = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=60)
    made.switch_page("pages/3_Papers.py").run()
    assert not made.exception and not made.error
    return made


def test_every_classic_has_its_block(page):
    said = markup(page)
    for _name, paper in PAPERS.items():
        assert paper.claim in said.replace("&#x27;", "'") and paper.link in said
    assert said.count('<table class="paper">') == len(PAPERS) and "not measured yet" not in said
    charts = components(page, "paretoscope_chart")
    assert len(charts) == len(PAPERS)
    assert all({trace["uid"] for trace in json.loads(drawn["fixed"])["data"]} == {"published", "ours"} for drawn in charts)


def test_figures_of_another_checkpoint_are_not_shown(notes):
    """The notes' home has a resnet18 of its own, so what was measured of the shipped one waits to be measured anew."""
    said = markup(opened()).split('<table class="paper">')[1:]
    waiting = {name for (name, _paper), block in zip(PAPERS.items(), said, strict=True) if "not measured yet" in block}
    assert waiting == {"distillation", "slimming"}


def test_the_command_and_the_recipes_are_there(page):
    commands = [code.value for code in page.code]
    assert commands == [paper.command() for _name, paper in PAPERS.items()]
    links = [element.proto for element in page.get("page_link") if element.proto.query_string]
    recipes = [row for _name, paper in PAPERS.items() for row in paper.rows if row.recipe.steps]
    assert [proto.label for proto in links] == [row.title for row in recipes]


def open_again(page, name: str) -> AppTest:
    page.session_state[f"again-{name}"] = True
    return page.run()


def test_what_is_missing_is_said_where_a_paper_would_be_measured(page, monkeypatch):
    monkeypatch.setattr(zoo, "folders", lambda: [])
    open_again(page, "xnor")
    assert not page.exception and not [button for button in page.button if button.key == "run-xnor"]
    assert any("is not here" in caption.value or "are not here" in caption.value for caption in page.caption)


def test_a_paper_is_measured_on_the_data_at_hand_from_its_block(notes, home):
    """On MNIST, which is here: every row on both splits, by the cluster."""
    folder, name, model = home / "checkpoints" / "mnist", "deep_compression_lenet_300_100", "lenet_300_100"
    folder.mkdir()
    (folder / f"{model}.json").write_text(json.dumps({"classes": 10, "input_size": 32, "validation": {"top1": 98.0, "images": 200}}))
    (folder / f"{model}.safetensors").write_bytes(b"weights")
    small_mnist.put(home)
    load.cache_clear()
    try:
        page = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=60)
        page.switch_page("pages/3_Papers.py").run()
        open_again(page, name)
        button = page.button(key=f"run-{name}")
        assert button.label.startswith("Measure here: 4 runs, ≈ ")
        submitted = []
        notes.submit_all = lambda works, lane=None, priority=None: submitted.extend(works)
        button.click().run()
        assert not page.exception
        assert {(work.dataset, work.split, work.recipe.key()) for work in submitted} == {
            ("mnist", split, row.recipe.key()) for split in ("validation", "test") for row in PAPERS.get(name).rows
        }
        for work in submitted:
            notes.store.claim(blank_row(work.identity(), model=work.model, dataset=work.dataset, split=work.split, owner="test"))
        notes.told["running"] = 1
        page.run()
        assert components(page, "paretoscope_status")[0]["again_ms"] and not [button for button in page.button if button.key == f"run-{name}"]
        page.button(key=f"cancel-{name}").click().run()
        assert [entry for entry in notes.asked if entry[0] == "cancel"] == [("cancel", work.identity()) for work in submitted]
    finally:
        load.cache_clear()


@pytest.mark.parametrize(("name", "paper"), PAPERS.items())
def test_a_recipe_comes_whole_through_its_link(name, paper):
    for row in paper.rows:
        view, said = link.decode(link.encode(link.View(model=row.model, dataset="fashion_mnist_full", recipe=row.recipe)))
        assert view.recipe == row.recipe and not said
