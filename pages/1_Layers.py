"""Layer by layer: how sensitive each is to a step, what the recipe at hand makes of it, and which of them a step is to touch."""

from __future__ import annotations

from core import zoo
from core.datasets import DATASETS
from core.errors import NotHere
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
        missing = DATASETS.get(view.dataset).missing()
        if missing:
            state.publish()
            absent.dataset(view.dataset, missing)
            return
        try:
            zoo.checkpoint(view.model, view.dataset)
        except NotHere as error:
            state.publish()
            absent.checkpoint(view, error)
            return
        header.baseline(view)
        layers.layers()


main()
