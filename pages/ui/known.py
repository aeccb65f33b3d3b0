"""What is known already: the measured runs of one dataset as flat rows, kept up to date from the store and the gallery.

Knows nothing of Streamlit. One `Shelf` serves every session, so it is guarded by a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from core.points import point
from core.recipe import TRAIN, Recipe
from core.store import COMPLETE, Store


@dataclass(frozen=True)
class Known:
    """The measured runs of one model on one dataset's validation split. `others` are those of other models on it."""

    rows: list[dict] = field(default_factory=list)
    baseline: dict | None = None
    others: list[dict] = field(default_factory=list)

    def find(self, id: str) -> dict | None:
        everything = (*self.rows, *self.others, *([self.baseline] if self.baseline else []))
        return next((row for row in everything if row["id"] == id), None)


class Shelf:
    """Flat rows of every COMPLETE run. A look costs one small query while nothing has changed."""

    def __init__(self, store: Store, shipped: Iterable[Mapping], machine: str):
        self._store, self._machine, self._lock, self._revision = store, machine, threading.Lock(), -1
        self._rows: dict[str, dict] = {}
        for result in shipped:
            self._add(result)

    def known(self, model: str, dataset: str, split: str = "validation") -> Known:
        """Runs of the store take the place of shipped ones with the same model and recipe. Raises `StoreError`."""
        with self._lock:
            self._refresh()
            rows = [row for row in self._rows.values() if row["dataset"] == dataset and row["split"] == split]
        own = [row for row in rows if row["model"] == model]
        return Known(
            [row for row in own if row["family"] != "Baseline"],
            next((row for row in own if row["family"] == "Baseline"), None) or _from_runs(own),
            [row for row in rows if row["model"] != model and row["family"] != "Baseline"],
        )

    def _refresh(self) -> None:
        revision = self._store.revision()
        if revision == self._revision:
            return
        for row in self._store.rows(kind="run", states=[COMPLETE], since=self._revision if self._revision >= 0 else None):
            self._add(row)
        self._revision = revision

    def _add(self, result: Mapping) -> None:
        if not result.get("metrics") or not result["metrics"].get("artifact_bytes"):
            return
        row = point(result, elsewhere=(result.get("machine") or {}).get("id") != self._machine)
        row["identity"], row["baseline"] = result.get("identity"), result.get("baseline")
        row["pictures"] = sum(step.epochs * step.images for step in Recipe.from_json(result["recipe"]).steps if step.kind == TRAIN)
        known = self._rows.get(f"{row['id']}/{row['dataset']}/{row['split']}")
        if known is None or not row["elsewhere"] or known["elsewhere"]:  # what was measured here stays
            self._rows[f"{row['id']}/{row['dataset']}/{row['split']}"] = row


def _from_runs(rows: list[dict]) -> dict | None:
    """The baseline as a run that compressed it has recorded it."""
    for row in reversed(rows):
        if row["baseline"]:
            nothing = {"top1": 0.0, "low": 0.0, "high": 0.0}
            return point({
                "model": row["model"], "dataset": row["dataset"], "recipe": Recipe().to_json(), "metrics": row["baseline"], "difference": nothing,
                "split": row["split"],
            }, elsewhere=row["elsewhere"])  # fmt: skip
    return None


def seconds_a_picture(rows: Iterable[Mapping], macs: float | None) -> float:
    """How long training takes here for one picture: from the slowest run that trained here, else by the model's arithmetic.

    The guess of 10 GMAC/s and half a millisecond a picture is on the safe side of what one core of 2026 does.
    """
    seen = [
        row["seconds"]["compress"] / row["pictures"]
        for row in rows
        if row.get("pictures") and row["seconds"].get("compress", 0) > 1 and not row["elsewhere"]  # quicker ones found their training kept
    ]
    return max(seen) if seen else (macs or 4e7) / 1e10 + 5e-4
