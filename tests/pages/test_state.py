"""What the pages remember: widgets that show a part of the view."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def test_a_widget_whose_place_another_took_says_nothing():
    """The browser sends the value of what it still shows; Streamlit has forgotten it, so it looks new there."""

    def page():
        import streamlit as st

        from pages.ui import state

        heard = []
        before = state.mirror("preset", 1)
        callback = state.told(before, heard.append)
        callback()
        now = state.mirror("preset", None)  # changed by something else
        callback()
        state.told(now, heard.append)()
        st.text(f"{before != now} {heard}")

    shown = AppTest.from_function(page).run()
    assert not shown.exception and shown.text[0].value == "True [1, None]"


def test_a_fragment_of_a_page_that_was_left_is_not_run():
    def page():
        import streamlit as st

        from pages.ui import acts

        st.button("Pin", key="pin", on_click=acts.again, args=([acts.LIVE, acts.DRAWERS],))
        st.text("drawn")

    shown = AppTest.from_function(page).run().button(key="pin").click().run()
    assert not shown.exception and shown.text[0].value == "drawn"
