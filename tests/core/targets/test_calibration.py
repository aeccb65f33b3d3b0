"""The fit: it finds efficiencies that are known, weighs strays down, keeps the calmest pass; and the shipped fit is what it says."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from core.errors import ParetoscopeError
from core.targets import calibration
from core.targets.calibration import FITTED, HELD_OUT, SHIPPED, calmest, errors, fit, fitted, keep
from core.targets.roofline import COMPUTING, ELEMENTWISE, Efficiency, Operator, estimate

TRUE = Efficiency(dict(zip(COMPUTING, (0.8, 0.15, 0.1, 0.6), strict=True)), 0.7, 3000.0)
MACHINE = {"id": "a", "cpu": "a CPU"}


def timings(noise: float = 0.0, stray: int | None = None) -> dict:
    """Sixty networks of all kinds of operators, timed by a machine that keeps to the roofline of `TRUE`."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        operators = [_operator(rng, COMPUTING[number % 4]) for _ in range(20)] + [_operator(rng, ELEMENTWISE) for _ in range(number)]
        rows.append({"model": f"m{number}", "input_size": 32, "held_out": number % 3 == 0, "operators": [each.to_json() for each in operators]})
    made = {"machine": MACHINE, "date": "2026-11-22", "rates": {"float32": 1e11, "bandwidth": 1.6e10, "clock": 2e9}, "rows": rows, "passes": 1}
    for number, row in enumerate(rows):
        seconds = estimate([Operator.from_json(each) for each in row["operators"]], calibration.rates_of(made), TRUE).seconds
        row["ms_p50"] = 1000 * seconds * float(np.exp(noise * rng.standard_normal())) * (6 if number == stray else 1)
    return made


def _operator(rng, kind: str) -> Operator:
    weights = int(10 ** rng.uniform(2, 5.5))
    return Operator("", kind, 0 if kind == ELEMENTWISE else weights * int(10 ** rng.uniform(0, 2.5)), weights, *(int(n) for n in 10 ** rng.uniform(2, 5, 2)))


def numbers(efficiency: Efficiency) -> list[float]:
    return [*efficiency.compute.values(), efficiency.memory, efficiency.cycles]


def test_known_efficiencies_are_found():
    assert numbers(fit(timings())) == pytest.approx(numbers(TRUE), rel=0.02)


def test_one_stray_does_not_move_them():
    made = timings(noise=0.03, stray=7)
    assert numbers(fit(made)) == pytest.approx(numbers(TRUE), rel=0.3)
    assert errors(made, fit(made), held_out=False)[0]["model"] == "m7"


def absent():
    raise NotImplementedError("can't find current frequency file")


@pytest.mark.parametrize(
    ("told", "clock"),
    [
        (lambda: None, calibration.NOMINAL_CLOCK),
        (lambda: SimpleNamespace(current=0.0, min=0.0, max=0.0), calibration.NOMINAL_CLOCK),
        (absent, calibration.NOMINAL_CLOCK),
        (None, calibration.NOMINAL_CLOCK),
        (lambda: SimpleNamespace(current=1000.0, min=0.0, max=0.0), 1e9),
        (lambda: SimpleNamespace(current=1000.0, min=0.0, max=3000.0), 3e9),
    ],
)
def test_a_host_that_does_not_tell_its_clock_has_a_nominal_one(monkeypatch, told, clock):
    if told is None:
        monkeypatch.delattr(psutil, "cpu_freq")
    else:
        monkeypatch.setattr(psutil, "cpu_freq", told)
    monkeypatch.setattr(calibration, "_fastest", lambda act: 1.0)
    assert calibration.host_rates()["clock"] == clock


def test_the_hosts_own_estimates_are_the_same_by_any_clock():
    made = timings(noise=0.1)
    other = made | {"rates": made["rates"] | {"clock": calibration.NOMINAL_CLOCK}}
    here, there = errors(made, fit(made)), errors(other, fit(other))
    assert [entry["estimated_ms"] for entry in there] == pytest.approx([entry["estimated_ms"] for entry in here], rel=1e-3)


def test_the_error_is_of_architectures_that_the_fit_has_not_seen():
    made = timings(noise=0.1)
    found = fitted(made)
    assert {entry["model"] for entry in found.errors} == {row["model"] for row in made["rows"] if row["held_out"]}
    assert 0 < found.median_error < 0.15 and abs(found.errors[0]["error"]) == max(abs(entry["error"]) for entry in found.errors)
    assert f"the worst {100 * found.errors[0]['error']:+.0f} % ({found.errors[0]['model']} at 32)" in found.words()
    large = [entry | {"input_size": 224, "error": 2 * entry["error"]} for entry in found.errors]
    both = dataclasses.replace(found, errors=(*large, *found.errors))
    small = 100 * found.median_error
    assert f"the median error is {small:.0f} % on pictures below 128 pixels and {2 * small:.0f} % on larger ones, over 40 timings of 20 arch" in both.words()
    assert found.words("int8") == found.words()[:-1] + ", in float32; int8 takes the same shares, which nothing here validates."


def test_a_calmer_pass_takes_the_place_of_another(home):
    loud, calm = timings(noise=0.3), timings()
    keep(fitted(loud), loud)
    both = calmest(calm)
    assert [row["ms_p50"] for row in both["rows"]] == [min(a["ms_p50"], b["ms_p50"]) for a, b in zip(calm["rows"], loud["rows"], strict=True)]
    assert both["passes"] == 2 and both["rows"][0]["operators"]
    keep(fitted(both), both)
    assert calibration.current().machine == MACHINE  # the own one goes first
    assert calmest(calm | {"machine": {"id": "another"}})["passes"] == 1
    (home / calibration.OWN).write_text("{}")
    with pytest.raises(ParetoscopeError, match="is damaged"):
        calibration.current()


def test_the_shipped_fit_is_within_its_bound_and_names_its_machine(home):
    shipped = json.loads(SHIPPED.read_text())
    found = calibration.current()
    assert len(HELD_OUT) >= 15 and not {model for model, _size in HELD_OUT} & {model for model, _size in FITTED}
    assert {(entry["model"], entry["input_size"]) for entry in found.errors} == set(HELD_OUT)
    assert found.median_error <= 0.25 and found.machine["cpu"] and found.date.startswith("20")
    assert all(0 < share <= 1 for share in [*found.efficiency.compute.values(), found.efficiency.memory])
    assert {(row["model"], row["input_size"]) for row in shipped["timed"]} == {*FITTED, *HELD_OUT}
