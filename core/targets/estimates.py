"""What a device would make of a run: its time by roofline, whether it fits, and how far that can be believed.

    answer = for_device(device, graph, file_bytes)
    answer.ms, answer.estimate.layers, answer.said

`python -m core devices --estimate`, the Devices page and the explorer's axis ask here. Until latencies measured on the device are there
(`core.targets.measured_there`), an estimate carries the error on the host alone. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.errors import BadInput
from core.targets import calibration, measured_there
from core.targets.devices import Device
from core.targets.graphs import Graph
from core.targets.measured_there import Scale
from core.targets.roofline import Estimate, Limit, estimate

UNVALIDATED = "unvalidated on this device"


@dataclass(frozen=True)
class Answer:
    """`estimate` is None where the device has no arithmetic for the graph's type, which `problem` says in a sentence; `limits` hold all the same.

    `scale` is what measurements on the device made of the estimate; None while there are none. `type` is that of the graph.
    """

    device: Device
    estimate: Estimate | None
    problem: str
    limits: tuple[Limit, ...]
    scale: Scale | None
    fit: calibration.Fit
    type: str

    @property
    def ms(self) -> float | None:
        return None if self.estimate is None else 1000 * self.estimate.seconds * (self.scale.factor if self.scale else 1.0)

    @property
    def fits(self) -> bool:
        return all(limit.fits for limit in self.limits)

    @property
    def binding(self) -> Limit:
        """The limit that is used most."""
        return self.limits[0]

    @property
    def checked(self) -> bool:
        """Whether latencies of the graph's own type were measured there."""
        return self.scale is not None and self.type in self.scale.types

    @property
    def validated(self) -> str:
        """`unvalidated on this device`, or what measurements there say."""
        if self.scale is None:
            return UNVALIDATED
        return self.scale.words() + ("" if self.checked else f"; unvalidated in {self.type}")

    @property
    def said(self) -> str:
        """The sentence that stands beside the estimate."""
        return self.problem or f"{self.fit.words(self.type)} {self.validated[0].upper()}{self.validated[1:]}."

    def to_json(self) -> dict:
        shares = [] if self.estimate is None else self.estimate.layers
        found = self.scale
        scale = None
        if found is not None:
            scale = {"factor": found.factor, "error": found.error, "measured": found.count, "types": list(found.types), "disturbed": found.disturbed}
        return {
            "device": self.device.name, "title": self.device.title, "ms": self.ms, "provenance": "estimated", "problem": self.problem or None,
            "host_error": self.fit.median_error, "scale": scale, "validated": self.validated, "fits": self.fits,
            "limits": [{"name": limit.name, "needed": limit.needed, "available": limit.available, "fits": limit.fits} for limit in self.limits],
            "layers": [{"layer": share.layer, "ms": 1000 * share.seconds, "bound": share.bound} for share in shares],
        }  # fmt: skip


def for_device(device: Device, graph: Graph, file_bytes: float | None = None, lines: Iterable[Mapping] | None = None) -> Answer:
    """`file_bytes` is the file that the runtime loads ("Runs as"); without it, the weights alone are what must be stored."""
    fit, limits = calibration.current(), limits_of(device, graph, file_bytes)
    try:
        found, problem = estimate(graph.operators, device.rates(), fit.efficiency, limits), ""
    except BadInput as error:
        found, problem = None, str(error)
    scale = measured_there.scale(device, fit.efficiency, lines, graph.type)
    return Answer(device, found, problem, limits, scale, fit, graph.type)


def limits_of(device: Device, graph: Graph, file_bytes: float | None) -> tuple[Limit, ...]:
    """What the graph takes of the device's flash and RAM, the tighter first."""
    limits = device.limits(graph.weight_bytes if file_bytes is None else file_bytes, graph.activation_bytes)
    return tuple(sorted(limits, key=lambda limit: -limit.needed / limit.available))
