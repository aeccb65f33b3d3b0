"""The parts of the Latency page, in one fragment: boxes and a table of runs at the left; why, operators and every setting of the run at hand at the right."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import streamlit as st

from core.errors import ParetoscopeError
from core.machine import machine
from core.metrics.latency import verdict
from core.recipe import Recipe
from core.runtimes import litert
from core.runtimes.timed import RUNTIMES
from core.studies.letters import LETTERS
from core.studies.points import unmarked
from core.studies.points import words as recipe_words
from core.timing import timing_charts, timings
from core.timing.timings import BATCHES, Timings, is_own_graph, reason
from core.work import Work
from pages.ui import examine, follow, refusals, services, state, words
from pages.ui.chart import THEME, chart
from pages.ui.examine import Look
from pages.ui.frame import guard
from pages.ui.link import View
from pages.ui.pulse import pulse
from pages.ui.timed_at import TimedAt, everywhere

FRAGMENT = "latency"
AGAIN = 0.7  # seconds between two looks at what is under way
SECONDS_A_CELL = 1.6  # of one run in one runtime: an export, warming up, and the blocks
LITERT_HELP = "It runs TensorFlow Lite files, one for each number of pictures a pass. Making one takes up to a minute, the first time a graph is timed."
HELP = (
    "Timed in blocks that alternate with the uncompressed model’s, while nothing else computes. A ratio is the median of the paired ratios of block medians, "
    "with its 95 % bootstrap interval; it is not distinguishable when that contains 1. A box shows each block’s ratio times the uncompressed model’s median, "
    "so that boxes of one runtime can be compared though the machine was slower for one of them; the table has the milliseconds as they were taken."
)


@dataclass(frozen=True)
class Run:
    """A run to be timed, as it is called on the page."""

    name: str
    recipe: Recipe


@st.fragment(key=FRAGMENT)
def latency() -> None:
    with guard():
        view = state.view()
        runs = wanted(view)
        looks = _shared(view, _looks(view, runs))
        with st.container(key="latency"):
            with st.container(key="latency-runs", gap="xsmall"):
                _controls(view, runs, looks)
                _boxes(view, runs, looks)
                st.html(_table(view, runs, looks))
                _troubles(view, runs, looks)
            with st.container(key="latency-one", gap="xsmall"):
                _why(runs, looks)
                _operators(runs, looks)
                st.html(_everywhere(view, runs[-1], looks[len(runs) - 1].result))
        refusals.say()
        _pulse(looks)
        state.publish()


def wanted(view: View) -> list[Run]:
    """The uncompressed model, the pinned runs and, last, the run at hand; none twice."""
    known = services.shelf().known(view.model, view.dataset)
    found = [Run("Uncompressed", Recipe())]
    for letter, row in zip(LETTERS, (known.find(id) for id in view.pins)):
        if row is not None and row["model"] == view.model:
            found.append(Run(f"{letter}: {row['words']}", Recipe.from_json(row["recipe"])))
    keys = [run.recipe.key() for run in found]
    if view.recipe.key() in keys:  # at hand already: it goes last
        found.append(found.pop(keys.index(view.recipe.key())))
    else:
        found.append(Run(f"At hand: {recipe_words(view.recipe)}", view.recipe))
    return found


def asked_for(view: View, run: Run, at: TimedAt) -> Timings:
    asked = Timings(Work(view.model, view.dataset, run.recipe), at.thread_count, at.batch, at.runtimes)
    return dataclasses.replace(asked, again=asked.identity() in state.session().get("time-again", ()))


def _looks(view: View, runs: list[Run]) -> list[Look]:
    """What is measured of each; one at a time is started, and what trains waits for a word. A last one more is a setting that is not shown."""
    looks, busy = [], False
    for run in runs:
        try:
            asked = asked_for(view, run, view.timed)
            look = examine.look(asked, quick=not busy and (asked.again or not asked.trains))
        except ParetoscopeError as error:
            look = Look(problem=str(error))
        busy = busy or look.running
        looks.append(look)
    if not busy and state.session().get("time-everywhere") == view.recipe.key():
        looks.append(_next_everywhere(view, runs[-1]))
    return looks


def _shared(view: View, looks: list[Look]) -> list[Look]:
    """A graph that several runs have was timed for each of them, at different moments and on other pages: all show the last."""
    found = [look.result for look in looks]
    graphs = {cell["signature"] for each in found if each for cell in each["cells"].values() if "signature" in cell}
    book = services.store().latencies(machine()["id"], view.timed.thread_count, view.timed.batch, graphs).values()
    return [dataclasses.replace(look, result=each) for look, each in zip(looks, timings.shared(found, book))]


def _next_everywhere(view: View, run: Run) -> Look:
    """The next setting of the run at hand that nobody measured, begun; it has no row in the table. Ends when all are known, or one cannot be."""
    for at in everywhere(view.timed.litert):
        asked = asked_for(view, run, at)
        if services.examined(asked.identity()) is None:
            look = examine.look(asked, quick=True)
            if look.running:
                return look
            if look.problem:
                break
    state.session().pop("time-everywhere", None)
    return Look()


def _controls(view: View, runs: list[Run], looks: list[Look]) -> None:
    with st.container(key="latency-controls", horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        state.set_widget("timed_batch", view.timed.batch)
        st.segmented_control(
            "Pictures a pass", BATCHES, key="timed_batch", on_change=lambda: _show(batch=state.widget("timed_batch") or view.timed.batch),
            help="How many pictures go through the model at once. Phones and cameras take one, servers many.",
        )  # fmt: skip
        cores = everywhere()[-1].thread_count
        state.set_widget("timed_threads", view.timed.threads)
        st.segmented_control(
            "Threads", [at.threads for at in everywhere() if at.batch == 1], key="timed_threads",
            format_func=lambda count: str(count) if count else f"all {cores}", on_change=_show_threads,
        )  # fmt: skip
        absent = litert.missing()
        state.set_widget("timed_litert", view.timed.litert)
        st.checkbox(
            "LiteRT", key="timed_litert", on_change=lambda: _show(litert=state.widget("timed_litert")), disabled=absent is not None and not view.timed.litert,
            help=str(absent) if absent else LITERT_HELP,
        )  # fmt: skip
        st.space("stretch")
        running = [look for look in looks if look.running]
        left = sum(services.examined(asked_for(view, runs[-1], at).identity()) is None for at in everywhere(view.timed.litert))
        if left and state.session().get("time-everywhere") is None and not asked_for(view, runs[-1], view.timed).trains:
            st.button(
                f"Every setting, {words.duration(SECONDS_A_CELL * len(view.timed.runtimes) * left)}", key="time-everywhere", icon=":material/table_chart:",
                on_click=_everything, args=(view.recipe.key(),), help="Times the run at hand at every number of pictures and threads, one after the other.",
            )  # fmt: skip
        if running:
            st.button("Cancel", key="cancel-latency", icon=":material/stop_circle:", on_click=_stop, args=(running[0].row,))


def _show(**changes) -> None:
    state.change(timed=state.view().timed.replace(**changes))
    state.drop_messages()


def _show_threads() -> None:
    chosen = state.widget("timed_threads")
    if chosen is not None:  # a second click takes the choice away
        _show(threads=chosen)


def _everything(key: str) -> None:
    state.session()["time-everywhere"] = key


def _stop(row: dict) -> None:
    state.session().pop("time-everywhere", None)
    examine.stop(row)


def _boxes(view: View, runs: list[Run], looks: list[Look]) -> None:
    pictures, threads = view.timed.batch, view.timed.thread_count
    many = f"{pictures} picture{'s' if pictures > 1 else ''} a pass, {threads} thread{'s' if threads > 1 else ''}"
    where = f"this machine’s CPU ({words.escape(machine()['cpu'])})"
    said = f"Blocks of each run, <b>{many}</b>; measured on {where} in turns with the uncompressed model’s, and brought to its pace."
    st.html(f'<div class="sentence small" title="{HELP}">{said}</div>')
    pairs = [(run.name, look.result) for run, look in zip(runs, looks)]
    chart(
        timing_charts.boxes(pairs, THEME), key="latency-chart", height="var(--boxes-height)", name=f"latency-{view.model}-{view.timed.batch}",
        label=f"Milliseconds of {len(runs)} runs of {view.model} in each runtime",
    )  # fmt: skip


def _table(view: View, runs: list[Run], looks: list[Look]) -> str:
    """A row a run, a column a runtime: the ratio with its interval and what that means, and milliseconds; below a pinned run, why it is no faster."""
    head = "".join(f"<th>{words.escape(RUNTIMES.get(name).title)}</th>" for name in view.timed.runtimes)
    body = ""
    for run, look in zip(runs, looks):
        cells = (look.result or {"cells": {}})["cells"]
        body += f'<tr><td title="{words.escape(run.name)}"><div class="clipped">{words.escape(run.name)}</div></td>'
        body += "".join(f"<td>{_cell(cells.get(name), look, run)}</td>" for name in view.timed.runtimes) + "</tr>"
        if run.recipe.steps and run is not runs[-1] and look.result:  # of the one at hand the list at the right says it
            body += _no_faster(look.result, 1 + len(view.timed.runtimes))
    return f'<table class="paper latencies"><thead><tr><th>ratio to the uncompressed model</th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _no_faster(found: Mapping, columns: int) -> str:
    """A quiet row: the reason for each cell without a speed-up, once for the runtimes that share it."""
    reasons: dict[str, list[str]] = {}
    for name, cell in found["cells"].items():
        if "refused" not in cell and verdict(cell) != "faster":
            reasons.setdefault(reason(found, name), []).append(RUNTIMES.get(name).title)
    said = " ".join(f"{words.escape('; '.join(titles))}: {words.escape(why)}" for why, titles in reasons.items())
    return f'<tr class="why"><td class="quiet" colspan="{columns}">{said}</td></tr>' if said else ""


def _cell(cell: Mapping | None, look: Look, run: Run) -> str:
    if cell is None:
        return "…" if look.running else "–"
    if "refused" in cell:
        return f'<span class="quiet" title="{words.escape(cell["refused"])}">not possible</span>'
    figures = f"p50 {cell['ms_p50']:.3g} ms, p10–p90 {cell['ms_p10']:.3g}…{cell['ms_p90']:.3g}"
    mark = ' <span class="tag wrong">disturbed</span>' if cell.get("disturbed") else ""
    if is_own_graph(cell):
        said = "not distinguishable: the same graph" if run.recipe.steps else "the reference"
        return f'<b>1.00 ×</b> {said}{mark}<div class="quiet">{figures}</div>'
    beside = f"p50 {cell['ms_p50']:.3g} ms beside {median(block[1] for block in cell['blocks']):.3g}"
    spread = f"({cell['ratio_low']:.2f}…{cell['ratio_high']:.2f})"
    return f'<b>{cell["ratio"]:.2f} ×</b> {spread} {verdict(cell)}{mark}<div class="quiet" title="{figures}">{beside}</div>'


def _troubles(view: View, runs: list[Run], looks: list[Look]) -> None:
    """What went wrong, what waits for a word, and what other load disturbed."""
    for number, (run, look) in enumerate(zip(runs, looks)):
        if look.problem:
            st.error(look.problem)
        if look.asks:
            asked = asked_for(view, run, view.timed)
            takes = follow.estimate_recipe(run.recipe, services.shelf().known(view.model, view.dataset)) if asked.trains else 0
            label = f"Train for its shapes, {words.duration(takes)}" if takes else "Measure again"
            st.button(label, key=f"time-{number}", on_click=examine.started, args=(asked,), help=unmarked(run.name))
    disturbed = [run for run, look in zip(runs, looks) if look.result and any(cell.get("disturbed") for cell in look.result["cells"].values())]
    if disturbed and not any(look.running for look in looks):
        asked = [asked_for(view, run, view.timed) for run in disturbed]
        st.button(
            "Measure the disturbed ones again", key="time-again", icon=":material/refresh:", on_click=_again, args=(asked,),
            help="Something else kept the processor busy, also when it was tried again. Close other programs first.",
        )  # fmt: skip


def _again(asked: list[Timings]) -> None:
    """Each waits for its turn: forgotten, it is begun when the page comes to it."""
    state.session()["time-again"] = {each.identity() for each in asked}
    for each in asked:
        examine.forget(each)


def _why(runs: list[Run], looks: list[Look]) -> None:
    """Why the run at hand is as fast as it is, a sentence a runtime."""
    found = looks[len(runs) - 1].result
    st.html(f'<div class="label clipped" title="{words.escape(runs[-1].name)}">{words.escape(runs[-1].name)}</div>')
    if found is None:
        return
    said = "".join(f"<li><b>{words.escape(RUNTIMES.get(name).title)}</b>: {words.escape(reason(found, name))}</li>" for name in found["cells"])
    st.html(f'<ul class="why">{said}</ul>')


def _operators(runs: list[Run], looks: list[Look]) -> None:
    """The run at hand beside the uncompressed model: float32 beside float32, int8 beside float32 where it runs."""
    mine = looks[len(runs) - 1].result
    if mine is None or not mine["operators"]:
        return
    name = list(mine["operators"])[-1]
    st.html(f'<div class="label">Operators <span class="quiet">{words.escape(RUNTIMES.get(name).title)}, by its profiler</span></div>')
    profiles = [("Uncompressed", mine["base_operators"][name]), ("At hand", mine["operators"][name])]
    chart(
        timing_charts.operators(profiles, THEME), key="operators-chart", height="var(--operators-height)",
        name="operators", label="Milliseconds of each operator, the uncompressed model and the run at hand",
    )  # fmt: skip


def _everywhere(view: View, run: Run, shown: Mapping | None) -> str:
    """The ratio of the run at hand at every setting, as far as it was measured."""
    settings = everywhere(view.timed.litert)
    head = "".join(f"<th>{at.batch}×{at.thread_count}</th>" for at in settings)
    here = (view.timed.batch, view.timed.thread_count)
    found = [shown if (at.batch, at.thread_count) == here else services.examined(asked_for(view, run, at).identity()) for at in settings]
    body = ""
    for name in view.timed.runtimes:
        cells = [(each or {"cells": {}})["cells"].get(name, {}) for each in found]
        body += f"<tr><th>{words.escape(RUNTIMES.get(name).title)}</th>" + "".join(f"<td>{_short(cell)}</td>" for cell in cells) + "</tr>"
    return f'<table class="layer-figures plain"><thead><tr><th>at hand, pictures × threads</th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _short(cell: Mapping) -> str:
    if cell.get("ratio") is None:
        return "–"
    return f'<span title="{verdict(cell)}, {cell["ratio_low"]:.2f}…{cell["ratio_high"]:.2f}">{cell["ratio"]:.2f} ×{"*" if cell.get("disturbed") else ""}</span>'


def _pulse(looks: list[Look]) -> None:
    running = next((look for look in looks if look.running), Look())
    more = state.session().get("time-everywhere") and "measuring latency"
    pulse(more or running.doing("measuring latency"), AGAIN, fraction=running.fraction or 0.0)
