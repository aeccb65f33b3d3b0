"""Which run is meant by a key: the runs of this machine first, then the shipped ones. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from core.errors import BadInput
from core.lessons import students
from core.machine import machine
from core.papers import reproduced
from core.recipe import Recipe
from core.store import COMPLETE, Store
from core.studies import gallery
from core.work import Work

SHOWN = 4  # of several that are meant


def run(key: str, store: Store) -> Work:
    """What a COMPLETE run of this identity, or whose recipe alone has this key, is of, over the whole validation split, whatever it was measured on.

    Raises `BadInput`, and `NotHere` when its checkpoint is gone.
    """
    rows = known(store)
    found = [row for row in rows if row["identity"] == key][:1] or list({(row["model"], row["dataset"]): row for row in rows if row["key"] == key}.values())
    if not found:
        open_run = store.find(key)
        said = f"The run {key} is {open_run['state']}" if open_run and open_run["kind"] == "run" else f"There is no complete run {key[:40]!r}"
        raise BadInput(f"{said}; --run takes the identity of a complete run, or the key of its recipe, as the table of runs and `run --json` give them.")
    if len(found) > 1:
        choices = ", ".join(f"{row['identity']} ({row['model']} on {row['dataset']})" for row in found[:SHOWN])
        raise BadInput(f"{len(found)} runs have the recipe {key}; --run takes the identity of one: {choices}{' …' if len(found) > SHOWN else ''}.")
    (row,) = found
    return _same(row)


def labels(work: Work, store: Store) -> bytes | None:
    """The labels that a run of this machine predicted (little-endian uint16); None where they are not kept, and are found again by running it."""
    row = store.find(work.identity())
    if row is None or row["state"] != COMPLETE or row["origin"] != "here" or (row["machine"] or {}).get("id") != machine()["id"]:
        return None
    return store.predicted(work.identity())


def known(store: Store) -> list[Mapping]:
    """Complete runs, shipped and measured here, each once: those over fewer pictures or another split first, this machine's own last."""
    rows = [*students.runs(), *reproduced.runs(), *gallery.runs(), *store.rows(states=[COMPLETE])]
    return sorted({row["identity"]: row for row in rows}.values(), key=lambda row: (row["split"] == "validation", row["metrics"]["images"]))


def _same(row: Mapping) -> Work:
    """The work of a row, if the checkpoint, the data and the engine that it was measured with are those that are here now."""
    work = Work(row["model"], row["dataset"], Recipe.from_json(row["recipe"]))
    if not any(dataclasses.replace(work, split=row["split"], images=images).is_identity(row["identity"]) for images in (None, row["metrics"]["images"])):
        raise BadInput(
            f"The run {row['identity']} was measured with another checkpoint of {row['model']}, other data or another engine than are here now; "
            f"run its recipe again, and export that."
        )
    return work
