"""`layers`: what each layer holds before and after a recipe, and how sensitive each is to a step."""

from __future__ import annotations

import json

from core.commands import options, terminal
from core.commands.measure import read_recipe
from core.errors import BadInput
from core.keeping import kept
from core.layers.facts import Layers
from core.layers.sensitivity import IMAGES, Sensitivity, measurable
from core.recipe import STEPS, Recipe
from core.studies.points import signed, value_words
from core.work import THREADS, Work


def add(commands) -> None:
    command = commands.add_parser(
        "layers", help="look at a model layer by layer",
        description="With a recipe, lists the parameters, multiply-adds and bytes of each layer before and after it. With a step, measures how much\n"
        "accuracy each layer costs when the step is applied to that layer alone. With neither, lists the layers of the uncompressed model.",
        epilog="The step's other fields are those that it has in the recipe, where the recipe has it. What was measured is kept, and answered at once\n"
        "when it is asked again.",
    )  # fmt: skip
    options.model_and_dataset(command)
    command.add_argument("--recipe", metavar="FILE", help="a file with the recipe; - reads it from standard input")
    command.add_argument("--step", metavar="NAME", help=f"the step to be sensitive to: {', '.join(measurable())}")
    command.add_argument("--values", metavar="A,B,…", help="settings of the step's main field, such as 0.5,0.8 (the default: up to five usual ones)")
    command.add_argument(
        "--images", type=options.whole("images", 1, 10**7), metavar="N", default=IMAGES,
        help=f"measure the sensitivity on the first N validation pictures (the default is {IMAGES})",
    )  # fmt: skip
    options.json_flag(command)
    command.set_defaults(act=look_at_layers)


def look_at_layers(given) -> None:
    if given.values is not None and given.step is None:
        raise BadInput("--values are settings of a step's main field; name the step with --step.")
    recipe = read_recipe(given.recipe) if given.recipe else Recipe()
    asked: dict = {}
    if given.recipe or not given.step:
        work = Work(given.model, given.dataset, recipe)
        terminal.warn(work.warnings())
        asked["layers"] = Layers(work)
    if given.step:
        asked["sensitivity"] = Sensitivity(given.model, given.dataset, _step(given.step, recipe), _values(given.values), given.images)
    found = {}
    for name, question in asked.items():
        with terminal.Progress(f"{name} of {given.model} on {given.dataset}") as progress:
            found[name] = examined(question, progress)
    if given.json:
        terminal.print_json(found)
        return
    reports = {"layers": layers_report, "sensitivity": sensitivity_report}
    print("\n\n".join(reports[name](result) for name, result in found.items()))


def examined(asked: Layers | Sensitivity, progress) -> dict:
    """What was kept, or is measured here in turns with everything else on the machine."""
    asked.check()
    name = f"{asked.identity()}.json"
    found = kept.get_json("layers", name)
    if found is None:
        from core.commands.threads import use_threads
        from core.jobs.turns import Turns

        use_threads(THREADS)
        from core.layers import facts as layers
        from core.layers import sensitivity

        measure = {"layers": layers.measure, "sensitivity": sensitivity.measure}[asked.kind]
        found = measure(asked, turn=Turns().compute, report=lambda event: progress({key: value for key, value in event.items() if key != "metrics"}))
        kept.put("layers", name, json.dumps(found, separators=(",", ":")).encode())
    return found


def _step(name: str, recipe: Recipe):
    step_type = STEPS.get(name)
    return next((step for step in recipe.steps if step.name == name), None) or step_type()


def _values(text: str | None) -> tuple:
    def one(part: str):
        try:
            return json.loads(part)
        except ValueError:
            return part

    return tuple(one(part.strip()) for part in text.split(",") if part.strip()) if text else ()


def layers_report(found: dict) -> str:
    """A line a layer, what belongs to none, and the sum."""
    rows = [["layer", "what it is", "parameters", "non-zero", "MACs", "on paper", "download", "smaller"]]
    for entry in found["layers"]:
        rows.append([entry["layer"], entry["form"], *_figures(entry["before"], entry["after"])])
    rows.append(["rest", "batch norms and all else", *_figures(found["rest"]["before"], found["rest"]["after"])])
    rows.append(["total", "", *_figures(found["total"]["before"], found["total"]["after"])])
    notes = [f"\n{note}" for note in found["notes"]]
    return "\n".join([f"{found['model']} on {found['dataset']}, {_recipe_words(found)}", "", terminal.table(rows, right=range(2, 8)), *notes])


def _recipe_words(found: dict) -> str:
    from core.studies.points import words

    return words(Recipe.from_json(found["recipe"]))


def _figures(before: dict, after: dict | None) -> list[str]:
    if after is None:
        return [terminal.count_text(before["parameters"]), *["gone"] * 5]
    times = before["artifact_bytes"] / after["artifact_bytes"] if after["artifact_bytes"] else None
    counts = [terminal.count_text(after[name]) for name in ("parameters", "nonzero", "macs")]
    return [*counts, terminal.bytes_text(round(after["paper_bytes"])), terminal.bytes_text(after["artifact_bytes"]), f"{times:.1f} ×" if times else "–"]


def sensitivity_report(found: dict) -> str:
    """A line a layer with the change of top-1 in points at every setting."""
    asked = Sensitivity.from_json({name: found[name] for name in ("model", "dataset", "step", "values", "images", "split")})
    rows = [["layer", *(value_words(asked.field, value) for value in asked.values)]]
    for layer, cells in zip(found["layers"], found["cells"]):
        rows.append([layer, *("–" if "refused" in cell else _change(cell["difference"]) for cell in cells)])
    refused = sorted({cell["refused"] for cells in found["cells"] for cell in cells if "refused" in cell})
    lines = [
        f"{found['model']} on {found['dataset']}, {asked.step.title.lower()} on one layer at a time, {asked.field.title.lower()}",
        f"Change of top-1 in points with its 95 % interval, measured, paired, {found['split']}, n = {found['images']:,}; "
        f"uncompressed {found['baseline']['top1']:.2f} %.",
        "", terminal.table(rows, right=range(1, len(rows[0]))), *(f"\n{sentence}" for sentence in (*refused, found["whole"]) if sentence),
        "", f"Measured in {terminal.seconds_text(found['seconds'])}.",
    ]  # fmt: skip
    return "\n".join(lines)


def _change(change: dict) -> str:
    return f"{signed(change['top1'])} ({signed(change['low'])} … {signed(change['high'])})"
