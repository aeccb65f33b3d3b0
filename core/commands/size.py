"""`size`: where the bytes of a packed file went, by layer and by kind, and one layer's way from float32 to its bytes."""

from __future__ import annotations

import json

from core.commands import options, terminal
from core.commands.measure import read_recipe
from core.keeping import kept
from core.packed import size_parts
from core.packed.size_parts import KINDS, SizeParts, by_kind, entry_of
from core.recipe import Recipe
from core.studies.points import words
from core.work import THREADS, Work


def add(commands) -> None:
    command = commands.add_parser(
        "size", help="say where the bytes of a packed file went",
        description="Packs a model after a recipe and says where each byte of the file went, by layer and by kind, beside what the encodings need on paper.",
        epilog="With --layer, follows that layer from float32 to its bytes in the file. What was measured is kept, and answered at once when asked again.",
    )  # fmt: skip
    options.model_and_dataset(command)
    command.add_argument("--recipe", metavar="FILE", help="a file with the recipe; - reads it from standard input; without it, the uncompressed model")
    command.add_argument("--layer", metavar="NAME", help="a layer to follow, such as layer1.0.conv1")
    options.json_flag(command)
    command.set_defaults(act=explain)


def explain(given) -> None:
    work = Work(given.model, given.dataset, read_recipe(given.recipe) if given.recipe else Recipe())
    terminal.warn(work.warnings())
    asked = SizeParts(work)
    with terminal.Progress(f"size of {given.model} on {given.dataset}") as progress:
        found = examined(asked, progress)
    entry = entry_of(found, given.layer) if given.layer else None
    if given.json:
        terminal.print_json(found if entry is None else found | {"layers": [entry]})
        return
    print(parts_report(found) if entry is None else stages_report(found, entry))


def examined(asked: SizeParts, progress) -> dict:
    """What was kept, or is measured here in turns with everything else on the machine."""
    asked.check()
    name = f"{asked.identity()}.json"
    found = kept.get_json("layers", name)
    if found is None:
        from core.commands.threads import use_threads
        from core.jobs.turns import Turns

        use_threads(THREADS)
        found = size_parts.measure(asked, turn=Turns().compute, report=progress)
        kept.put("layers", name, json.dumps(found, separators=(",", ":")).encode())
    return found


def parts_report(found: dict) -> str:
    """A line a layer, what belongs to none, and the sum; a column a kind that takes any bytes."""
    kinds = list(by_kind(found))
    rows = [["layer", *kinds, "in the file", "on paper", "bits a weight"]]
    for row in (*found["layers"], *found["rest"]):
        total = sum(row["file"].values())
        bits = f"{8 * total / row['numbers']:.2f}" if row.get("numbers") else ""
        cells = [_bytes(row["file"].get(kind)) for kind in kinds]
        rows.append([row.get("layer") or row["title"], *cells, _bytes(total), _bytes(sum(row["paper"].values())), bits])
    rows.append(["total", *(_bytes(by_kind(found)[kind]) for kind in kinds), _bytes(found["bytes"]), _bytes(found["paper_bytes"]), ""])
    paper = by_kind(found, "paper")
    rows.append(["on paper", *(_bytes(paper.get(kind)) for kind in kinds), "", "", ""])
    times = found["dense_bytes"] / found["bytes"]
    return "\n".join([
        f"{found['model']} on {found['dataset']}, {words(Recipe.from_json(found['recipe']))}",
        f"The packed file has {found['bytes']:,} bytes, {times:.2f} times fewer than float32 ({found['dense_bytes']:,}); every byte is counted once. On paper, "
        f"the encodings need {found['paper_bytes']:,}.", "", terminal.table(rows, right=range(1, len(rows[0]))), *(f"\n{note}" for note in found["notes"]),
    ])  # fmt: skip


def stages_report(found: dict, entry: dict) -> str:
    """A line a stage of one layer, each with some of its numbers or bytes."""
    rows = [["stage", "bytes", "smaller", ""]]
    first = entry["stages"][0]["bytes"]
    for stage in entry["stages"]:
        rows.append([stage["title"], f"{stage['bytes']:,}", f"{first / stage['bytes']:.2f} ×" if stage["bytes"] else "", stage["sample"]])
    more = {kind: entry["file"][kind] for kind in KINDS[4:] if entry["file"].get(kind)}
    lines = [f"{entry['layer']} of {found['model']} on {found['dataset']}, {words(Recipe.from_json(found['recipe']))}: {entry['form']}", ""]
    lines += [terminal.table(rows, right=(1, 2)), "", *(f"{stage['title']}: {stage['said']}" for stage in entry["stages"])]
    return "\n".join([*lines, *(f"Its {kind} take {count:,} bytes more." for kind, count in more.items())])


def _bytes(count: float | None) -> str:
    return f"{round(count):,}" if count else "–"
