"""Rows with their latency on the device of the view, for the explorer's chart: estimated, and marked so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from core.studies.axes import ON_DEVICE
from core.studies.points import bytes_words
from core.targets import estimates, measured_there
from core.targets.devices import devices
from core.targets.graphs import Graph
from pages.ui import services
from pages.ui.link import View


def wanted(view: View) -> bool:
    return ON_DEVICE in (view.x, view.third)


class Device:
    """Adds `device_ms`, `device`, `device_error` (of the estimator, a share) and `device_validated` to rows whose graphs are known.

    Each graph is estimated once.

    `device_fits` says whether the row's file and activations fit there, `device_limit` the tighter limit in words.
    """

    def __init__(self, view: View):
        self.device, self.lines = devices().get(view.device), measured_there.lines()
        self._answers: dict[str, tuple[Graph, dict] | None] = {}

    def rows(self, rows: Iterable[Mapping]) -> list[dict]:
        return [self.row(row) for row in rows]

    def row(self, row: Mapping | None) -> dict | None:
        if row is None:
            return None
        key = row.get("operators")
        if key not in self._answers:
            graph = services.graph(key)
            self._answers[key] = None if graph is None else (graph, self._estimated(graph))
        if self._answers[key] is None:
            return {**row}
        graph, figures = self._answers[key]
        tightest = estimates.limits_of(self.device, graph, row.get("deployed_bytes"))[0]
        limit = f"{bytes_words(tightest.needed)} of {bytes_words(tightest.available)} {tightest.name}"
        return {**row, **figures, "device_fits": tightest.fits, "device_limit": limit}

    def _estimated(self, graph: Graph) -> dict:
        answer = estimates.for_device(self.device, graph, lines=self.lines)
        return {ON_DEVICE: answer.ms, "device": self.device.title, "device_error": answer.fit.median_error, "device_validated": answer.validated}
