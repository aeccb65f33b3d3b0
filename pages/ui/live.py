"""The live part of the explorer: chart, sentence, cards and status. Runs anew with every position of a slider."""

from __future__ import annotations

import time
from dataclasses import dataclass

import streamlit as st

from core import charts, pareto
from core.errors import ParetoscopeError
from core.recipe import Recipe
from core.studies.known import Known
from core.studies.points import MEASURED, PREVIEW
from core.work import Work
from pages.ui import acts, controls, floor, on_device, services, state, words
from pages.ui.cards import cards
from pages.ui.chart import THEME, chart
from pages.ui.follow import LATER, SELDOM, Look, follow, last_seen
from pages.ui.link import View
from pages.ui.status import BUSY, IDLE, WRONG, status

HEIGHT = "var(--chart-height)"  # set by the style sheet, so that nothing scrolls
LEAD_SECONDS = 0.06  # what the browser needs to draw the chart; with the controls in its hands it would render them first
STAGES = {"train": "training", "evaluate": "evaluating", "latency": "measuring latency", "compress": "compressing"}


@dataclass(frozen=True)
class Scene:
    """Everything that the live part shows."""

    view: View
    work: Work | None
    known: Known
    look: Look
    going: floor.Going | None
    answer: pareto.Answer | None
    figure: dict


def think() -> None:
    """Find out what the live part is to show, before the first element of this run is sent: what is sent at once is drawn at once."""
    state.session()["scene"] = _scene()


def lead() -> None:
    """Between the live part and what follows it: the chart is on screen some 60 ms earlier."""
    if state.session().get("phase", "rest") == "rest":
        time.sleep(LEAD_SECONDS)


@st.fragment(key=acts.LIVE)
def live() -> None:
    session = state.session()
    scene = session.pop("scene", None) or _scene()
    view, look = scene.view, scene.look
    chart(
        scene.figure, key="chart", height=HEIGHT, glides=not view.three_d, listens=True, name=f"{view.model}-{view.dataset}",
        label=f"Accuracy of {len(scene.known.rows)} compressed versions of {view.model} over {charts.AXES[view.x].title}",
        on_pick=lambda id: acts.pick(id, _row), on_pin=acts.pin,
    )  # fmt: skip
    with st.container(key="saying", horizontal=True, vertical_alignment="top", gap="xsmall", wrap=False):
        _sentence(view, scene.known, look, scene.answer)
        _actions(view, scene.work, look)
    cards(look.here, scene.known.baseline, look.running, look.stale)
    _renew_header(scene.known, session)
    _status(look, scene.going)
    if session.get("phase", "rest") == "rest":
        state.publish()


def _scene() -> Scene:
    view, session = state.view(), state.session()
    phase = session.get("phase", "rest")
    known, look, work, going = Known(), Look(), None, floor.look(view)
    try:
        work = view.work()
        stored = services.cluster().find(work.identity())
        known = services.shelf().known(view.model, view.dataset)
        if session.get("lit_temperature") is not None:  # no point is invented for a temperature: measured runs light up
            look = Look(here=last_seen(work, session), stale=True)
        else:
            look = follow(work, phase, known, stored, services.cluster(), session)
        _measure_baseline(work, known, session)
        if going:
            look.again = look.again or LATER
        if phase == "rest":
            _time_here(view, known, look, session)
    except ParetoscopeError as error:
        look.problem = str(error)
    answer = pareto.answer(known.rows, view.limits()) if view.limits() else None
    return Scene(view, work, known, look, going, answer, _figure(view, known, look, answer))


def _renew_header(known: Known, session) -> None:
    """The baseline's line is above this fragment: draw it anew when the baseline was measured or timed meanwhile, and no dialog is open."""
    if session.get("dialog"):
        return
    base = known.baseline
    shown = (base["id"], base["elsewhere"], base["ms_p50"]) if base else None
    before, session["baseline_shown"] = session.get("baseline_shown", shown), shown
    if shown != before and base is not None and session.get("phase", "rest") == "rest":
        st.rerun("app")


def _measure_baseline(work: Work, known: Known, session) -> None:
    """A pair that nobody compressed yet has no baseline: measure it once."""
    if known.baseline is None and session.get("baseline") != work.baseline().identity():
        session["baseline"] = work.baseline().identity()
        services.cluster().submit(work.baseline())


def _time_here(view: View, known: Known, look: Look, session) -> None:
    """While nothing else is under way, time one graph after another whose latency is another machine's."""
    cluster = services.cluster()
    told = cluster.state()
    if look.running or look.again or not told["connected"] or not told["workers"] or told["waiting"] + told["running"]:
        return
    tried = session.setdefault("timed", set())
    row = known.untimed(look.here, tried)
    if row is not None:
        tried.add(row["graph"] or row["id"])
        look.again = SELDOM
        cluster.measure(Work(view.model, view.dataset, Recipe.from_json(row["recipe"])))


def _figure(view: View, known: Known, look: Look, answer) -> dict:
    pinned = [row for row in (known.find(id) for id in view.pins) if row]
    session = state.session()
    moving = look.here and (session.get("phase") == "drag" or look.here["state"] == PREVIEW)
    session["room"] = [*session.get("room", ())[-100:], look.here] if moving else []
    rows, baseline, here, others = known.rows, known.baseline, look.here, known.others if view.all_models else ()
    if on_device.wanted(view):
        there = on_device.Device(view)
        rows, pinned, others, baseline, here = there.rows(rows), there.rows(pinned), there.rows(others), there.row(baseline), there.row(here)
    return charts.figure(
        rows, x=view.x, baseline=baseline, live=here, third=view.third, pins=pinned, others=others, lit=_lit(known), three_d=view.three_d, theme=THEME,
        fits={row["id"] for row, fits in zip(known.rows, answer.fits) if fits} if answer else None, ties=services.shelf().ties(known, view.x),
        room=session["room"],  # until what was dragged is measured the frame may grow, but not shrink
    )  # fmt: skip


def _row(id: str) -> dict | None:
    view = state.view()
    return services.shelf().known(view.model, view.dataset).find(id)


def _lit(known: Known) -> set[str]:
    """While the temperature is dragged: the measured runs distilled nearest to it. No point is invented between them."""
    wanted = state.session().get("lit_temperature")
    if wanted is None:
        return set()
    distilled = [(controls.temperature(Recipe.from_json(row["recipe"])), row["id"]) for row in known.rows if row["family"] == "Distilled"]
    nearest = min((abs(at - wanted) for at, _ in distilled), default=None)
    return {id for at, id in distilled if abs(at - wanted) == nearest}


def _sentence(view: View, known: Known, look: Look, answer) -> None:
    text = words.sentence(look.here, known.baseline, look.before_recovery)
    if look.stale:
        text = f'<span class="tag">previewing this recipe</span> the one before it: {text}'
    if look.estimate is not None and (look.stale or look.here is None):
        text = words.no_preview(look.estimate) + (f" The one before it: {words.sentence(look.here, known.baseline, False)}" if look.here else "")
    if look.problem:
        text = f'<span class="tag wrong">{words.escape(look.problem)}</span>'
    elif look.asks_seconds:
        text += f" <span class='quiet'>Training would take {words.duration(look.asks_seconds)}.</span>"
    second = words.budget_answer(known.rows, view.limits(), answer) if answer else ""
    notes = look.here["notes"] if look.here and look.here["state"] == PREVIEW and not look.stale and state.session().get("phase") != "drag" else ()
    second = " ".join(filter(None, (*map(words.escape, notes), words.escape(floor.said(view)), second)))
    st.html(f'<div class="sentence">{text}</div><div class="answer">{second}</div>')


def _actions(view: View, work: Work | None, look: Look) -> None:
    """What can be done with the run at hand; only what applies now is there. The curve, which appears while it trains, is left of what is pressed then."""
    if work is None:
        return
    if look.run and look.run.get("curve"):
        opened = st.popover("Learning curve", key="curve", icon=":material/show_chart:", on_change="rerun")
        if opened.open:
            with opened:
                chart(charts.curve(look.run["curve"], THEME), key="curve-chart", height="260px", label="Learning curve", name="learning-curve")
    if look.asks_seconds:
        st.button(f"Train, {words.duration(look.asks_seconds)}", key="train-now", type="primary", on_click=acts.go, args=(work.identity(),))
    elif look.running:
        st.button("Cancel", key="cancel", icon=":material/stop_circle:", on_click=_cancel, args=(work.identity(),))
    elif look.problem:
        st.button("Run again", key="run-again", icon=":material/replay:", on_click=acts.go, args=(work.identity(),))
    if look.here and look.here["state"] == MEASURED and not look.running and not look.stale:
        with st.popover("Why?", key="why", type="tertiary"):
            for paragraph in words.why(view.recipe, look.here):
                st.markdown(paragraph)
        pinned = look.here["id"] in view.pins
        st.button("Unpin" if pinned else "Pin", key="pin", type="tertiary", icon=":material/keep:", on_click=acts.pin, args=(look.here["id"],),
                  help="Keep this run to compare it with up to three others. Shift and a click on a point do the same.")  # fmt: skip


def _cancel(identity: str) -> None:
    services.cluster().cancel(identity)
    state.session()["cancelled"] = identity


def _status(look: Look, going: floor.Going | None) -> None:
    """One line in the sidebar, and the pulse that looks again while something is under way."""
    with st.sidebar:
        try:
            told = services.cluster().state()
        except ParetoscopeError as error:
            status("the store is out of reach", WRONG, detail=str(error), again=SELDOM)
            return
        services.settle(told["connected"])
        if told["trouble"]:
            status("the cluster is in trouble", WRONG, detail=told["trouble"], again=SELDOM)
        elif not told["connected"]:
            status("starting the cluster …", BUSY, again=LATER)
        elif going:
            status(going.words, BUSY, fraction=going.done / going.most, again=look.again or LATER)
        elif look.running:
            doing = STAGES.get(look.run.get("stage"), "waiting")
            left = look.run.get("seconds_left")
            status(f"{doing}, {left:.0f} s left" if left else doing, BUSY, fraction=look.run["fraction"], again=look.again or LATER)
        elif told["waiting"] + told["running"]:
            count = told["waiting"] + told["running"]
            status(f"computing {count} run{'s' if count > 1 else ''}", BUSY, again=look.again or SELDOM)
        elif look.again:
            status("previewing", BUSY, again=look.again)
        else:
            status("idle", IDLE)
