"""Doing a paper again from the page Papers: its rows as runs of this machine, computed by the cluster like any other.

What a row needs and is not here (pictures, a checkpoint) is said in the sentence that names the command; the paper's own command
trains what is missing.
"""

from __future__ import annotations

import streamlit as st

from core.errors import ParetoscopeError
from core.papers.classics import Paper
from core.papers.reproduced import work
from core.store import FAILED
from core.work import MEASURED_SPLITS, Work
from pages.ui import follow, lesson, services, state, words
from pages.ui.lesson import Runs
from pages.ui.pulse import pulse

AGAIN = 2.0  # seconds between two looks at a page of many charts


def again(paper: Paper) -> None:
    """The button that has every row measured here; while that is under way how far it is, and a way to stop it."""
    dataset = paper.dataset()
    works = [work(row, dataset, split) for row in paper.rows for split in MEASURED_SPLITS]
    try:
        for each in works:
            each.check()
    except ParetoscopeError as error:
        st.caption(str(error))
        return
    runs = Runs(works)
    missing, under_way = runs.missing(works), runs.open(works)
    if under_way:
        done = len(works) - len(missing) - len(under_way)
        fraction = (done + sum(runs.row(each)["fraction"] for each in under_way)) / len(works)
        st.progress(min(1.0, fraction), text=f"{done} of {len(works)} runs measured")
        st.button("Cancel", key=f"cancel-{paper.name}", icon=":material/stop_circle:", on_click=lesson.cancel, args=(under_way,))
    elif missing:
        label = f"Measure here: {len(missing)} runs, {words.duration(_seconds(missing))}"
        st.button(label, key=f"run-{paper.name}", icon=":material/play_arrow:", on_click=lesson.submit, args=(missing,))
        _say_failures(runs, missing)
    else:
        st.caption("All of it is measured on this machine.")


def _seconds(missing: list[Work]) -> float:
    """A careful guess: what was trained for one split is kept for the other."""
    trained = {(each.model, each.recipe.key()): each for each in missing}.values()
    training = (follow.estimate_recipe(each.recipe, services.shelf().known(each.model, each.dataset)) for each in trained)
    return lesson.SECONDS_A_RUN * len(missing) + sum(training)


def _say_failures(runs: Runs, missing: list[Work]) -> None:
    said = [row["message"] for each in missing if (row := runs.row(each)) and row["state"] == FAILED]
    for sentence in dict.fromkeys(filter(None, [*said, state.session().get("refused")])):
        st.error(sentence)


def follow_along() -> None:
    """One line in the sidebar, and the pulse that draws the page anew while the cluster computes."""
    pulse("", AGAIN, others=True, seldom=AGAIN)
