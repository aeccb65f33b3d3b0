"""Layer by layer: how sensitive each is to a step, what the recipe at hand makes of it, and which of them a step is to touch."""

from __future__ import annotations

from pages.ui import absent, header, layers, services, state
from pages.ui.chart import load as load_plotly
from pages.ui.frame import frame, guard


def main() -> None:
    frame("Layers")
    load_plotly()
    with guard():
        services.cluster()
        view = state.view()
        header.header(view)
        if absent.anything(view):
            return
        header.baseline(view)
        layers.layers()


main()
