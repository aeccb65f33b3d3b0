"""The floor of a slider, or of any step's field: how far it can go at a given accuracy, looked for one run after another.

The question is kept in the session, what was measured in the store: every look of the page takes what has come in and asks for
the next position. A reload forgets the question but no measurement, so asking again goes on where it stood. Every
position is measured on the whole split, because each becomes a point of the chart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from core.cluster import error_of
from core.errors import BadInput, ParetoscopeError
from core.floor import Vary, evaluation, refusal, sentence, varies
from core.recipe import Param, Recipe
from core.store import COMPLETE, FAILED, OPEN
from core.work import Work
from pages.ui import edits, follow, services, state, words
from pages.ui.link import View

SPARSITY, BITS, TEMPERATURE = "sparsity", "bits", "temperature"  # the explorer's own sliders that have a floor, by their keys
HELP = "How far this can go at an accuracy that you name."
ENDS = "Ends with two neighbouring positions, one that holds and one that fails."
ENDS_UNSTEADY = "Ends at the highest place at which it was seen to change from holding to failing; where none holds, with the best that was seen."
SECONDS_A_RUN = 4  # beside its training
WIDTH = 300  # pixels, of what the button opens


@dataclass(frozen=True)
class Going:
    """A search under way."""

    words: str
    done: int
    most: int


def button(view: View, slider: str, pruning: str = "") -> None:
    """The button beside a slider of the explorer, and what it opens. `pruning` names the step that the sparsity is of."""
    opened = st.popover("Floor", key=f"floor-{slider}", type="tertiary", on_change="rerun", help=HELP)
    if opened.open:
        with opened, st.container(width=WIDTH):
            _question(view, slider, lambda: varied(view.recipe, slider, pruning))


def beside(view: View, at: int, spec: Param) -> None:
    """The button below a field of the step number `at`, and what it opens: no popover, because it stands in one.

    Nothing where the field is no number, says nothing, or leaves the accuracy as it is.
    """
    slider = f"{at}-{spec.name}"
    if not varies(view.recipe.steps[at], spec):
        return
    st.button("Floor", key=f"floor-field-{slider}", type="tertiary", help=HELP, on_click=_toggle, args=(slider,))
    if state.session().get("floor_field") == slider:
        with st.container(border=True, key=f"floor-ask-{slider}"):
            _question(view, slider, lambda: _vary(view.recipe, at, spec.name, view.dataset))


def _toggle(slider: str) -> None:
    session = state.session()
    session["floor_field"] = None if session.get("floor_field") == slider else slider


def _question(view: View, slider: str, field: Callable[[], Vary]) -> None:
    """Which accuracy is to be kept, and the start; while a search is under way, its end."""
    if state.session().get("floor"):
        st.caption("A floor is being looked for; the line at the lower left says how far it is.")
        st.button("Stop looking", key=f"floor-stop-{slider}", icon=":material/stop_circle:", on_click=_stop, args=(slider,))
        return
    try:
        vary = field()
        known = services.shelf().known(view.model, view.dataset)
        seconds = vary.most_looks * (follow.estimate_recipe(vary.recipe, known) + SECONDS_A_RUN)
    except ParetoscopeError as error:
        st.error(str(error))
        return
    key = f"floor-{slider}-top1"
    if state.widget(key) is None:
        state.set_widget(key, _usual(view, known.baseline))
    st.number_input("Keep at least, % top-1", min_value=0.0, max_value=100.0, step=0.1, format="%.2f", key=key)
    does = f"Bisects the {vary.spec.title.lower()}" if vary.steady else "Looks for the highest position that holds"
    end = ENDS if vary.steady else ENDS_UNSTEADY
    st.caption(f"{does} and leaves the rest of the recipe as it is: at most {vary.most_looks} runs, {words.duration(seconds)}. {end}")
    st.button("Start", key=f"floor-start-{slider}", type="primary", on_click=_start, args=(view, vary, slider))


def varied(recipe: Recipe, slider: str, pruning: str) -> Vary:
    """The field behind a slider, in a recipe that has its step whatever the slider's position."""
    if slider == SPARSITY:
        recipe = edits.set_sparsity(recipe, max(edits.sparsity(recipe), edits.field(pruning, "sparsity").step), pruning)
        return _vary(recipe, edits.find(recipe, edits.WEIGHTS, edits.CHANNELS), "sparsity")
    if slider == TEMPERATURE:
        return _vary(recipe, edits.find(recipe, "distill"), "temperature")
    recipe = edits.set_bits(recipe, min(edits.bits(recipe), max(edits.field("quantize", "weight_bits").choices)))
    return _vary(recipe, edits.find(recipe, "quantize"), "weight_bits")


def moved(recipe: Recipe, vary: Vary, value, slider: str) -> Recipe:
    """A recipe with the slider at that value; on the explorer's own, a sparsity of 0 is no step. One that differs elsewhere stays."""
    if slider == SPARSITY:
        return edits.set_sparsity(recipe, value, vary.recipe.steps[vary.at].name)
    if slider == BITS:
        return edits.set_bits(recipe, value)
    if slider == TEMPERATURE:
        return edits.set_temperature(recipe, value)
    return vary.recipe_at(value) if _rest(recipe, vary) == _rest(vary.recipe, vary) else recipe


def _rest(recipe: Recipe, vary: Vary) -> dict:
    """All of a recipe but the varied field."""
    found = recipe.to_json()
    for step in found["steps"][vary.at : vary.at + 1]:
        step.pop(vary.field, None)
    return found


def look(view: View) -> Going | None:
    """Take what was measured since the last look and ask for the next position; None when no search is under way.

    At its end the slider moves to what was found, if the rest of the recipe is still what it was, and the page is drawn anew.
    """
    session = state.session()
    asked = session.get("floor")
    if asked is None:
        return None
    try:
        vary = Vary.parse(asked["vary"], Recipe.from_json(asked["recipe"]), asked["dataset"])
        most = vary.most_looks
        if session.get("phase") == "drag":  # what is dragged goes first
            return Going(asked["words"], len(asked["seen"]), most)
        at = _advance(asked, vary)
        holds, fails = vary.found(asked["seen"]) if at is None else (None, None)
    except ParetoscopeError as error:
        return _end(asked, f"The floor was not found: {error}")
    if at is not None:
        asked["words"] = f"floor: {vary.words(vary.positions[at])}"
        return Going(asked["words"], len(asked["seen"]), most)
    if holds is not None and (view.model, view.dataset) == (asked["model"], asked["dataset"]):
        found, wanted = (moved(recipe, vary, holds["value"], asked["slider"]) for recipe in (view.recipe, vary.recipe))
        if found.key() == wanted.key():
            state.change(recipe=found)
    return _end(asked, sentence(vary, asked["min_top1"], holds, fails, len(asked["seen"])))


def said(view: View) -> str:
    """What the last search found, while what it was about is on the page."""
    found = state.session().get("floor_said")
    return found["text"] if found and found["of"] == _of(view) else ""


def _advance(asked: dict, vary: Vary) -> int | None:
    """The position that is being measured; None when the answer is known. A position whose run is refused fails; raises what else ended a run."""
    while (at := vary.next_look(asked["seen"])) is not None:
        value = vary.positions[at]
        try:
            row = _row(asked, at, vary.recipe_at(value))
            if row is None or row["state"] in OPEN:
                return at
            if row["state"] != COMPLETE:
                raise error_of(row["stage"] if row["state"] == FAILED else None, row["message"] or f"The run of {vary.words(value)} was cancelled.")
            asked["seen"][at] = evaluation(value, row["metrics"], asked["min_top1"])
        except BadInput as error:
            asked["seen"][at] = refusal(value, str(error))
    return None


def _row(asked: dict, at: int, recipe: Recipe) -> dict | None:
    """The run of the position number `at`, asked for if it was not; raises what `Work.check` raises."""
    work = Work(asked["model"], asked["dataset"], recipe, latency=False)
    if asked["at"] == at:
        return services.cluster().find(work.identity())
    row = services.cluster().submit(work)
    asked["at"], asked["identity"] = at, work.identity()
    return row


def _end(asked: dict, text: str) -> None:
    """Say what came of it, under the model and data that it was asked of, and draw the page anew, where the slider may have moved."""
    session = state.session()
    session["floor"], session["phase"] = None, "rest"
    session["floor_said"] = {"text": text, "of": [asked["model"], asked["dataset"], state.view().recipe.key()]}
    st.rerun("app")


def _start(view: View, vary: Vary, slider: str) -> None:
    session = state.session()
    session["floor_said"] = None
    session["floor"] = {
        "model": view.model, "dataset": view.dataset, "recipe": vary.recipe.to_json(), "vary": vary.name, "words": "looking for a floor",
        "slider": slider, "min_top1": state.widget(f"floor-{slider}-top1"), "seen": {}, "at": None, "identity": None,
    }  # fmt: skip
    session["phase"] = "rest"
    _close(slider)


def _stop(slider: str) -> None:
    session = state.session()
    asked, session["floor"] = session.get("floor"), None
    if asked and asked["identity"]:
        services.cluster().cancel(asked["identity"])
    _close(slider)


def _close(slider: str) -> None:
    state.session()["floor_field"] = None
    if slider in (SPARSITY, BITS, TEMPERATURE):
        state.set_widget(f"floor-{slider}", False)


def _vary(recipe: Recipe, at: int, field: str, dataset: str = "") -> Vary:
    return Vary.parse(Vary(recipe, at, field).name, recipe, dataset)


def _usual(view: View, baseline: dict | None) -> float:
    """The budget that is set, else a point below the baseline."""
    return view.accuracy if view.accuracy is not None else round(baseline["top1"] - 1, 1) if baseline else 90.0


def _of(view: View) -> list[str]:
    return [view.model, view.dataset, view.recipe.key()]
