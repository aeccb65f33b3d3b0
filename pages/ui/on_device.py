"""Rows with their latency on the device of the view, for the explorer's chart: estimated, and marked so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from core.studies.axes import ON_DEVICE
from core.targets import estimates, measured_there
from core.targets.devices import devices
from pages.ui import services
from pages.ui.link import View


def wanted(view: View) -> bool:
    return ON_DEVICE in (view.x, view.third)


class Device:
    """Adds `device_ms`, `device` and `device_validated` to rows whose graphs are known; each graph is estimated once."""

    def __init__(self, view: View):
        self.device, self.lines = devices().get(view.device), measured_there.lines()
        self._answers: dict[str, dict] = {}

    def rows(self, rows: Iterable[Mapping]) -> list[dict]:
        return [self.row(row) for row in rows]

    def row(self, row: Mapping | None) -> dict | None:
        if row is None:
            return None
        key = row.get("operators")
        if key not in self._answers:
            graph = services.graph(key)
            self._answers[key] = {}
            if graph is not None:
                answer = estimates.for_device(self.device, graph, lines=self.lines)
                self._answers[key] = {ON_DEVICE: answer.ms, "device": self.device.title, "device_validated": answer.validated}
        return {**row, **self._answers[key]}
