"""Every stream of every shipped preset on every shipped model, training left out, beside its entropy."""

from __future__ import annotations

import pytest

from core import engine
from core.errors import BadRecipe
from core.packed.coding import Coded, Positions
from core.packed.entries import plan
from core.recipe import TRAIN, Recipe
from core.studies import gallery
from core.work import Work
from tests.core.packed.test_coding import stream_entropy

pytestmark = pytest.mark.benchmark
MORE = 0.01  # of the entropy
BEYOND = 64  # bytes


@pytest.mark.parametrize("model", [*gallery.MODELS, *gallery.TEACHING])
def test_every_stream_takes_its_entropy(model):
    excess = []  # (bytes beyond the bound, symbols, preset, tensor, kind)
    for preset in gallery.shipped_presets():
        recipe = gallery.preset(preset["name"])
        try:
            work = Work(model, gallery.DATASET, Recipe(tuple(step for step in recipe.steps if step.kind != TRAIN), recipe.seed))
            subject, _skipped = engine._untrained(work, engine.Hooks(), 100)
        except BadRecipe:  # a preset that this model has no use for
            continue
        books = {}
        for path, parameter in subject.stored():
            for kind, stream in plan(subject.weights[path], parameter.detach(), books)[1]:
                if isinstance(stream, (Coded, Positions)):
                    size, symbols = len(stream.encode(compact=True)), stream.symbols if isinstance(stream, Coded) else stream.gaps.symbols
                    excess.append((size - (1 + MORE) * stream_entropy(stream, parameter.numel()) - BEYOND, symbols.size, preset["name"], path, kind))
    excess.sort(reverse=True)
    nearest = ", ".join(f"{each[0]:.1f} bytes ({each[1]:,} symbols, {each[2]}, {each[3]}, {each[4]})" for each in excess[:3])
    print(f"\n{model}: {len(excess):,} streams; beyond {MORE:.0%} + {BEYOND} bytes by at most {nearest}")
    assert len(excess) > 10 and excess[0][0] <= 0
