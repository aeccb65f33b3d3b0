"""Latencies that were measured on devices, as people bring them back: what turns an estimate into one that was checked.

A line is one JSON object, as the script of an export prints it with `--time`:

    {"device": "kitchen-pi", "run": …, "format": "onnx", "runtime": "onnxruntime 1.31.1", "threads": 1, "batch": 1, "ms_p10": 14.0, "ms_p50": 14.2, …}

One with `"disturbed": true` was taken beside other load three times over; it counts where there is no calm one.
`run` (or `key`) names the run: its identity, its model/key, or its key with a field `model` beside it. `device` is a profile's name, or what a
machine calls itself, and then whoever gives the line says which device that is. With lines, a device gets a factor of its own on its estimates.
They are kept in PARETOSCOPE_HOME/devices/measured.jsonl. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core.errors import BadField, BadInput, UnknownName
from core.home import folder, home, write_whole
from core.targets import graphs
from core.targets.devices import Device, devices
from core.targets.roofline import Efficiency, estimate

FILE = "measured.jsonl"
KEPT = {"device", "key", "runtime", "graph", "ms_p50"}  # what every line that was kept has
TIMES = ("ms_p10", "ms_p50", "ms_p90")
LONGEST_MS = 1e7  # not quite three hours for a picture
MOST_LINES, MOST_BYTES = 1000, 1_000_000
LONGEST = 100  # characters of a name
EAGER = "torch "  # how the runtime of a safetensors or packed file begins


@dataclass(frozen=True)
class Scale:
    """`factor` is by how much the device is slower than estimated, the median over `count` measurements there.

    `error` is the median absolute error of each with the factor that the others give; None for a single one. `types` are what was measured there.
    `disturbed` is whether it was so by other load.
    """

    factor: float
    error: float | None
    count: int
    types: tuple[str, ...] = ("float32",)
    disturbed: bool = False

    def words(self) -> str:
        many = f"{self.count} latencies" if self.count > 1 else "one latency"
        how = f"{' and '.join(self.types)}{', disturbed by other load' if self.disturbed else ''}"
        found = f"scaled by {self.factor:.2f}, fitted to {many} measured on this device in {how}"
        return f"{found}; the median error there is {100 * self.error:.0f} %, each held out in turn" if self.error is not None else found


def scale_of(estimated: Iterable[float], measured: Iterable[float], types: Iterable[str] = ("float32",)) -> Scale | None:
    """The factor between estimates and measurements of the same runs, in the same unit."""
    logs = np.log(np.asarray(list(measured), float)) - np.log(np.asarray(list(estimated), float))
    if not len(logs):
        return None
    error = None
    if len(logs) > 1:
        others = [np.median(np.delete(logs, at)) for at in range(len(logs))]
        error = float(np.median(np.abs(np.exp(others - logs) - 1)))
    return Scale(float(np.exp(np.median(logs))), error, len(logs), tuple(sorted(set(types))))


def scale(device: Device, efficiency: Efficiency, given: Iterable[Mapping] | None = None, type: str = "float32") -> Scale | None:
    """The device's own factor, by the lines that were measured there and whose graphs are still known; None without any.

    Lines of graphs of the `type` count, and where there are none, those of the other. Of them, lines of eager PyTorch and of float16 files, which
    take longer for reasons of their own, count where there are no others.
    """
    there = []  # line, type of its graph, estimate
    for line in lines() if given is None else given:
        graph = graphs.find(line["graph"]) if line["device"] == device.name else None
        if graph is not None:
            graph = graph.in_float32() if line.get("in_float32") else graph
            try:
                there.append((line, graph.type, 1000 * estimate(graph.operators, device.rates(), efficiency).seconds))
            except BadInput:  # the profile was replaced by one without that arithmetic
                continue
    there = [each for each in there if each[1] == type] or there
    there = [each for each in there if not _beside_estimates(each[0])] or there
    there = [each for each in there if not each[0].get("disturbed")] or there
    types = ["float16" if _is_float16(line) else of for line, of, _ms in there]
    found = scale_of([ms for _line, _of, ms in there], [line["ms_p50"] for line, _of, _ms in there], types)
    return replace(found, disturbed=True) if found and there[0][0].get("disturbed") else found


def _beside_estimates(line: Mapping) -> bool:
    return line["runtime"].startswith(EAGER) or _is_float16(line)


def _is_float16(line: Mapping) -> bool:
    return (line.get("format") or "").endswith("fp16")


def lines() -> list[dict]:
    """What was kept, each with the `graph` that it is of."""
    path = home() / "devices" / FILE
    if not path.exists():
        return []
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not all(isinstance(line, dict) and KEPT <= line.keys() for line in found):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"The file {str(path)!r} is damaged; it takes the lines that `devices --measured` keeps there, so mend or remove it.") from None
    return found


def add(text: str, runs: Iterable[Mapping], device: str | None = None) -> list[dict]:
    """Keep the lines in a text; returns them. A newer line takes the place of one of the same device, run, runtime and format, calm or disturbed.

    `device` is the profile of lines whose own `device` is none. `runs` are results and rows of the store, one of which each line must name.
    All or nothing is kept: raises `BadInput` for the first line that cannot be.
    """
    given = [line for line in text.splitlines() if line.strip()]
    if not given or len(given) > MOST_LINES or len(text) > MOST_BYTES:
        raise BadInput(f"There are {len(given):,} lines; it takes 1 to {MOST_LINES:,}, each a JSON object with device, run, runtime and ms_p50.")
    known = list(runs)
    new = [_checked(number, line, known, device) for number, line in enumerate(given, 1)]
    place = lambda line: (line["device"], line["key"], line["runtime"], line.get("format"), line.get("disturbed", False))
    found = {place(line): line for line in [*lines(), *new]}
    write_whole(folder("devices") / FILE, "".join(json.dumps(line) + "\n" for line in found.values()).encode())
    return new


def forget(device: str) -> int:
    """Let go of every line of a device; returns how many there were."""
    found = lines()
    left = [line for line in found if line["device"] != device]
    write_whole(folder("devices") / FILE, "".join(json.dumps(line) + "\n" for line in left).encode())
    return len(found) - len(left)


def _checked(number: int, text: str, runs: list[Mapping], given: str | None) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadInput(f"Line {number} cannot be {_short(text)}; it takes a JSON object with device, run, runtime and ms_p50.")
    told = {"device": value.get("device"), "runtime": value.get("runtime"), "key": value.get("key", value.get("run"))}
    names = {name: _name(told[name], f"{'run' if name == 'key' else name} of line {number}") for name in told}
    profiles = devices()
    if names["device"] not in profiles and given is None:
        raise BadField(f"device of line {number}", names["device"], "the name of a profile, or --device beside --measured, which says what it is")
    device = profiles.get(names["device"] if names["device"] in profiles else given)
    made = value.get("format")
    if made is not None and made not in _formats():
        raise BadField(f"format of line {number}", made, f"one of {', '.join(_formats())}")
    for name in ("threads", "batch"):
        if value.get(name, 1) != 1:
            raise BadField(f"{name} of line {number}", value[name], "1, which is what estimates are for")
    times = {name: _milliseconds(value[name], f"{name} of line {number}") for name in TIMES if value.get(name) is not None}
    disturbed = value.get("disturbed", False)
    if not isinstance(disturbed, bool):
        raise BadField(f"disturbed of line {number}", disturbed, "true or false")
    if "ms_p50" not in times:
        raise BadInput(f"Line {number} has no ms_p50; it takes the median time for one picture in milliseconds.")
    run = _run(names["key"], value.get("model"), runs)
    graph = graphs.find(run["metrics"].get("graph"))
    if graph is None:
        raise BadInput(f"The graph of run {names['key']!r} is not known here; open it on the page Devices once, and give the line again.")
    if made is not None and made.endswith("int8") and graph.type != "int8":
        raise BadInput(f"Line {number} is of the {made} file, and the graph of run {names['key']!r} is {graph.type}; it takes a run on 8-bit grids.")
    in_float32 = made is not None and not made.endswith("int8") and graph.type == "int8"
    estimate((graph.in_float32() if in_float32 else graph).operators, device.rates(), _PLAIN)  # whether the device has arithmetic for it
    kept = {**names, "device": device.name, **times, "threads": 1, "batch": 1, "model": run["model"], "graph": graph.key}
    return kept | ({"format": made} if made is not None else {}) | {name: True for name, so in (("in_float32", in_float32), ("disturbed", disturbed)) if so}


def _formats() -> list[str]:
    """The formats whose scripts print such lines."""
    from core.exports import FORMATS

    return [*FORMATS]


_PLAIN = Efficiency(dict.fromkeys(("convolution", "depthwise", "grouped", "linear"), 1.0), 1.0, 0.0)


def _run(key: str, model: Any, runs: list[Mapping]) -> Mapping:
    """The run that a key names; runs of equal recipe on other splits have its graph as well."""
    named = [run for run in runs if run.get("metrics") and key in (run.get("identity"), run.get("key"), f"{run['model']}/{run.get('key')}")]
    if model is not None:
        named = [run for run in named if run["model"] == model]
    models = sorted({run["model"] for run in named})
    if not named:
        raise UnknownName("run", key, sorted({run["identity"] for run in runs if run.get("identity")}))
    if len(models) > 1:
        raise BadInput(f"The recipe {key!r} was run on {', '.join(models)}; it takes a field model beside the key that says which.")
    return next((run for run in named if run["metrics"].get("graph")), named[0])


def _name(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value or len(value) > LONGEST:
        raise BadField(field, value, f"a text of 1 to {LONGEST} characters")
    return value


def _milliseconds(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LONGEST_MS:
        raise BadField(field, value, f"milliseconds above 0, at most {LONGEST_MS:,.0f}")
    return float(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 50 else text[:47] + "…")
