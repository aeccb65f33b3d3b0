"""`devices`: the profiles there are, what they would make of a run, the fit of the estimator, and what was measured on them."""

from __future__ import annotations

import sys
from pathlib import Path

from core.commands import options, terminal
from core.commands.terminal import bytes_text, count_text
from core.errors import BadInput

ASKED = ("model", "dataset", "recipe")  # what an estimate takes


def add(commands) -> None:
    devices = commands.add_parser(
        "devices", help="estimate a run's latency on a device, and whether it fits",
        description="Lists the devices that latencies can be estimated for. --estimate says how long a recipe's model would take there by roofline, and\n"
        "whether it fits flash and RAM; --fit times architectures on this machine and fits the estimator to them.",
        epilog="Estimates are for one picture on one thread; they are unvalidated on a device until latencies measured there are given by --measured.",
    )  # fmt: skip
    devices.add_argument("--estimate", action="store_true", help="estimate a run: takes --model, --dataset, --recipe, and --device for one device alone")
    devices.add_argument("--model", metavar="M", help="with --estimate: the model")
    devices.add_argument("--dataset", metavar="D", help="with --estimate: the dataset")
    devices.add_argument("--recipe", metavar="FILE", help="with --estimate: a file with the recipe; - reads it from standard input")
    devices.add_argument("--device", metavar="NAME", help="this device alone, its sources too without --estimate; with --measured, where that was")
    devices.add_argument("--add", type=Path, metavar="FILE", help="keep a profile of your own, in the form that assets/devices has")
    devices.add_argument("--measured", metavar="FILE", help="keep latencies measured on devices, a JSON object a line; - reads standard input")
    devices.add_argument(
        "--fit", action="store_true", help="time architectures on this machine and fit the estimator: minutes; done again, it keeps the calmer"
    )
    devices.add_argument("--ship", action="store_true", help="with --fit: into assets/efficiency.json (for developers)")
    options.json_flag(devices)
    devices.set_defaults(act=act)


def act(given) -> None:
    if given.estimate:
        estimate(given)
        return
    stray = next((name for name in ASKED if getattr(given, name) is not None), None)
    if stray:
        raise BadInput(f"--{stray} is for an estimate; it takes --estimate beside it.")
    if given.ship and not given.fit:
        raise BadInput("--ship says where a fit is kept; it takes --fit beside it.")
    if given.fit:
        fit(given.ship)
    if given.add is not None:
        keep(given.add)
    if given.measured is not None:
        measured(given.measured, given.device)
    listing(given)


def listing(given) -> None:
    """Every device, or all figures of one with their sources, and the estimator's error on the host."""
    from core.targets import calibration
    from core.targets.devices import devices, to_json

    known = devices()
    chosen = [known.get(given.device)] if given.device is not None else [device for _name, device in known.items()]
    found = calibration.current()
    if given.json:
        host = {"machine": found.machine, "date": found.date, "median_error": found.median_error, "errors": list(found.errors)}
        terminal.print_json(
            {"devices": [to_json(device) | {"own": device.own} for device in chosen], "host": host | {"efficiency": found.efficiency.to_json()}}
        )
        return
    if given.device is not None:
        print(_figures(chosen[0]))
    else:
        rows = [["device", "title", "cores", "float32", "float16", "int8", "memory", "RAM", "flash"], *(_row(device) for device in chosen)]
        print(terminal.table(rows, right=(2, 3, 4, 5, 6, 7, 8)))
        print("\nThe types' columns are peak operations a second of the whole device, memory is bytes a second. Estimates take float32 and int8.")
        print("--device NAME gives each figure's sources, and what of it no source confirms.")
    print(f"{found.words()} Fitted {found.date}.")


def _row(device) -> list[str]:
    from core.targets.devices import PEAKS

    rates = [count_text(device.figure(name)) + "op/s" if device.figure(name) else "–" for name in PEAKS]
    sizes = [bytes_text(round(device.figure(name))) for name in ("ram", "flash")]
    return [device.name, device.title, str(device.cores), *rates, f"{bytes_text(round(device.figure('bandwidth')))}/s", *sizes]


def _figures(device) -> str:
    lines = [f"{device.title} ({device.name}): {device.processor}"]
    for name, figure in device.figures.items():
        lines.append(f"  {name}: {figure.value:g} ({figure.how})")
        lines += [f"    {title}, {address}" for title, address in figure.sources]
        lines += [f"    not confirmed: {figure.unconfirmed}"] if figure.unconfirmed else []
    return "\n".join(lines)


def keep(path: Path) -> None:
    from core.targets import devices

    device = devices.add(devices.to_json(devices.read(path)))
    terminal.say(f"{device.title} is kept as {device.name}.")


def measured(place: str, device: str | None) -> None:
    from core.exports import chosen
    from core.store import Store
    from core.targets import measured_there

    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise BadInput(f"The file {place!r} cannot be read; it takes a file of text, a JSON object a line, or - for standard input.") from None
    store = Store()
    try:
        kept = measured_there.add(text, chosen.known(store), device)
    finally:
        store.close()
    many = "latencies are" if len(kept) > 1 else "latency is"
    terminal.say(f"{len(kept)} {many} kept, of {', '.join(sorted({line['device'] for line in kept}))}.")


def fit(ship: bool) -> None:
    from core.commands.threads import use_threads
    from core.jobs.turns import Turns
    from core.targets import calibration

    use_threads(1)
    turns = Turns()
    with terminal.Progress("timing architectures") as progress:
        timings = calibration.measure(turn=turns.compute, exclusive=turns.exclusive, report=progress)
    timings = calibration.calmest(timings, ship)
    path = calibration.keep(calibration.fitted(timings), timings, ship)
    terminal.say(f"The fit is in {path}.")


def estimate(given) -> None:
    missing = next((name for name in ASKED if getattr(given, name) is None), None)
    if missing:
        raise BadInput(f"--{missing} is missing; --estimate takes --model, --dataset and --recipe.")
    from core.commands.measure import read_recipe
    from core.commands.threads import use_threads
    from core.jobs.turns import Turns
    from core.targets import estimates, graphs
    from core.targets.devices import devices
    from core.work import THREADS, Work

    known = devices()
    chosen = [known.get(given.device)] if given.device is not None else [device for _name, device in known.items()]
    work = Work(given.model, given.dataset, read_recipe(given.recipe))
    work.check()
    use_threads(THREADS)
    with terminal.Progress(f"{work.model} on {work.dataset}") as progress:
        told = graphs.measure(graphs.Operators(work), turn=Turns().compute, report=progress)
    graph = graphs.Graph.from_json(told)
    size, how = file_bytes(work, graph)
    answers = [estimates.for_device(device, graph, size) for device in chosen]
    facts = {"file_bytes": size, "file_bytes_provenance": how, "activation_bytes": graph.activation_bytes, "type": graph.type, "graph": graph.key}
    if given.json:
        terminal.print_json(facts | {"model": work.model, "recipe": work.recipe.to_json(), "estimates": [answer.to_json() for answer in answers]})
    else:
        print(_text(answers, facts))


def file_bytes(work, graph) -> tuple[int, str]:
    """The file that the runtime loads, and whether it was measured: of the run where that is known, else what its weights take."""
    from core.store import Store
    from core.studies import gallery

    identity, store = work.identity(), Store()
    try:
        row = next((run for run in gallery.runs() if run["identity"] == identity), None) or store.find(identity)
    finally:
        store.close()
    size = ((row or {}).get("metrics") or {}).get("deployed_bytes")
    return (size, "measured") if size else (graph.weight_bytes, "estimated")


def _text(answers, facts: dict) -> str:
    if len(answers) == 1:
        answer = answers[0]
        lines = [f"{answer.device.title}: " + (f"{answer.ms:.3g} ms for one picture" if answer.ms is not None else "cannot run it"), answer.said]
        lines += [f"{limit.name}: {_limit(limit)}" for limit in answer.limits]
        if answer.estimate:
            shares = sorted(answer.estimate.layers, key=lambda share: -share.seconds)[:8]
            whole = answer.estimate.seconds
            lines += [
                "",
                terminal.table([["slowest layers", "of the time", "bound by"], *([s.layer, f"{100 * s.seconds / whole:.0f} %", s.bound] for s in shares)]),
            ]
        return "\n".join(lines)
    rows = [["device", "estimated", "validated", "fits"]]
    for answer in answers:
        ms = f"{answer.ms:.3g} ms" if answer.ms is not None else f"no {facts['type']}"
        fits = "yes" if answer.fits else f"no: {answer.binding.name} {_limit(answer.binding)}"
        rows.append([answer.device.name, ms, "no" if answer.scale is None else answer.validated, fits])
    said = answers[0].fit.words(facts["type"])
    sizes = f"{bytes_text(facts['file_bytes'])} to store ({facts['file_bytes_provenance']}), {bytes_text(facts['activation_bytes'])} of activations at most"
    return "\n".join([terminal.table(rows, right=(1,)), "", f"{sizes}, {facts['type']}.", said])


def _limit(limit) -> str:
    return f"{bytes_text(round(limit.needed))} of {bytes_text(round(limit.available))}"
