"""The line in the sidebar that pages share, and what a button would not do."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.pages.test_explorer import components


def below(doing: str, others: bool) -> None:
    from pages.ui.pulse import pulse

    pulse(doing, 0.5, fraction=0.25, others=others)


@pytest.mark.parametrize(
    ("told", "doing", "others", "text", "again_ms"),
    [
        ({}, "packing", False, "packing", 500),
        ({}, "", True, "idle", None),
        ({"running": 2}, "", False, "idle", None),
        ({"running": 2, "waiting": 1}, "", True, "computing 3 runs", 2000),
        ({"running": 2}, "packing", True, "packing", 500),
        ({"connected": False}, "packing", False, "starting the cluster …", 500),
        ({"connected": False}, "", True, "starting the cluster …", 500),
        ({"connected": False}, "", False, "idle", None),
        ({"trouble": "It cannot start.", "connected": False}, "packing", True, "the cluster is in trouble", 2000),
    ],
)
def test_the_line_tells_what_matters_most_to_the_page(notes, told, doing, others, text, again_ms):
    notes.told |= told
    page = AppTest.from_function(below, kwargs={"doing": doing, "others": others}, default_timeout=60).run()
    (line,) = components(page, "paretoscope_status")
    assert (line["text"], line["again_ms"], line["detail"]) == (text, again_ms, told.get("trouble", ""))
    assert (line["fraction"] == 0.25) == (text == "packing") and not page.exception


def refusing() -> None:
    import streamlit as st

    from core.errors import BadInput
    from pages.ui import refusals

    def act():
        with refusals.kept():
            raise BadInput("The sparsity cannot be 2.")

    refusals.say()
    st.button("Go", on_click=act)


def test_what_a_button_would_not_do_is_said_once():
    page = AppTest.from_function(refusing, default_timeout=60).run()
    assert not page.error
    assert [box.value for box in page.button[0].click().run().error] == ["The sparsity cannot be 2."]
    assert not page.run().error and not page.exception
