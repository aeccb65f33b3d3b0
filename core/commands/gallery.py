"""`gallery`: the shipped runs as a table, and the command that makes them."""

from __future__ import annotations

from core.commands import options, terminal
from core.commands.terminal import bytes_text, table


def add(commands) -> None:
    gallery = commands.add_parser(
        "gallery", help="list the shipped runs, or make them",
        description="Lists the runs that Paretoscope ships: what each recipe cost in accuracy and gained in size and speed, as measured on\n"
        "the machine that made them. --build measures what is missing.",
    )  # fmt: skip
    gallery.add_argument("--model", metavar="M", help="only this model's runs")
    gallery.add_argument("--build", action="store_true", help="run what is missing, one at a time, into assets/gallery")
    gallery.add_argument("--no-latency", action="store_true", help="with --build: leave the latencies for a later call, on a quiet machine")
    gallery.add_argument("--students", action="store_true", help="the shipped students, with their teacher and alone, in place of the gallery")
    gallery.add_argument("--graphs", action="store_true", help="count the graph of every shipped run that has none yet (for developers; after --build)")
    gallery.add_argument("--sizes", action="store_true", help="pack every shipped run on a grid again, where the file's format changed (for developers)")
    options.json_flag(gallery)
    gallery.set_defaults(act=show)


def show(given) -> None:
    from core.errors import UnknownName
    from core.studies import gallery

    if given.graphs:
        from core.commands.threads import use_threads
        from core.jobs.turns import Turns

        use_threads(1)
        gallery.add_graphs(terminal.say, turn=Turns().compute)
        gallery.runs.cache_clear()
    models = [*gallery.MODELS, *gallery.TEACHING]
    if given.model is not None and given.model not in models:
        raise UnknownName("model in the gallery", given.model, models)
    if given.sizes:
        from core.commands.threads import use_threads
        from core.jobs.turns import Turns

        use_threads(1)
        gallery.remake_sizes(given.model, terminal.say, turn=Turns().compute)
        gallery.runs.cache_clear()
    if given.students:
        show_students(given)
        return
    if given.build:
        build([given.model] if given.model else models, not given.no_latency)
        gallery.runs.cache_clear()
    rows = [row for row in gallery.runs() if given.model in (None, row["model"])]
    if given.json:
        terminal.print_json({"runs": [{key: value for key, value in row.items() if key != "predicted"} for row in rows]})
    else:
        print(table([["Model", "Recipe", "Top-1", "Difference (95 %)", "Download", "Smaller", "Latency ratio"], *(_line(row) for row in rows)]))


def show_students(given) -> None:
    """Every shipped student. --build measures what is missing on the datasets that are here."""
    from core.datasets import DATASETS
    from core.lessons import students

    for name in students.DATASETS if given.build else ():
        absent = DATASETS.get(name).missing()
        if absent:
            terminal.say(str(absent))
        else:
            build_students(name)
    rows = students.runs()
    if given.json:
        terminal.print_json({"runs": [{key: value for key, value in row.items() if key != "predicted"} for row in rows]})
    else:
        print(table([["Data", "Split", "Trained", "Seed", "Top-1", "Against the teacher (95 %)"], *(_student_line(row) for row in rows)]))


def build_students(dataset: str) -> None:
    from core.commands.threads import use_threads
    from core.jobs.turns import Turns
    from core.lessons import students

    use_threads(1)
    turns = Turns()
    students.build(
        dataset, turn=turns.compute, exclusive=turns.exclusive, report=lambda done, total, recipe: terminal.say(f"{dataset} {done + 1} of {total}: {recipe}")
    )


def build(models: list[str], latency: bool) -> None:
    from core.commands.threads import use_threads
    from core.jobs.turns import Turns
    from core.studies import gallery

    use_threads(1)
    turns = Turns()
    for model in models:
        gallery.build(
            model, latency=latency, turn=turns.compute, exclusive=turns.exclusive,
            report=lambda done, total, recipe, model=model: terminal.say(f"{model} {done + 1} of {total}: {recipe}"),
        )  # fmt: skip


def _line(row: dict) -> list[str]:
    metrics, change = row["metrics"], row["difference"]
    steps = " → ".join(_short(step) for step in row["recipe"]["steps"]) or "uncompressed"
    ratio = next((f"{each['ratio']:.2f} ({each['ratio_low']:.2f} … {each['ratio_high']:.2f}) {each['runtime']}" for each in _fastest(metrics)), "")
    return [
        row["model"], steps, f"{metrics['top1']:.2f} %", f"{change['top1']:+.2f} ({change['low']:+.2f} … {change['high']:+.2f})",
        bytes_text(metrics["artifact_bytes"]), f"{4 * row['baseline']['parameters'] / metrics['artifact_bytes']:.1f} ×", ratio,
    ]  # fmt: skip


def _student_line(row: dict) -> list[str]:
    training, change = row["recipe"]["steps"][1], row["difference"]
    how = f"by {row['model']} at temperature {training['temperature']:g}" if training["step"] == "distill" else "alone"
    gap = f"{change['top1']:+.2f} ({change['low']:+.2f} … {change['high']:+.2f})"
    return [row["dataset"], row["split"], how, str(row["recipe"]["seed"]), f"{row['metrics']['top1']:.2f} %", gap]


def _fastest(metrics: dict) -> list[dict]:
    """The row of the graph that would run, by its smallest ratio."""
    return sorted((row for row in metrics["latencies"] if row["runtime"].startswith("onnxruntime")), key=lambda row: row["ratio"])[:1]


def _short(step: dict) -> str:
    """A step by its name and the one figure that matters most."""
    for field in ("sparsity", "weight_bits", "temperature"):
        if field in step:
            return f"{step['step']} {step[field]:g}"
    return step["step"]
