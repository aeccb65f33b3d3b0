"""The model card beside an export, in Markdown: what it is, what was measured of it, how to run it and how to make it again. Imports no torch.

Mitchell et al. 2019, arXiv:1810.03993.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from core.datasets import DATASETS
from core.exports.formats import FORMATS
from core.models.importing import import_command
from core.recipe import Recipe
from core.studies.points import unmarked, words

if TYPE_CHECKING:
    from core.exports.export import Record


def model_card(record: Record, name: str) -> str:
    format, source, recipe = FORMATS.get(record.format), DATASETS.get(record.dataset), Recipe.from_json(record.recipe)
    lines = [
        f"# {record.model} on {source.title}: {unmarked(words(recipe))}", "",
        f"`{name}`, a file for {format.runtime} ({format.title}). {format.about}", "",
        "## What was measured", "",
        f"On the {record.split} split, n = {record.images:,}, by {record.runtime} on one thread of {record.machine['cpu']}, {record.date[:10]}.", "",
        "| figure | value | |", "| --- | --- | --- |",
        f"| top-1 | {record.top1:.2f} % (95 %: {record.top1_low:.2f} … {record.top1_high:.2f}) | measured, this very file read back |",
        f"| top-1 of the run in the engine | {record.run_top1:.2f} % | measured on the same pictures |",
        f"| same label as the engine | {100 * record.agreement:.2f} % of the pictures | measured |",
        f"| size | {record.bytes:,} bytes | measured |", "",
        f"sha256 `{record.sha256}`", "",
        "## What goes in and comes out", "",
        f"Pictures: {record.sheet['preparation']}; mean {record.sheet['mean']}, std {record.sheet['std']}. `{name}.json` has these and the class names.",
        f"Answers: one logit a class, in this order: {', '.join(source.classes)}.", "",
        "## How to run it", "",
        *_running(record, name), "",
        "## How to make it again", "",
        "In the checkout of Paretoscope:", "", "```", *filter(None, [import_command(record.model, record.dataset)]), command(record, name), "```", "",
        f"Trained on {source.title} ({source.licence}); it knows nothing else, and says nothing sensible of other pictures.",
    ]  # fmt: skip
    lines += [f"\nNote: {note}" for note in record.notes]
    return "\n".join(lines) + "\n"


def command(record: Record, name: str) -> str:
    """One line for a shell that makes the file again."""
    recipe = json.dumps(Recipe.from_json(record.recipe).shortest(), separators=(",", ":"))
    given = f"--model {record.model} --dataset {record.dataset} --recipe - --format {record.format} --output {shlex.quote(name)}"
    return f"echo {shlex.quote(recipe)} | python -m core export {given}"


def _running(record: Record, name: str) -> list[str]:
    script, side = FORMATS.get(record.format).script, record.sheet["picture"]["size"]
    wants = {"run_onnx.py": "numpy and onnxruntime", "run_litert.py": "numpy and ai-edge-litert", "run_torch.py": "torch and numpy"}
    own = "By Paretoscope’s own Python, its folder given by PYTHONPATH or --paretoscope FOLDER; there, `python -m core evaluate --artifact FILE` reads it too:"
    return [
        f"With {wants[script]} alone:" if script in wants else own, "", "```",
        f"python {name}.py PICTURE.png …        # or .npy of {side}×{side} uint8 pictures; --time measures the latency of one picture here",
        f"python {name}.check.py PICTURES.npz --min-top1 {int(record.top1)} --max-bytes {record.bytes}    # exit status 1 when a limit is missed", "```",
        f"PICTURES.npz holds `images`, {side}×{side} pixels of uint8 each, cut as above, and `labels`, the places of their classes in the list above.",
    ]  # fmt: skip
