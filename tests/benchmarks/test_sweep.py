"""How busy a sweep keeps the machine, by the processor time of the cluster's processes and by the turns they took."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from core.recipe import Recipe
from core.work import Work

pytestmark = pytest.mark.benchmark
RECIPES, BUSY = 100, 0.85


def recipes() -> list[Recipe]:
    """Sparsity 0.50 … 0.74 in 4 widths of codes."""
    return [
        Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": (50 + number) / 100}, {"step": "quantize", "weight_bits": bits}]})
        for number in range(RECIPES // 4)
        for bits in (3, 4, 5, 6)
    ]


def processor_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def most_at_once(history: Path, since: float) -> int:
    """The largest number of tokens held at one moment, from lines `token start end`."""
    moments = []
    for file in history.glob("*.txt"):
        for line in file.read_text().splitlines():
            _token, start, end = map(float, line.split())
            if end > since:
                moments += [(start, 1), (end, -1)]
    held = most = 0
    for _time, change in sorted(moments):
        held += change
        most = max(most, held)
    return most


def test_a_sweep_keeps_the_cores_busy_and_no_more(tmp_path, monkeypatch):
    from core.cluster import connect
    from core.jobs.connection import running_office
    from core.jobs.turns import core_count
    from core.store import COMPLETE

    history = tmp_path / "history"
    history.mkdir()
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PARETOSCOPE_TURNS_HISTORY", str(history))
    client = connect()
    try:
        warm = [Work("squeezenet1_1", "fashion_mnist", Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": at}]}), latency=False)
                for at in (0.1, 0.2, 0.3, 0.4)]  # fmt: skip
        finish(client, warm)
        office = psutil.Process(running_office()["pid"])
        workers = [office, *office.children(recursive=True)]
        started, before = time.monotonic(), processor_seconds(workers)
        rows = finish(client, [Work("squeezenet1_1", "fashion_mnist", recipe, latency=False) for recipe in recipes()])
        took, used = time.monotonic() - started, processor_seconds(workers) - before
        assert len(rows) == RECIPES and all(row["state"] == COMPLETE for row in rows.values())
        most = most_at_once(history, started)
        busy = used / took / core_count()
        print(f"\n{RECIPES} runs of squeezenet1_1 in {took:.1f} s: {100 * busy:.0f} % of {core_count()} cores busy, {most} compute threads at most")
        assert busy >= BUSY
        assert most <= core_count()
    finally:
        client.close()
        office = running_office()
        if office:
            psutil.Process(office["pid"]).terminate()


def finish(client, works: list[Work]) -> dict[str, dict]:
    identities = [row["identity"] for row in client.submit_all(works)]
    while True:
        rows = client.store.find_all(identities)
        if len(rows) == len(identities) and all(row["state"] not in ("WAITING", "RUNNING") for row in rows.values()):
            return rows
        time.sleep(0.1)
