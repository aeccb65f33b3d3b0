"""`export`: a run as a file that its runtime executes by itself, measured before it is written."""

from __future__ import annotations

from pathlib import Path

from core.commands import options, terminal
from core.commands.measure import check_writable, read_recipe
from core.errors import BadInput
from core.exports import FORMATS, Export, sheet
from core.work import THREADS, Work


def add(commands) -> None:
    export = commands.add_parser(
        "export", help="write a run as a file for PyTorch, ONNX Runtime or LiteRT",
        description="Writes the compressed model in a format, reads the file back in its runtime, runs it over the validation split, and says how accurate\n"
        "it is and how often it gives the engine's own answer. Preprocessing and class names (FILE.json), a model card (FILE.md), a script that\n"
        "runs it in its runtime alone (FILE.py) and one that checks it in continuous integration (FILE.check.py) are written beside it.",
        epilog="Formats: " + "; ".join(f"{name}: {format.title}" for name, format in FORMATS.items())
        + ".\nA recipe that was not run yet becomes a run, with its accuracy; what was exported is kept, and written at once when it is asked for again.",
    )  # fmt: skip
    export.add_argument("--run", metavar="KEY", help="a complete run by its identity, or by the key of its recipe")
    export.add_argument("--model", metavar="M", help="in place of --run, with --dataset and --recipe: a classifier, such as resnet18")
    export.add_argument("--dataset", metavar="D", help="a dataset, such as fashion_mnist")
    export.add_argument("--recipe", metavar="FILE", help="a file with the recipe; - reads it from standard input")
    export.add_argument("--format", required=True, metavar="F", help=f"one of {', '.join(FORMATS)}")
    export.add_argument("--output", required=True, type=Path, metavar="FILE", help="where to write it")
    options.json_flag(export)
    export.set_defaults(act=write)


def write(given) -> None:
    for suffix in ("", ".json", ".md", *sheet.scripts(FORMATS.get(given.format))):
        check_writable(given.output.with_name(given.output.name + suffix), "--output")
    work = _work(given)
    asked = Export(work, given.format)
    asked.check()
    terminal.warn(asked.work.warnings())
    with terminal.Progress(f"{asked.model} as {given.format}") as progress:
        keep_run(asked.work, progress)
        made = exported(asked, progress)
    from core.home import write_whole

    written = made.files(given.output.name)
    for name, data in written.items():
        write_whole(given.output.with_name(name), data)
    if given.json:
        terminal.print_json(made.record.to_json() | {"files": [str(given.output.with_name(name)) for name in written]})
    else:
        print(report(made.record, [str(given.output.with_name(name)) for name in written]))


def keep_run(work: Work, progress) -> None:
    """What was never run over the whole validation split is run first: what its file takes on another device is told by the run that it is of."""
    from core.commands import attached
    from core.exports import chosen
    from core.store import Store

    store = Store()
    try:
        known = any(row["identity"] == work.identity() for row in chosen.known(store))
    finally:
        store.close()
    if not known:
        attached.measured(work, None, progress)


def exported(asked: Export, progress):
    """What was kept, or is made here in turns with everything else on the machine."""
    from core.store import Store

    made = asked.found()
    if made is None:
        from core.commands.threads import use_threads
        from core.exports import chosen, make
        from core.jobs.turns import Turns
        from core.keeping import kept

        use_threads(THREADS)
        store = Store()
        try:
            predicted = chosen.labels(asked.work, store)
        finally:
            store.close()
        made = make(asked, turn=Turns().compute, report=progress, predicted=predicted)
        kept.put(asked.shelf, asked.kept_as(), made.kept())
    return made


def _work(given) -> Work:
    pair = (given.model, given.dataset, given.recipe)
    if given.run is not None:
        if any(value is not None for value in pair):
            raise BadInput("--run names a run by itself; give it without --model, --dataset and --recipe.")
        from core.exports import chosen
        from core.store import Store

        store = Store()
        try:
            return chosen.run(given.run, store)
        finally:
            store.close()
    if None in pair:
        raise BadInput("An export wants a run: --run KEY, or --model M --dataset D --recipe FILE.")
    return Work(given.model, given.dataset, read_recipe(given.recipe))


def report(record, written: list[str]) -> str:
    rows = [
        [
            "top-1",
            f"{record.top1:.2f} % ({record.top1_low:.2f} … {record.top1_high:.2f})",
            f"{record.split}, n = {record.images:,}, measured in {record.runtime}",
        ],
        ["engine", f"{record.run_top1:.2f} %", f"the same label on {100 * record.agreement:.2f} % of the pictures"],
        ["size", terminal.bytes_text(record.bytes), f"{record.bytes:,} bytes"],
    ]
    return "\n".join([f"{record.model} on {record.dataset}, {FORMATS.get(record.format).title}", "", terminal.table(rows), "", "Written:", *written])
