"""What every page of one model on one dataset has in common: the header, what is missing, the baseline's line; below them the page's own part."""

from __future__ import annotations

from collections.abc import Callable

from pages.ui import absent, header, services, state
from pages.ui.chart import load as load_plotly
from pages.ui.frame import frame, guard


def page(title: str, draw: Callable[[], None], *, model_label: str = "Model", charts: bool = True) -> None:
    """The page named `title`; `draw` is called once the pair is known to have its data and a checkpoint."""
    frame(title)
    state.dialog_closed()  # until one is drawn
    if charts:
        load_plotly()
    with guard():
        services.cluster()
        view = state.view()
        header.header(view, model_label)
        if absent.anything(view):
            return
        header.baseline(view)
        draw()
