"""`papers`: the classics' published figures beside ours, and the runs that ours come from."""

from __future__ import annotations

from core.commands import options, terminal

SPLITS = ("test", "validation")  # recipes were chosen on validation; test is the figure that nothing was chosen by


def add(commands) -> None:
    papers = commands.add_parser(
        "papers", help="set the classics' published figures beside ours",
        description="Lists what papers on compression published beside what their recipes do here: on MNIST where it is here, on full Fashion-MNIST\n"
        "otherwise. --run measures what is missing.",
        epilog="Runs are kept as by `run --no-latency`: after Ctrl-C the same command goes on with what is missing.",
    )  # fmt: skip
    papers.add_argument("--only", metavar="NAME", help="only this paper; `python -m core papers` lists their names")
    papers.add_argument("--run", action="store_true", help="measure what is missing, and train checkpoints that are not there")
    papers.add_argument("--again", action="store_true", help="with --run: measure on this machine what is shipped, too")
    papers.add_argument("--build", action="store_true", help="run what the shipped file lacks, into assets/gallery/papers.json (for developers)")
    options.json_flag(papers)
    papers.set_defaults(act=show)


def show(given) -> None:
    from core.papers.classics import PAPERS
    from core.papers.reproduced import standings
    from core.store import Store

    chosen = [PAPERS.get(given.only)] if given.only is not None else [paper for _name, paper in PAPERS.items()]
    if given.build:
        _build([paper.name for paper in chosen])
    if given.run:
        for paper in chosen:
            _run(paper, given.again)
    store = Store()
    try:
        found = [[both[split] for split in SPLITS] for both in (standings(paper, store) for paper in chosen)]
    finally:
        store.close()
    if given.json:
        terminal.print_json({"papers": [_json(*splits) for splits in found]})
    else:
        print("\n\n".join(_text(*splits) for splits in found))


def _run(paper, again: bool) -> None:
    """Measure every row on both splits, one after the other; a run that is known costs nothing."""
    from core.commands import attached
    from core.datasets import DATASETS
    from core.papers.reproduced import shipped, work

    dataset = paper.dataset()
    wanted = [(row, split) for row in paper.rows for split in reversed(SPLITS) if again or shipped(row, dataset, split) is None]
    absent = DATASETS.get(dataset).missing()
    if wanted and absent:
        raise absent
    if wanted:
        _train_missing(paper, dataset)
    for number, (row, split) in enumerate(wanted):
        with terminal.Progress(f"{paper.title}, {row.title}, {split} ({number + 1} of {len(wanted)})") as progress:
            attached.measured(work(row, dataset, split), None, progress)


def _train_missing(paper, dataset: str) -> None:
    """Make the checkpoints that the paper's rows need and that are not here, as `train` does."""
    from core import zoo
    from core.errors import NotHere
    from core.jobs.turns import Turns
    from core.models import checkpoints

    for model in paper.models():
        try:
            zoo.checkpoint(model, dataset)
        except NotHere:
            from core.commands.threads import use_threads

            use_threads(1)
            with terminal.Progress(f"{model} on {dataset}") as progress:
                checkpoints.train(model, dataset, turn=Turns().compute, report=progress)


def _build(names: list[str]) -> None:
    from core.commands.threads import use_threads
    from core.jobs.turns import Turns
    from core.papers import reproduced

    use_threads(1)
    turns = Turns()
    reproduced.build(names, terminal.say, turn=turns.compute, exclusive=turns.exclusive)


def _text(test, validation) -> str:
    from core.papers.figures import measured_words, table

    paper = test.paper
    titles, rows = table(test, validation)
    lines = [f"{paper.title} ({paper.name})", f"{paper.source}, {paper.link}", paper.claim, "", terminal.table([titles, *rows]), ""]
    lines += [f"Published: {paper.published_on}, n = {paper.pictures:,}. Here: {measured_words(test)}.", paper.differs]
    if test.missing or validation.missing:
        lines.append(f"Measure what is missing: python -m core papers --run --only {paper.name}")
    return "\n".join(lines)


def _json(test, validation) -> dict:
    paper = test.paper
    rows = []
    for at_test, at_validation in zip(test.lines, validation.lines, strict=True):
        row, published = at_test.row, at_test.row.published
        ours = {split: _ours(line) for split, line in (("test", at_test), ("validation", at_validation))}
        said = published and {"top1": published.top1, "kilobytes": published.kilobytes}
        rows.append({"row": row.name, "title": row.title, "published": said, "model": row.model, "recipe": row.recipe.to_json(), "ours": ours})
    return {
        "name": paper.name, "title": paper.title, "source": paper.source, "link": paper.link, "published_on": paper.published_on, "pictures": paper.pictures,
        "dataset": test.dataset, "reference": paper.reference, "claim": paper.claim, "differs": paper.differs, "rows": rows, "command": paper.command(),
    }  # fmt: skip


def _ours(line) -> dict | None:
    if line.result is None:
        return None
    run = line.result
    return {name: run[name] for name in ("identity", "metrics", "machine", "date")} | {"difference": line.difference}
