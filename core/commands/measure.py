"""`run` and `evaluate`: what gives measured figures."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from core.commands import device, options, terminal
from core.commands.report import report
from core.errors import BadArtifact, BadInput, BadRecipe
from core.recipe import MAX_JSON_BYTES, Recipe
from core.work import THREADS, Work


def add(commands) -> None:
    run = commands.add_parser(
        "run", help="compress a model by a recipe and measure it",
        description="Applies a recipe to a model's checkpoint and measures accuracy, size and latency beside the uncompressed baseline.",
        epilog='A recipe is JSON: {"seed": 0, "steps": [{"step": "magnitude_prune", "sparsity": 0.8}, {"step": "quantize", "weight_bits": 4}]}.\n'
        "`python -m core steps` lists the steps and their fields.",
    )  # fmt: skip
    options.model_and_dataset(run)
    run.add_argument("--recipe", required=True, metavar="FILE", help="a file with the recipe; - reads it from standard input")
    options.split_and_images(run)
    run.add_argument("--no-latency", action="store_true", help="leave latency out, which needs the machine for itself for some seconds")
    run.add_argument("--artifact", type=Path, metavar="FILE", help="write the compressed model there")
    options.json_flag(run)
    run.set_defaults(act=run_recipe)

    evaluate = commands.add_parser(
        "evaluate", help="measure a compressed file that `run --artifact` wrote", description="Reads a packed model back and measures it on a dataset."
    )
    evaluate.add_argument("--artifact", required=True, type=Path, metavar="FILE", help="the packed file")
    options.dataset_alone(evaluate)
    options.split_and_images(evaluate)
    options.json_flag(evaluate)
    evaluate.set_defaults(act=evaluate_artifact)


def run_recipe(given) -> None:
    work = Work(given.model, given.dataset, read_recipe(given.recipe), given.split, given.images, not given.no_latency)
    if given.artifact is not None:
        check_writable(given.artifact)
    work.check()
    terminal.warn([*device.hint(), *work.warnings()])
    from core.commands.attached import measured

    with terminal.Progress(f"{work.model} on {work.dataset}") as progress:
        result = measured(work, given.artifact, progress)
    if given.json:
        terminal.print_json(result)
    else:
        print(report(result))


def read_recipe(place: str) -> Recipe:
    """The recipe in a file, or on standard input for "-"; never reads more than a recipe may have."""
    try:
        if place == "-":
            text = sys.stdin.buffer.read(MAX_JSON_BYTES + 1)
        else:
            with open(place, "rb") as file:
                text = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise BadInput(f"The recipe {place!r} cannot be read ({error.strerror}); it takes a file, or - for standard input.") from None
    except ValueError:
        raise BadInput(f"The recipe {place!r} is no name of a file; it takes a file, or - for standard input.") from None
    if len(text) > MAX_JSON_BYTES:
        raise BadRecipe(f"The recipe {place!r} is longer than {MAX_JSON_BYTES:,} bytes, which is the most that is accepted.")
    return Recipe.parse(text)


def check_writable(path: Path, option: str = "--artifact") -> None:
    """Refuse a place for a file before the work is done rather than after."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder; {option} takes the name of a file.")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"The folder {path.absolute().parent} does not exist; {option} takes a file in one that does.")
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise BadInput(f"The folder {path.absolute().parent} cannot be written ({error.strerror}); {option} takes a file in one that can.") from None


def evaluate_artifact(given) -> None:
    from core.datasets import DATASETS, load

    source = DATASETS.get(given.dataset)
    absent = source.missing()
    if absent:
        raise absent
    if not given.artifact.is_file():
        raise BadInput(f"There is no file {str(given.artifact)!r}; --artifact takes one that `python -m core run --artifact FILE` wrote.")
    from core.commands.threads import use_threads

    use_threads(THREADS)
    from core import artifact, engine
    from core.jobs.turns import Turns
    from core.machine import machine
    from core.metrics import size
    from core.models.architecture import Architecture

    said = artifact.describe(given.artifact)
    recipe = Recipe.from_json(said["recipe"]) if said["recipe"] else Recipe()
    architecture = Architecture.from_json(said["architecture"])
    work = Work(architecture.model, given.dataset, recipe, given.split, given.images, latency=False)
    classes = architecture.classes
    if classes != len(source.classes):
        raise BadArtifact(f"{given.artifact} tells {classes} classes apart, and {given.dataset} has {len(source.classes)}; it takes a dataset with as many.")
    started = time.monotonic()
    subject = artifact.read(given.artifact)
    with terminal.Progress(f"{given.artifact.name} on {given.dataset}") as progress:
        hooks = engine.Hooks(turn=Turns().compute, report=progress)
        sizes = {"paper_bytes": size.paper_bytes(subject), "artifact_bytes": given.artifact.stat().st_size, "deployed_bytes": None}
        metrics = engine.metrics_of(subject, engine.predict(subject, load(work.dataset), work, hooks), sizes)
    result = {
        "model": work.model, "dataset": work.dataset, "recipe": recipe.to_json(), "key": recipe.key(), "split": work.split,
        "machine": machine(), "artifact": str(given.artifact), "metrics": metrics, "seconds": {"total": time.monotonic() - started},
    }  # fmt: skip
    if given.json:
        terminal.print_json(result)
    else:
        print(report(result))
