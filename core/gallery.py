"""The gallery: shipped runs over the shipped checkpoints, so that the first chart is full. Imports no torch until built.

`python -m core gallery` makes assets/gallery.json; every row carries its machine and date. Accuracy and bytes are taken
from it; its latencies belong to the machine that measured them.
"""

from __future__ import annotations

import base64
import functools
import json
import zlib
from collections.abc import Callable
from pathlib import Path

from core.home import ASSETS, write_whole
from core.recipe import Recipe
from core.work import Work

FILE = ASSETS / "gallery.json"
DATASET = "fashion_mnist"
MODELS = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5")
TEMPERATURES = (1, 2, 4, 8, 16)
_REPAIR = {"step": "calibrate_batchnorm"}


def recipes() -> list[Recipe]:
    """Weights pruned, channels pruned, bits, int8, and distilled at five temperatures; the baseline first."""
    found: list[list[dict]] = [[]]
    found += [[_prune(sparsity), _REPAIR] for sparsity in (0.5, 0.7, 0.8, 0.9)]
    found += [[_channels(share), _tune()] for share in (0.2, 0.35, 0.5)]
    found += [[_bits(bits), _REPAIR] for bits in (8, 6, 5, 4, 3)]
    found += [[_int8()], [_channels(0.35), _tune(), _int8()], [_channels(0.5), _tune(), _int8()]]
    found += [[_prune(sparsity), _bits(4), _REPAIR] for sparsity in (0.8, 0.9)]
    found += [[_prune(0.9), _distill(temperature), _bits(4), _REPAIR] for temperature in TEMPERATURES]
    found += [[_prune(0.95), _distill(4), _bits(4), _REPAIR]]
    return [Recipe.from_json({"steps": steps}) for steps in found]


def works() -> list[Work]:
    return [Work(model, DATASET, recipe) for model in MODELS for recipe in recipes()]


def build(path: Path = FILE, *, report: Callable[[int, int, str], None] = lambda done, total, name: None, **hooks) -> int:
    """Run whatever the gallery lacks, one at a time, and write after each; returns the number of rows.

    `report(done, total, name)` is called before each run; `hooks` go to `engine.run`.
    """
    from core import engine

    wanted = works()
    rows = {row["identity"]: row for row in (json.loads(path.read_text())["runs"] if path.exists() else [])}
    kept = {work.identity(): rows[work.identity()] for work in wanted if work.identity() in rows}
    for number, work in enumerate(wanted):
        if work.identity() in kept:
            continue
        report(number, len(wanted), f"{work.model} {work.recipe.canonical()}")
        result = engine.run(work, **hooks)
        kept[work.identity()] = result.to_json() | {"predicted": base64.b64encode(zlib.compress(result.predicted, 9)).decode()}
        lines = ",\n".join(json.dumps(kept[work.identity()], separators=(",", ":")) for work in wanted if work.identity() in kept)
        write_whole(path, f'{{"runs":[\n{lines}\n]}}\n'.encode())
    return len(kept)


@functools.cache
def runs() -> list[dict]:
    """The shipped runs as `Result.to_json()` rows, with `predicted` as bytes (little-endian uint16); empty before the first build."""
    if not FILE.exists():
        return []
    rows = json.loads(FILE.read_text())["runs"]
    return [row | {"predicted": zlib.decompress(base64.b64decode(row["predicted"]))} for row in rows]


def _prune(sparsity: float) -> dict:
    return {"step": "magnitude_prune", "sparsity": sparsity}


def _channels(share: float) -> dict:
    return {"step": "channel_prune", "sparsity": share}


def _bits(bits: int) -> dict:
    return {"step": "quantize", "weight_bits": bits, "clipping": "mse"}


def _int8() -> dict:
    return {"step": "quantize", "weight_bits": 8, "activation_bits": 8}


def _tune() -> dict:
    return {"step": "finetune", "epochs": 2, "images": 4000, "learning_rate": 0.02}


def _distill(temperature: float) -> dict:
    return {"step": "distill", "temperature": temperature, "epochs": 1, "images": 6000, "learning_rate": 0.02}
