"""The page Papers without a browser: every classic has its block, its figures and its ways to do it oneself."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.papers import PAPERS
from pages.ui import link
from tests.pages.test_explorer import components, markup

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(notes) -> AppTest:
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


def test_the_command_and_the_recipes_are_there(page):
    commands = [code.value for code in page.code]
    assert commands == [paper.command() for _name, paper in PAPERS.items()]
    links = [element.proto for element in page.get("page_link") if element.proto.query_string]
    recipes = [row for _name, paper in PAPERS.items() for row in paper.rows if row.recipe.steps]
    assert [proto.label for proto in links] == [row.title for row in recipes]


@pytest.mark.parametrize(("name", "paper"), PAPERS.items())
def test_a_recipe_comes_whole_through_its_link(name, paper):
    for row in paper.rows:
        view, said = link.decode(link.encode(link.View(model=row.model, dataset="fashion_mnist_full", recipe=row.recipe)))
        assert view.recipe == row.recipe and not said
