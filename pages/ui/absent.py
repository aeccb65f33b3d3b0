"""What stands in the explorer's place while something is missing: a dataset to fetch, or a checkpoint to train."""

from __future__ import annotations

import streamlit as st

from core import charts, zoo
from core.datasets import DATASETS
from core.errors import NotHere, ParetoscopeError
from core.store import OPEN
from pages.ui import acts, refusals, services, state, words
from pages.ui.chart import THEME, chart
from pages.ui.follow import LATER
from pages.ui.link import View
from pages.ui.status import BUSY, IDLE, status

LARGER = (64, 96, 128, 224)  # sides of pictures, in pixels


def anything(view: View) -> bool:
    """Whether the view's dataset or checkpoint is missing; then that stands here, and a page has nothing more to draw."""
    missing = DATASETS.get(view.dataset).missing()
    if missing:
        state.publish()
        dataset(view.dataset, missing)
        return True
    try:
        zoo.checkpoint(view.model, view.dataset)
    except NotHere as error:
        state.publish()
        checkpoint(view, error)
        return True
    return False


@st.fragment(key=acts.LIVE)
def dataset(name: str, absent: NotHere) -> None:
    """The reason, and the one action that gets it; where it can be downloaded, a button does the same."""
    refusals.say()
    st.info(str(absent), icon=":material/database_off:")
    if DATASETS.get(name).fetch is None:
        return
    try:
        row = _newest("fetch", "", name)
    except ParetoscopeError as error:
        st.error(str(error))
        return
    running = row is not None and row["state"] in OPEN
    if running:
        st.button("Cancel", key="cancel", icon=":material/stop_circle:", on_click=_cancel, args=(row["identity"],))
    else:
        st.button("Download it", key="fetch", icon=":material/download:", on_click=_ask, args=(lambda cluster: cluster.fetch(name),))
    if row is not None and row["state"] == "FAILED":
        st.error(row["message"])
    _pulse(running, "downloading")
    _leave_when_done(row)


@st.fragment(key=acts.LIVE)
def checkpoint(view: View, absent: NotHere) -> None:
    """Offers to train the pair: how long it takes, the live learning curve, and a way to stop."""
    try:
        row = _newest("training", view.model, view.dataset)
    except ParetoscopeError as error:
        st.error(str(error))
        return
    running = row is not None and row["state"] in OPEN
    refusals.say()
    with st.container(key="training", border=True):
        st.markdown(f"**{view.model} has no trained weights for this dataset yet.** It can be trained here, from torchvision's plain architecture.")
        if running:
            left = row.get("seconds_left")
            st.progress(min(1.0, row["fraction"]), text=f"Training{f', {words.duration(left)} left' if left else ''}")
            st.button("Cancel", key="cancel", icon=":material/stop_circle:", on_click=_cancel, args=(row["identity"],))
        else:
            _train(view)
            if row is not None and row.get("message"):
                st.caption(row["message"])
        if row is not None and row.get("curve"):
            chart(charts.curve(row["curve"], THEME), key="curve-chart", height="340px", label="Learning curve", name="learning-curve")
    _pulse(running, "training")
    _leave_when_done(row)


def _train(view: View) -> None:
    """The size of its pictures, and the button."""
    sizes = input_sizes(view)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        size = sizes[0]
        if len(sizes) > 1:
            size = st.selectbox(
                "Input size", sizes, key="input-size", format_func=lambda side: f"{side} × {side}", width=160,
                help="Pictures are brought to this size. In larger ones a model sees more, and everything takes longer: four times as long at twice the side.",
            )  # fmt: skip
        larger = {} if size == sizes[0] else {"size": size}
        st.button(
            f"Train, {words.duration(seconds(view, size))}", key="train", type="primary", icon=":material/play_arrow:",
            on_click=_ask, args=(lambda cluster: cluster.train(view.model, view.dataset, **larger),),
        )  # fmt: skip


def input_sizes(view: View) -> list[int]:
    """The dataset's own size, or the next that the model reads, and larger ones."""
    own = DATASETS.get(view.dataset).input_size
    return sorted({zoo.input_size(view.model, max(own, side)) for side in (own, *LARGER)})


def _pulse(running: bool, doing: str) -> None:
    with st.sidebar:
        status(doing if running else "idle", BUSY if running else IDLE, again=LATER if running else None)


def _leave_when_done(row: dict | None) -> None:
    """What was missing is here now: draw the whole page anew, once."""
    session = state.session()
    if row is not None and row["state"] == "COMPLETE" and session.get("arrived") != row["updated"]:
        session["arrived"] = row["updated"]
        st.rerun("app")


def seconds(view: View, size: int) -> float:
    """A careful guess at how long training on pictures of `size` × `size` takes: the project's own epochs on this dataset, by the model's arithmetic."""
    from core.datasets import load
    from core.models import checkpoints
    from core.studies.known import seconds_a_picture

    data = load(view.dataset)
    pictures = len(data.split("train")) + len(data.split("calibration"))
    epochs, *_ = checkpoints.settings(view.model, pictures)
    facts = zoo.models()[view.model]
    macs = (facts.get("macs") or 0) * (size / facts["smallest_input"]) ** 2 or None
    return epochs * pictures * seconds_a_picture([], macs)


def _newest(kind: str, model: str, dataset: str) -> dict | None:
    """The newest job of that kind, or the one that was just asked for and is not in the store yet."""
    rows = services.store().rows(model, dataset, kind=kind)
    promised = state.session().get("job") or {}
    if (promised.get("kind"), promised.get("dataset")) == (kind, dataset) and promised["identity"] not in {row["identity"] for row in rows}:
        return promised
    return max(rows, key=lambda row: row["updated"], default=None)


def _ask(job) -> None:
    with refusals.kept():
        state.session()["job"] = job(services.cluster())


def _cancel(identity: str) -> None:
    services.cluster().cancel(identity)
