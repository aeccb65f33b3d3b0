"""Size explained: where the bytes of the packed file went, by layer and by kind, and one layer's way from float32 to its bytes."""

from __future__ import annotations

from pages.ui import absent, header, services, size, state
from pages.ui.chart import load as load_plotly
from pages.ui.frame import frame, guard


def main() -> None:
    frame("Size")
    load_plotly()
    with guard():
        services.cluster()
        view = state.view()
        header.header(view)
        if absent.anything(view):
            return
        header.baseline(view)
        size.size()


main()
