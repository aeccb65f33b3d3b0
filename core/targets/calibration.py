"""The host as the one device that is at hand: architectures timed here, the estimator's efficiencies fitted to them, its error on others.

    timings = calmest(measure(exclusive=turns.exclusive))    # ONNX Runtime, float32, one thread, batch 1, untrained weights
    efficiency = fit(timings)                       # by the architectures of FITTED alone
    error = errors(timings, efficiency)             # on those of HELD_OUT, which the fit has not seen

`python -m core devices --fit` does all three and keeps them in PARETOSCOPE_HOME; assets/efficiency.json is the shipped fit. Called by commands
and benchmarks. Imports torch only to measure.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import ParetoscopeError
from core.home import ASSETS, folder, home, write_whole
from core.machine import machine
from core.targets.roofline import COMPUTING, CONVOLUTION, DEPTHWISE, GROUPED, Efficiency, Operator, Rates, estimate

SHIPPED = ASSETS / "efficiency.json"
OWN = "efficiency.json"  # below PARETOSCOPE_HOME
FITTED = (
    ("convnext_small", 32), ("densenet121", 32), ("densenet121", 64), ("densenet161", 32), ("densenet201", 32), ("efficientnet_b1", 32),
    ("efficientnet_b1", 96), ("efficientnet_b2", 32), ("efficientnet_b3", 32), ("efficientnet_b5", 32), ("mnasnet0_5", 32), ("mnasnet0_75", 32),
    ("mnasnet1_3", 32), ("mobilenet_v3_large", 32), ("mobilenet_v3_large", 128), ("regnet_x_400mf", 32), ("regnet_x_800mf", 32), ("regnet_x_1_6gf", 32),
    ("regnet_x_8gf", 32), ("regnet_y_400mf", 32), ("regnet_y_1_6gf", 32), ("regnet_y_8gf", 32), ("resnet34", 32), ("resnet34", 96), ("resnet101", 32),
    ("shufflenet_v2_x0_5", 32), ("shufflenet_v2_x1_5", 32), ("shufflenet_v2_x2_0", 128), ("squeezenet1_0", 32), ("squeezenet1_0", 128), ("swin_s", 32),
    ("vgg11", 32), ("vit_b_32", 32), ("densenet121", 224), ("efficientnet_b1", 224), ("mnasnet0_5", 224), ("mobilenet_v3_large", 224),
    ("regnet_x_400mf", 224), ("resnet34", 224), ("shufflenet_v2_x1_5", 224), ("squeezenet1_0", 224), ("vgg11", 224),
)  # fmt: skip
HELD_OUT = (
    ("alexnet", 64), ("convnext_tiny", 32), ("densenet169", 32), ("efficientnet_b0", 32), ("efficientnet_b4", 32), ("efficientnet_v2_s", 32),
    ("googlenet", 32), ("inception_v3", 75), ("mnasnet1_0", 32), ("mobilenet_v2", 32), ("mobilenet_v3_small", 32), ("regnet_x_3_2gf", 32),
    ("regnet_y_800mf", 32), ("resnet18", 32), ("resnet50", 32), ("resnext50_32x4d", 32), ("shufflenet_v2_x1_0", 32), ("squeezenet1_1", 32),
    ("swin_t", 32), ("wide_resnet50_2", 32), ("alexnet", 224), ("convnext_tiny", 224), ("densenet169", 224), ("efficientnet_b0", 224), ("googlenet", 224),
    ("inception_v3", 299), ("mnasnet1_0", 224), ("mobilenet_v2", 224), ("mobilenet_v3_small", 224), ("regnet_x_3_2gf", 224), ("regnet_y_800mf", 224),
    ("resnet18", 224), ("resnet50", 224), ("resnext50_32x4d", 224), ("shufflenet_v2_x1_0", 224), ("squeezenet1_1", 224),
)  # fmt: skip
CLASSES = 10
PRODUCT = 1024  # rows of the square matrices that the peak rate is measured with
NOMINAL_CLOCK = 2.5e9  # cycles a second of a host that does not tell its own
COPIED = 2**28  # bytes of the array that the bandwidth is measured with, more than caches hold
PHOTOGRAPH = 128  # pixels of a side from which pictures count as those of real sizes
STRAY = 0.15  # of a logarithm: an architecture that is further from the estimate pulls the fit no harder (soft L1)
THIN = (DEPTHWISE, GROUPED)
START = Efficiency(dict.fromkeys(COMPUTING, 0.3) | dict.fromkeys(THIN, 0.1), 0.5, 4000.0)  # where the search begins
LEAST, MOST_CYCLES = 0.005, 1e6  # no kind of operator reaches less of its peak; a tenth of a millisecond at ten gigahertz


def measure(*, exclusive=contextlib.nullcontext, turn=contextlib.nullcontext, report: Callable[[dict], None] = lambda event: None) -> dict:
    """Every architecture's duration, and the host's own peak rate and bandwidth, as JSON: `machine`, `date`, `rates`, `rows`.

    Durations are the processor's time of the one thread that computes, which on a quiet machine is the latency, and on a busy one leaves out
    the time that others had.
    """
    everything = sorted([*((*each, False) for each in FITTED), *((*each, True) for each in HELD_OUT)])  # so that a spell of load meets both alike
    with exclusive():
        rates = host_rates()
    rows = []
    for number, (model, size, held_out) in enumerate(everything):
        report({"stage": "latency", "fraction": number / len(everything)})
        with turn():
            call, operators = _prepared(model, size)
        with exclusive() as pause:
            timed = _timed(call, pause)
        rows.append({"model": model, "input_size": size, "held_out": held_out, **timed, "operators": [each.to_json() for each in operators]})
    return {"machine": machine(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "rates": rates, "rows": rows, "passes": 1}


def calmest(timings: dict, shipped: bool = False) -> dict:
    """The timings with the lowest median of each architecture, and the highest rates, of this pass and those kept before on the same machine.

    What else a machine does only ever adds to a duration, so passes at different times come closer to a quiet one.
    """
    path = SHIPPED if shipped else home() / OWN
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before.get("machine", {}).get("id") != timings["machine"]["id"]:
        return timings
    known = {(row["model"], row["input_size"]): row for row in before["timed"]}
    rows = [_calmer(row, known.get((row["model"], row["input_size"]))) for row in timings["rows"]]
    rates = {name: max(value, before["rates"][name]) for name, value in timings["rates"].items()}
    return timings | {"rows": rows, "rates": rates, "passes": before["passes"] + 1}


def _calmer(row: dict, before: dict | None) -> dict:
    return row if before is None or row["ms_p50"] <= before["ms_p50"] else before | {name: row[name] for name in ("held_out", "operators")}


def _prepared(model: str, size: int) -> tuple[Callable[[], object], Sequence[Operator]]:
    """One forward pass, ready to be timed, and the operators that it runs. Zeros for weights: their values cost no time, and no denormals arise."""
    from core.metrics import operators
    from core.models.architecture import Architecture
    from core.runtimes.onnx import LOGITS, PICTURES, export_float32, session

    module = Architecture.plain(model, CLASSES, size).build()
    running = session(export_float32(module, size), threads=1, batch=1)
    feed = {PICTURES: np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)}
    return lambda: running.run([LOGITS], feed), operators.record(module, size).operators


def _timed(call: Callable[[], object], pause: Callable[[], bool] | None) -> dict:
    from core.metrics import latency

    row = latency.measure(call, call, same=True, clock=time.thread_time, pause=pause or (lambda: False))
    return {name: row[name] for name in ("ms_p10", "ms_p50", "ms_p90")} | ({"disturbed": True} if row.get("disturbed") else {})


def host_rates() -> dict:
    """`float32` in operations a second, by a large product of matrices; `bandwidth` in bytes a second, by copying; `clock` in cycles a second."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((PRODUCT, PRODUCT), dtype=np.float32) for _ in range(2))
    source, target = np.ones(COPIED // 4, np.float32), np.empty(COPIED // 4, np.float32)
    product, copy = (_fastest(act) for act in (lambda: a @ b, lambda: np.copyto(target, source)))
    return {"float32": 2 * PRODUCT**3 / product, "bandwidth": 2 * COPIED / copy, "clock": _clock()}


def _clock() -> float:
    """Cycles a second as the system tells them, or `NOMINAL_CLOCK` where it tells none, as on many virtual machines.

    The fit divides cycles by it, so that the host's own estimates are the same by any; only what starting an operator costs on other devices follows it.
    """
    import psutil

    try:
        frequency = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError):  # psutil has no such function everywhere, or finds no file of it
        frequency = None
    megahertz = 0 if frequency is None else frequency.max or frequency.current
    return 1e6 * megahertz if megahertz else NOMINAL_CLOCK


def _fastest(act: Callable[[], object], tries: int = 7) -> float:
    """Seconds of this thread, the fastest of a few."""
    act()
    times = []
    for _ in range(tries):
        started = time.thread_time()
        act()
        times.append(time.thread_time() - started)
    return min(times)


def fit(timings: Mapping) -> Efficiency:
    """The efficiencies that fit the timed architectures of `FITTED` best: least squares of the logarithms of estimated over measured.

    By scipy's trust region reflective, strays weighted down (soft L1). Shares stay below 1: nothing runs faster than its peak; and depthwise and grouped
    convolutions reach at most the share of a dense one, which on a host where memory binds them the timings alone do not tell.
    """
    from scipy.optimize import least_squares

    rates, rows = rates_of(timings), [row for row in timings["rows"] if not row["held_out"]]
    operators = [[Operator.from_json(each) for each in row["operators"]] for row in rows]
    measured = np.array([row["ms_p50"] for row in rows]) / 1000

    def residuals(logs: np.ndarray) -> np.ndarray:
        efficiency = _efficiency(logs)
        return np.log([estimate(each, rates, efficiency).seconds for each in operators]) - np.log(measured)

    start = np.log([*(share / (START.compute[CONVOLUTION] if kind in THIN else 1) for kind, share in START.compute.items()), START.memory, START.cycles])
    high = np.log([*[1.0] * (len(COMPUTING) + 1), MOST_CYCLES])
    found = least_squares(residuals, start, bounds=(np.log(LEAST), high), loss="soft_l1", f_scale=STRAY)
    return _efficiency(found.x)


def _efficiency(logs: Sequence[float]) -> Efficiency:
    """Of the logarithms of the shares, those of `THIN` kinds in parts of a dense convolution's."""
    *compute, memory, cycles = (float(value) for value in np.exp(logs))
    shares = dict(zip(COMPUTING, compute, strict=True))
    return Efficiency(shares | {kind: shares[kind] * shares[CONVOLUTION] for kind in THIN}, memory, cycles)


def rates_of(timings: Mapping) -> Rates:
    """The host as a device of one core, by its own measured peaks."""
    found = timings["rates"]
    return Rates("this host", {"float32": found["float32"]}, found["bandwidth"], found["clock"])


def errors(timings: Mapping, efficiency: Efficiency, held_out: bool = True) -> list[dict]:
    """`model`, `input_size`, `ms`, `estimated_ms` and `error` (of the measured duration) of each architecture, the worst first."""
    found = []
    for row in timings["rows"]:
        if row["held_out"] == held_out:
            seconds = estimate([Operator.from_json(each) for each in row["operators"]], rates_of(timings), efficiency).seconds
            entry = {"model": row["model"], "input_size": row["input_size"], "ms": row["ms_p50"], "estimated_ms": 1000 * seconds}
            found.append(entry | {"error": 1000 * seconds / row["ms_p50"] - 1})
    return sorted(found, key=lambda entry: -abs(entry["error"]))


@dataclass(frozen=True)
class Fit:
    """The estimator as one host taught it: its efficiencies, and how far it is off on architectures that it was not fitted to, the worst first."""

    efficiency: Efficiency
    machine: dict
    date: str
    errors: tuple[dict, ...]

    @property
    def median_error(self) -> float:
        """The median absolute error over the architectures held out, as a share."""
        return float(np.median([abs(entry["error"]) for entry in self.errors]))

    def error_of(self, smallest: int, below: int) -> float | None:
        """The same over pictures of a side from `smallest` on and below `below`; None where none were timed."""
        found = [abs(entry["error"]) for entry in self.errors if smallest <= entry.get("input_size", 0) < below]
        return float(np.median(found)) if found else None

    def words(self, type: str = "float32") -> str:
        """The sentence that stands beside every estimate for a device: small pictures, whose operators fit caches, apart from those of real sizes.

        `type` is that of the graph: what was timed is float32.
        """
        many = len({entry["model"] for entry in self.errors})
        worst, small, large = self.errors[0], self.error_of(0, PHOTOGRAPH), self.error_of(PHOTOGRAPH, 10**6)
        parts = [(small, f"on pictures below {PHOTOGRAPH} pixels"), (large, "on larger ones")]
        apart = " and ".join(f"{100 * error:.0f} % {which}" for error, which in parts if error is not None)
        at = f" at {worst['input_size']}" if "input_size" in worst else ""
        there = "" if self.machine.get("id") == machine()["id"] else "; not this one, which `python -m core devices --fit` fits it to"
        return (
            f"Estimated; on the host that it was fitted to ({self.machine['cpu']}{there}) the median error is {apart}, over "
            f"{len(self.errors)} timings of {many} architectures held out, the worst {100 * worst['error']:+.0f} % ({worst['model']}{at})"
            + ("." if type == "float32" else f", in float32; {type} takes the same shares, which nothing here validates.")
        )


def fitted(timings: Mapping) -> Fit:
    efficiency = fit(timings)
    return Fit(efficiency, timings["machine"], timings["date"], tuple(errors(timings, efficiency)))


def keep(found: Fit, timings: Mapping, shipped: bool = False) -> Path:
    """Write a fit where `current` finds it, with what was timed, the operators aside."""
    rows = [{name: value for name, value in row.items() if name != "operators"} for row in timings["rows"]]
    value = {
        "machine": found.machine, "date": found.date, "rates": timings["rates"], "efficiency": found.efficiency.to_json(), "errors": list(found.errors),
        "timed": rows, "passes": timings["passes"],
    }  # fmt: skip
    path = SHIPPED if shipped else folder() / OWN
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())
    return path


def current() -> Fit:
    """The fit to this machine where `--fit` has made one, else the shipped one."""
    own = home() / OWN
    path = own if own.exists() else SHIPPED
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, _modified: int) -> Fit:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Fit(Efficiency(**value["efficiency"]), value["machine"], value["date"], tuple(value["errors"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ParetoscopeError(f"The fit in {path} is damaged; delete it, or fit again with `python -m core devices --fit`.") from None
