"""What stands in the explorer's place while something is missing: a dataset to fetch, or a checkpoint to train."""

from __future__ import annotations

import streamlit as st

from core import charts
from core.errors import NotHere, ParetoscopeError
from core.store import OPEN
from pages.ui import acts, services, state, words
from pages.ui.chart import THEME, chart
from pages.ui.follow import LATER
from pages.ui.link import View
from pages.ui.status import BUSY, IDLE, status


def dataset(absent: NotHere) -> None:
    """The reason, and the one action that gets it."""
    st.info(str(absent), icon=":material/database_off:")


@st.fragment(key=acts.LIVE)
def checkpoint(view: View, absent: NotHere) -> None:
    """Offers to train the pair: how long it takes, the live learning curve, and a way to stop."""
    session = state.session()
    try:
        row = _training(view)
    except ParetoscopeError as error:
        st.error(str(error))
        return
    running = row is not None and row["state"] in OPEN
    with st.container(key="training", border=True):
        st.markdown(f"**{view.model} has no trained weights for this dataset yet.** It can be trained here, from torchvision's plain architecture.")
        if running:
            left = row.get("seconds_left")
            st.progress(min(1.0, row["fraction"]), text=f"Training{f', {words.duration(left)} left' if left else ''}")
            st.button("Cancel", key="cancel", icon=":material/stop_circle:", on_click=_cancel, args=(row["identity"],))
        else:
            st.button(
                f"Train, {words.duration(seconds(view))}", key="train", type="primary", icon=":material/play_arrow:",
                on_click=_start, args=(view,),
            )  # fmt: skip
            if row is not None and row.get("message"):
                st.caption(row["message"])
        if row is not None and row.get("curve"):
            chart(charts.curve(row["curve"], THEME), key="curve-chart", height="340px", label="Learning curve", name="learning-curve")
    with st.sidebar:
        status("training" if running else "idle", BUSY if running else IDLE, again=LATER if running else None)
    if row is not None and row["state"] == "COMPLETE" and session.get("trained") != row["identity"]:
        session["trained"] = row["identity"]
        st.rerun("app")


def seconds(view: View) -> float:
    """A careful guess at how long training takes: the project's own epochs on this dataset, by the model's arithmetic."""
    from core import checkpoints, zoo
    from core.datasets import load
    from pages.ui.known import seconds_a_picture

    data = load(view.dataset)
    pictures = len(data.split("train")) + len(data.split("calibration"))
    epochs, _ = checkpoints.settings(view.model, pictures)
    return epochs * pictures * seconds_a_picture([], zoo.models()[view.model].get("macs"))


def _training(view: View) -> dict | None:
    """The newest training of this pair, if there was one."""
    rows = services.store().rows(view.model, view.dataset, kind="training")
    promised = state.session().get("promised") or {}
    if promised.get("kind") == "training" and promised["model"] == view.model and promised["identity"] not in {row["identity"] for row in rows}:
        return promised  # the store does not have it yet
    return max(rows, key=lambda row: row["updated"]) if rows else None


def _start(view: View) -> None:
    state.session()["promised"] = services.cluster().train(view.model, view.dataset)
    st.rerun(acts.LIVE)


def _cancel(identity: str) -> None:
    services.cluster().cancel(identity)
    st.rerun(acts.LIVE)
