"""`models`, `datasets` and `steps`: what there is to choose from. Lists in well under a second, because none imports torch."""

from __future__ import annotations

import inspect

from core.commands import options, terminal
from core.errors import BadInput


def add(commands) -> None:
    models = commands.add_parser(
        "models", help="list the models that can be compressed", description="Lists torchvision's classifiers and the teaching models."
    )
    models.add_argument("--generate", action="store_true", help="build every model and write assets/models.json anew (for developers; minutes)")
    models.add_argument("--missing", action="store_true", help="with --generate: build only the models that the list lacks")
    options.json_flag(models)
    models.set_defaults(act=list_models)

    datasets = commands.add_parser(
        "datasets", help="list the datasets, and fetch one", description="Lists the datasets and says of each whether it is here, and if not how to get it."
    )
    datasets.add_argument("--fetch", metavar="NAME", help="download this dataset into Paretoscope's own folder")
    datasets.add_argument("--embed", action="store_true", help="write the Fashion-MNIST subset in assets/ anew from its original files (for developers)")
    options.json_flag(datasets)
    datasets.set_defaults(act=list_datasets)

    steps = commands.add_parser("steps", help="list the compression steps and their fields", description="Lists what a recipe can be made of.")
    options.json_flag(steps)
    steps.set_defaults(act=list_steps)


def list_models(given) -> None:
    from core import zoo

    if given.generate:
        with terminal.Progress("models") as progress:
            zoo.write_models(progress, only_missing=given.missing)
    trained: dict[str, list[str]] = {}
    for checkpoint in zoo.checkpoints():
        trained.setdefault(checkpoint.model, []).append(checkpoint.family)
    models = [facts | {"checkpoints": trained.get(name, [])} for name, facts in zoo.models().items()]
    if given.json:
        terminal.print_json({"models": models})
        return
    rows = [["model", "parameters", "MACs", "smallest input", "trained here on"]]
    for facts in models:
        counts = [terminal.count_text(facts[name]) if facts.get(name) is not None else "–" for name in ("parameters", "macs")]
        smallest = facts["smallest_input"]
        rows.append([facts["name"] + (" (teaching)" if facts.get("teaching") else ""), *counts, f"{smallest}×{smallest}", ", ".join(facts["checkpoints"])])
    print(terminal.table(rows, right=(1, 2, 3)))


def list_datasets(given) -> None:
    from core.datasets import DATASETS

    if given.fetch:
        fetch(given.fetch)
    if given.embed:
        embed()
    datasets = [source.to_json() for _name, source in DATASETS.items()]
    if given.json:
        terminal.print_json({"datasets": datasets})
        return
    rows = [["dataset", "title", "classes", "pictures", "here"]]
    for facts in datasets:
        shape = f"{facts['size']}×{facts['size']} " + ("grey" if facts["channels"] == 1 else "colour")
        rows.append([facts["name"], facts["title"], str(len(facts["classes"])), shape, "yes" if facts["here"] else "no"])
    print(terminal.table(rows, right=(2,)))
    for facts in datasets:
        if not facts["here"]:
            print(f"\n{facts['reason']}")


def fetch(name: str) -> None:
    """Download one dataset; raises `BadInput` when there is nothing to download, `NotHere` when it cannot be."""
    from core.datasets import DATASETS, load
    from core.errors import NotHere, ParetoscopeError

    source = DATASETS.get(name)
    if source.missing() is None:
        try:
            load(name)
        except ParetoscopeError as error:  # a damaged file: fetch it again
            terminal.say(str(error))
        else:
            terminal.say(f"{source.title} is here already.")
            return
    if source.fetch is None:
        raise BadInput(f"{source.title} cannot be downloaded: {source.missing()}")
    terminal.say(f"Downloading {source.title} …")
    try:
        source.fetch()
    except (OSError, RuntimeError) as error:  # torchvision raises RuntimeError when every mirror failed
        reason = str(error).strip().splitlines()[0].rstrip(" :.") if str(error).strip() else type(error).__name__
        raise NotHere(source.title, f"the download failed ({reason})", f"Run `python -m core datasets --fetch {name}` again while online.") from None


def embed() -> None:
    from core.datasets import fashion_mnist

    absent = fashion_mnist.missing_full()
    if absent:
        raise absent
    fashion_mnist.write_subset()
    terminal.say(f"Wrote {fashion_mnist.SUBSET} ({terminal.bytes_text(fashion_mnist.SUBSET.stat().st_size)}).")


def list_steps(given) -> None:
    import core.methods  # noqa: F401  (registers the steps)
    from core.recipe import STEPS

    steps = [_step_facts(step_type) for _name, step_type in STEPS.items()]
    if given.json:
        terminal.print_json({"steps": steps})
        return
    for number, step in enumerate(steps):
        print(("\n" if number else "") + f"{step['step']}: {step['about']}")
        rows = [[f"  {field['name']}", _value_text(field["default"]), field["accepted"], field["help"]] for field in step["fields"]]
        if rows:
            print(terminal.table(rows))


def _step_facts(step_type) -> dict:
    from core.recipe import params

    fields = [
        {
            "name": spec.name, "title": spec.title, "type": spec.type.__name__, "default": spec.default, "low": spec.low, "high": spec.high,
            "step": spec.step, "choices": list(spec.choices), "optional": spec.optional, "unit": spec.unit, "accepted": spec.accepted, "help": spec.help,
            "harder": spec.harder, "stops": list(spec.stops),
        }
        for spec in params(step_type)
    ]  # fmt: skip
    about = inspect.getdoc(step_type) or step_type.title
    return {"step": step_type.name, "title": step_type.title, "kind": step_type.kind, "about": " ".join(about.split("\n\n")[0].split()), "fields": fields}


def _value_text(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
