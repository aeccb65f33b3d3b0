"""What the sidebar offers is what exists: later pages are absent, and nothing is shown that cannot be used."""

from __future__ import annotations

from pages.ui.frame import PAGES, ROOT
from tests.pages.test_explorer import markup, open_page

PLANNED = {"Explorer", "Layers", "Distill", "Search", "Runs", "Latency", "Export", "Learn", "Present"}  # in this order of groups: Explore, Ship, Tell


def test_every_page_is_offered_and_nothing_else():
    offered = [file for pages in PAGES.values() for file, *_ in pages]
    assert sorted(offered) == sorted(["dashboard.py", *(f"pages/{path.name}" for path in (ROOT / "pages").glob("*.py"))])
    assert offered[0] == "dashboard.py" and len({title for pages in PAGES.values() for _file, title, _icon in pages}) == len(offered)


def test_the_sidebar_names_the_pages_that_exist_and_no_other(notes):
    page = open_page()
    titles = [title for pages in PAGES.values() for _file, title, _icon in pages]
    links = page.sidebar.get("page_link")
    assert [link.proto.label for link in links] == titles and not any(link.proto.disabled for link in links)
    groups = {group: f'<div class="group">{group}</div>' in markup(page) for group in ("Explore", "Ship", "Tell")}
    assert groups == {group: group in PAGES for group in groups}
    said = {button.label for button in page.button}
    assert not said & (PLANNED - set(titles) - {"Runs"})  # Runs is a drawer as well


def test_nothing_on_the_page_is_disabled(notes):
    page = open_page()
    widgets = [*page.button, *page.selectbox, *page.checkbox, *page.radio, *page.number_input, *page.toggle]
    assert len(widgets) > 10 and not [widget.key for widget in widgets if getattr(widget, "disabled", False)]
