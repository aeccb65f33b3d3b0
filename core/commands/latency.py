"""`latency`: how long a compressed model takes in every runtime, beside the uncompressed one, and why."""

from __future__ import annotations

from core.commands import options, terminal
from core.commands.measure import read_recipe
from core.metrics.latency import verdict
from core.recipe import Recipe
from core.runtimes.timed import RUNTIMES
from core.studies.points import unrest, words
from core.timing import timings
from core.timing.timings import LARGEST_BATCH, Timings, reason
from core.work import THREADS, Work


def add(commands) -> None:
    command = commands.add_parser(
        "latency", help="measure how long a compressed model takes",
        description="Times a model after a recipe in every runtime, in blocks that alternate with the uncompressed model's, while nothing else computes.\n"
        "It is neither evaluated nor trained, unless training decides its shapes.",
        epilog=f"Runtimes: {', '.join(RUNTIMES)}. Without --runtime, all but LiteRT, whose files, one for each batch size, take up to a minute to make.\n"
        "A graph that was timed on this machine before is not timed again.",
    )  # fmt: skip
    options.model_and_dataset(command)
    command.add_argument("--recipe", metavar="FILE", help="a file with the recipe; - reads it from standard input; without it, the uncompressed model")
    command.add_argument("--runtime", action="append", default=[], metavar="R", help="measure in this runtime only; may be given again")
    command.add_argument("--batch", type=options.whole("batch", 1, LARGEST_BATCH), default=1, metavar="N", help="pictures in one pass (the default is 1)")
    command.add_argument("--threads", type=options.whole("threads", 1, 1024), default=1, metavar="N", help="threads of the runtime (the default is 1)")
    command.add_argument("--operators", action="store_true", help="list the operators that take the time, by ONNX Runtime's profiler")
    options.json_flag(command)
    command.set_defaults(act=measure)


def measure(given) -> None:
    work = Work(given.model, given.dataset, read_recipe(given.recipe) if given.recipe else Recipe())
    asked = Timings(work, given.threads, given.batch, tuple(given.runtime))
    asked.check()
    terminal.warn(work.warnings())
    from core.commands.threads import use_threads
    from core.jobs.turns import Turns

    use_threads(THREADS)
    turns = Turns()
    with terminal.Progress(f"latency of {given.model} on {given.dataset}") as progress, _Book() as book:
        found = timings.measure(
            asked, turn=turns.compute, exclusive=turns.exclusive, book=book,
            report=lambda event: progress({key: value for key, value in event.items() if key != "metrics"}),
        )  # fmt: skip
    if given.json:
        terminal.print_json(found | {"why": {name: reason(found, name) for name in found["cells"]}})
        return
    print(report(found, given.operators))


class _Book:
    """The store's book of latencies; what was measured is written to it when all is done, also what was measured before a Ctrl-C."""

    def __enter__(self):
        from core.machine import machine
        from core.store import Store
        from core.timing.book import LatencyBook

        self._store, self._added = Store(), []
        return LatencyBook(self._store, lambda event: self._added.append(event["latency"]), machine()["id"])

    def __exit__(self, *_error) -> None:
        from core.commands.attached import keep_latencies

        try:
            if self._added:
                keep_latencies(self._store, self._added)
        finally:
            self._store.close()


def report(found: dict, operators: bool = False) -> str:
    """A line a runtime with its ratio, its milliseconds and why; then, if wanted, a table of operators for each that has a profile."""
    rows = [["runtime", "ratio", "95 % interval", "", "p50", "p10 … p90", "file"]]
    for name, cell in found["cells"].items():
        if "refused" in cell:
            rows.append([RUNTIMES.get(name).title, "–", "", "not possible", "", "", ""])
            continue
        said = verdict(cell) + unrest(cell)
        spread = f"{cell['ms_p10']:.3g} … {cell['ms_p90']:.3g}"
        size = terminal.bytes_text(cell["file_bytes"]) if cell["file_bytes"] else "–"
        interval = f"{cell['ratio_low']:.3f} … {cell['ratio_high']:.3f}"
        rows.append([RUNTIMES.get(name).title, f"{cell['ratio']:.3f} ×", interval, said, f"{cell['ms_p50']:.3g} ms", spread, size])
    pictures, threads = found["batch"], found["threads"]
    lines = [
        f"{found['model']} on {found['dataset']}, {words(Recipe.from_json(found['recipe']))}",
        f"Measured on this machine ({found['machine']['cpu']}): {pictures} picture{'s' if pictures > 1 else ''} a pass, {threads} "
        f"thread{'s' if threads > 1 else ''}; ratios are to the uncompressed model in the same runtime, int8 to float32.",
        "", terminal.table(rows, right=(1,)), "", *(f"{RUNTIMES.get(name).title}: {reason(found, name)}" for name in found["cells"]),
    ]  # fmt: skip
    for name, profile in found["operators"].items() if operators else ():
        table = [["operator", "nodes", "ms", "share"]]
        table += [[each["operator"], str(each["calls"]), f"{each['ms']:.4f}", f"{100 * each['share']:.1f} %"] for each in profile]
        lines += ["", f"{RUNTIMES.get(name).title}, by its profiler:", terminal.table(table, right=(1, 2, 3))]
    return "\n".join(lines)
