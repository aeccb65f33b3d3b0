"""`floor`: how far one field can go before the accuracy falls below a limit."""

from __future__ import annotations

import dataclasses
import json
import time

from core import floor
from core.commands import options, terminal
from core.commands.measure import read_recipe
from core.studies.points import value_words
from core.work import Work

WORTH_SCREENING = 4 * floor.SCREEN_IMAGES  # pictures; a split of fewer is measured whole at once


def add(commands) -> None:
    command = commands.add_parser(
        "floor", help="find how far one field can go at a given accuracy",
        description="Bisects the slider positions of one numeric field of a recipe for the most of it (sparsity), or the least (bits), that keeps a given\n"
        "top-1 accuracy. Ends with two neighbouring positions that were both measured: one holds, the next fails. Along fields of which neither\n"
        "end compresses more (temperature, learning rate) accuracy may rise and fall: the highest position, the recipe's own and the lowest are\n"
        "measured first, and the answer is the highest place at which it was found to change. A position that cannot be measured, such as a\n"
        "learning rate at which training comes to no numbers, fails. No more images are tried than the dataset has.",
        epilog="Every position that was measured is kept, as by `run --no-latency`; the same question again, or after Ctrl-C, costs only what is missing.",
    )  # fmt: skip
    options.model_and_dataset(command)
    command.add_argument("--recipe", required=True, metavar="FILE", help="a file with the recipe; - reads it from standard input")
    command.add_argument(
        "--vary", required=True, metavar="STEP.FIELD",
        help="the field that is varied, such as magnitude_prune.sparsity; quantize#2.weight_bits is that of the second quantize",
    )  # fmt: skip
    command.add_argument(
        "--min-top1", required=True, type=options.number("min_top1", 0, 100, low_too=True), metavar="X", help="the least top-1 accuracy to keep, in percent"
    )
    options.split_and_images(command)
    options.json_flag(command)
    command.set_defaults(act=find_floor)


def find_floor(given) -> None:
    recipe = read_recipe(given.recipe)
    vary = floor.Vary.parse(given.vary, recipe, given.dataset)
    work = Work(given.model, given.dataset, recipe, given.split, given.images, latency=False)
    work.check()
    terminal.warn(work.warnings())
    started = time.monotonic()
    with terminal.Progress(f"{work.model} on {work.dataset}") as progress:
        found = _search(work, vary, given.min_top1, progress)
    result = {
        "model": work.model, "dataset": work.dataset, "split": work.split, "vary": vary.name, "min_top1": given.min_top1,
        **found, "seconds": time.monotonic() - started,
    }  # fmt: skip
    if given.json:
        terminal.print_json(result)
    else:
        print(report(vary, result))


def _search(work: Work, vary: floor.Vary, min_top1: float, progress: terminal.Progress) -> dict:
    from core.commands import attached
    from core.datasets import load
    from core.store import Store

    pictures = len(load(work.dataset).split(work.split))
    pictures = min(pictures, work.images or pictures)
    title, done = progress.title, [0.0, 1.0]  # the share of the search that is done, and that of the position at hand

    def tell(value, number: int, most: int) -> None:
        done[:] = min(1.0, (number - 1) / most), 1 / most
        progress.title = f"{title}, {vary.words(value)}"

    def measured(asked: Work) -> dict:
        share = lambda event: event | ({"fraction": done[0] + done[1] * event["fraction"]} if "fraction" in event else {})
        return attached.measured(asked, None, lambda event: progress(share(event)))["metrics"]

    def measure(recipe) -> dict:
        return measured(dataclasses.replace(work, recipe=recipe))

    def screen(recipe) -> dict | None:
        """The first pictures alone, unless all of them were seen already, or are hardly more."""
        if pictures < WORTH_SCREENING:
            return None
        store = Store()
        try:
            if attached.known(store, dataclasses.replace(work, recipe=recipe)) is not None:
                return None
        finally:
            store.close()
        return measured(dataclasses.replace(work, recipe=recipe, images=floor.SCREEN_IMAGES))

    return floor.search(vary, min_top1, measure, screen, tell)


def report(vary: floor.Vary, result: dict) -> str:
    """Every position that was looked at, from mild to hard or from low to high, then what that means, and the recipe."""
    order = {value: number for number, value in enumerate(vary.positions)}
    looks = sorted(result["evaluations"], key=lambda look: (order[look["value"]], "refused" in look, look["images"]))
    rows = [[vary.name, "top-1", "pictures", "download", f"at least {result['min_top1']:g} %"]]
    for look in looks:
        if "refused" in look:
            rows.append([value_words(vary.spec, look["value"]), "", "", "", f"refused: {floor.reason(look)}"])
            continue
        top1 = f"{look['top1']:.2f} % ({look['top1_low']:.2f} … {look['top1_high']:.2f})"
        rows.append([value_words(vary.spec, look["value"]), top1, f"{look['images']:,}", terminal.bytes_text(look["artifact_bytes"]), _verdict(look, looks)])
    said = floor.sentence(vary, result["min_top1"], result["holds"], result["fails"], len({look["value"] for look in looks}))
    lines = [f"{result['model']} on {result['dataset']}, {result['split']}", "", terminal.table(rows), "", said]
    if result["recipe"] is not None:
        lines += ["", json.dumps(result["recipe"])]
    return "\n".join([*lines, "", f"Done in {terminal.seconds_text(result['seconds'])}."])


def _verdict(look: dict, looks: list[dict]) -> str:
    """Holds or fails; a first look that another one followed decides nothing."""
    longer = any(other["value"] == look["value"] and ("refused" in other or other["images"] > look["images"]) for other in looks)
    return "a first look" if longer else "holds" if look["holds"] else "fails"
