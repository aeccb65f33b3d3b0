"""A study: every measured run of one model on one dataset, as flat rows; what a report is made from. Imports no torch.

    found = of("resnet18", "fashion_mnist", Shelf.of(Store()))
    found.rows, found.front(), found.choose(["1f0c…"])

Which runs count is `core.studies.known`'s to say.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core import pareto, zoo
from core.errors import BadInput, NotHere, UnknownName
from core.recipe import Recipe
from core.studies.known import Shelf

SIZE = {"top1": pareto.MAX, "artifact_bytes": pareto.MIN}
MOST_CHOSEN = 12


@dataclass(frozen=True)
class Study:
    """`rows` are points (`core.studies.points.point`) of the validation split without the baseline, `test` the same runs on the test split by recipe key.

    `apart` are shipped students, which are found by their keys and stand in no chart: many of them differ in the seed alone.
    """

    model: str
    dataset: str
    baseline: dict
    rows: tuple[dict, ...]
    apart: tuple[dict, ...]
    test: Mapping[str, dict]

    def front(self) -> list[dict]:
        """The runs that no other equals or betters in accuracy and bytes to download while bettering one, smallest first."""
        found = [row for row, on in zip(self.rows, pareto.front(self.rows, SIZE)) if on]
        return sorted(found, key=lambda row: row["artifact_bytes"])

    def choose(self, keys: Sequence[str]) -> list[dict]:
        """The runs of these recipe keys, in their order, none twice; raises `UnknownName`, or `BadInput` for more than `MOST_CHOSEN`."""
        known = {row["key"]: row for row in (*self.apart, *self.rows)}
        wanted = list(dict.fromkeys(key.removeprefix(f"{self.model}/") for key in keys))
        for key in wanted:
            if key not in known:
                raise UnknownName(f"measured run of {self.model} on {self.dataset}", key, sorted(row["key"] for row in self.rows))
        if len(wanted) > MOST_CHOSEN:
            raise BadInput(f"{len(wanted)} runs are chosen; a report takes at most {MOST_CHOSEN}.")
        return [known[key] for key in wanted]


def of(model: str, dataset: str, shelf: Shelf) -> Study:
    """What is known of a pair; raises `NotHere` when its checkpoint is missing, or nothing was measured of it."""
    zoo.checkpoint(model, dataset)
    known, confirmed = shelf.known(model, dataset), shelf.known(model, dataset, "test")
    if known.baseline is None or known.baseline["identity"] is None:
        what, action = f"A measured run of {model} on {dataset}", f"`python -m core run --model {model} --dataset {dataset} --recipe FILE` measures one."
        raise NotHere(what, "nothing was measured of the uncompressed model yet", action)
    tested = [*([confirmed.baseline] if confirmed.baseline and confirmed.baseline["identity"] else []), *confirmed.rows, *confirmed.apart]
    return Study(model, dataset, known.baseline, tuple(known.rows), tuple(known.apart), {row["key"]: row for row in tested})


def shell_command(model: str, dataset: str, recipe: Recipe, split: str = "validation") -> str:
    """One line for a shell that measures the same run, figure for figure."""
    text = json.dumps(recipe.to_json(), separators=(",", ":"))
    on = "" if split == "validation" else f" --split {split}"
    return f"echo {shlex.quote(text)} | python -m core run --model {model} --dataset {dataset} --recipe -{on} --json"
