"""Distill: a teacher, a student, a temperature. What the teacher answers, both learning curves, and what each temperature is worth.

Reads what was set, asks `core` through `pages/ui`, and draws; computes nothing.
"""

from __future__ import annotations

from pages.ui import absent, header, services, state
from pages.ui.chart import load as load_plotly
from pages.ui.distill import distill
from pages.ui.frame import frame, guard


def main() -> None:
    frame("Distill")
    load_plotly()
    with guard():
        services.cluster()
        view = state.view()
        header.header(view, model_label="Teacher")
        if absent.anything(view):
            return
        header.baseline(view)
        distill()


main()
