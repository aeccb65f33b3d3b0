"""Export: a measured run as files for PyTorch, ONNX Runtime and LiteRT, each read back and measured before it is offered."""

from __future__ import annotations

from pages.ui import absent, header, services, state
from pages.ui.export import export
from pages.ui.frame import frame, guard


def main() -> None:
    frame("Export")
    with guard():
        services.cluster()
        view = state.view()
        header.header(view)
        if absent.anything(view):
            return
        header.baseline(view)
        export()


main()
