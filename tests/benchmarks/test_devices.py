"""The estimator against this host: how far it is off on architectures that it was not fitted to."""

from __future__ import annotations

from core.jobs.turns import Turns
from core.targets import calibration

MOST = 0.25  # median absolute error
PASSES = 2  # the calmer time of each architecture counts


def test_estimates_of_architectures_held_out(home, record_property, capsys):
    turns = Turns()
    for _ in range(PASSES):
        timings = calibration.calmest(calibration.measure(turn=turns.compute, exclusive=turns.exclusive))
        found = calibration.fitted(timings)
        calibration.keep(found, timings)
    record_property("median_error", found.median_error)
    with capsys.disabled():
        print(f"\n{found.words()}")
        for entry in found.errors:
            print(f"  {entry['model']:<20} {entry['ms']:7.2f} ms, estimated {entry['estimated_ms']:7.2f} ms, {100 * entry['error']:+.0f} %")
    assert len(found.errors) >= 15 and found.median_error <= MOST
