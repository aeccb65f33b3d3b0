"""The dialog "Use my own": a checkpoint and pictures of one's own, imported by the cluster, with the accuracy that it measures in the end.

Says what `python -m core import` says, and never reads anything but safetensors and pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import streamlit as st

from core import zoo
from core.datasets.brought import name_of
from core.datasets.folder import EXPECTED
from core.datasets.preparation import Preparation
from core.errors import BadField, BadInput, ParetoscopeError
from core.models.importing import CONVERT, QUESTION, Import, class_names, upload
from core.store import COMPLETE, FAILED, OPEN
from pages.ui import services, state
from pages.ui.follow import LATER
from pages.ui.link import View
from pages.ui.status import BUSY, status

FOLDER, ARCHIVE = "A folder on this machine", "A zip"
LARGEST_UPLOAD = 1_000  # megabytes
SPLITS = ("validation", "test")
STAGES = {"import": "reading pictures", "evaluate": "measuring the accuracy"}


def button() -> None:
    st.button(
        "Use my own", key="own", icon=":material/add:", on_click=_open, help="Bring a checkpoint and pictures of your own; both stay on this machine."
    )  # fmt: skip


def dialog_if_open(view: View) -> None:
    if _own().get("open"):
        _dialog(view)


def _own() -> dict:
    """What this session knows of its imports: whether the dialog is open, the row of the one at hand, and what was refused."""
    return state.session().setdefault("own", {})


def _open() -> None:
    """Anew, or where an import is that goes on."""
    row = _row(_own())
    state.session()["own"] = {"open": True} | ({"row": row} if row is not None and row["state"] in OPEN else {})


def _close() -> None:
    _own()["open"] = False
    state.dialog_closed()


@st.dialog("Use my own", width="large", on_dismiss=_close)
def _dialog(view: View) -> None:
    state.dialog_opened()
    own = _own()
    if not own.get("open"):
        st.rerun("app")
    row = _row(own)
    if row is not None and row["state"] in OPEN:
        _under_way(own, row)
    elif row is not None and row["state"] == COMPLETE:
        _done(row["metrics"])
    else:
        failed = row is not None and row["state"] == FAILED
        _ask(view, own, (row["message"] or "The import ended early.") if failed else "", (row["metrics"] or {}).get("names", ()) if failed else ())


def _row(own: Mapping) -> dict | None:
    """The import's row as the store has it, or as it was promised."""
    promised = own.get("row")
    return (services.cluster().find(promised["identity"]) or promised) if promised else None


def _ask(view: View, own: dict, failed: str, listed: Sequence[str]) -> None:
    """Everything that an import takes; `failed` is why the last one did not, and `listed` all of what that sentence names the first of."""
    left, right = st.columns(2, gap="medium")
    with left:
        names = list(zoo.models())
        st.selectbox("Model", names, index=names.index(view.model), key="own-model", help="The torchvision architecture that the weights are of.")
        st.file_uploader("Checkpoint, as safetensors", ["safetensors"], key="own-weights", max_upload_size=LARGEST_UPLOAD)
        st.caption(f"A .pth file may hold anything, so it is not read here. Its owner converts it on the command line: `{CONVERT}`")
    with right:
        kind = st.segmented_control("Pictures", [FOLDER, ARCHIVE], default=FOLDER, required=True, key="own-kind")
        if kind == ARCHIVE:
            st.file_uploader("Zip of class folders", ["zip"], key="own-zip", max_upload_size=LARGEST_UPLOAD)
        else:
            st.text_input("Folder", key="own-folder", placeholder="/home/me/flowers")
        st.caption("One folder of pictures for each class, or such folders in train, val and test.")
        st.text_input("Name it", key="own-name", placeholder="the folder's name", help="Small letters, digits, - and _.")
    with st.expander("Classes and preparation"):
        _preparation()
    for sentence in dict.fromkeys(filter(None, (failed, own.get("refused")))):
        st.error(sentence)
    if listed:
        with st.expander(f"All {len(listed)} of them"):
            st.code("\n".join(listed), language=None)
    st.button("Import", key="own-import", type="primary", icon=":material/play_arrow:", on_click=_submit, args=(own,))


def _preparation() -> None:
    usual = Preparation()
    left, right = st.columns(2, gap="medium")
    with left:
        st.text_area("Class folders in the order of the model's outputs", key="own-classes", height=122, placeholder="one a line; empty: sorted by name")
    with right, st.container(horizontal=True):
        st.number_input("Crop", 8, 512, usual.crop, key="own-crop", help="The square that the model reads, in pixels.")
        st.number_input("Resize", 8, 2048, None, key="own-resize", placeholder="usual", help="The shorter side before: 256 for a crop of 224, else the crop.")
    with right, st.container(horizontal=True):
        st.text_input("Mean", ", ".join(map(str, usual.mean)), key="own-mean")
        st.text_input("Standard deviation", ", ".join(map(str, usual.std)), key="own-std")
    st.checkbox("A mirrored picture still belongs to its class", True, key="own-flip")
    st.checkbox("Leave out pictures that cannot be read", False, key="own-skip")


def _submit(own: dict) -> None:
    own.pop("row", None)
    own["refused"] = ""
    try:
        own["row"] = services.cluster().bring(_asked())
    except ParetoscopeError as error:
        own["refused"] = str(error)


def _asked() -> Import:
    """What the widgets hold at this moment."""
    zipped = state.widget("own-kind") == ARCHIVE
    weights, data = state.widget("own-weights"), state.widget("own-zip") if zipped else (state.widget("own-folder") or "").strip()
    if weights is None:
        raise BadInput("There is no checkpoint yet; it takes a safetensors file.")
    if not data:
        raise BadInput(f"There are no pictures yet; {EXPECTED}.")
    preparation = Preparation(
        _colours("mean", state.widget("own-mean")), _colours("std", state.widget("own-std")), state.widget("own-resize"), state.widget("own-crop")
    )  # fmt: skip
    listed, name = state.widget("own-classes").strip(), state.widget("own-name").strip()
    place = str(upload(data.name, data.getbuffer()) if zipped else Path(data).expanduser().absolute())  # workers stand in a folder of their own
    return Import(
        state.widget("own-model"), str(upload(weights.name, weights.getbuffer())), place, class_names(listed.encode()) if listed else None, preparation,
        name or name_of(PurePath(data.name if zipped else place)), state.widget("own-flip"), state.widget("own-skip"),
    )  # fmt: skip


def _colours(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise BadField(name, text, "one number for all colours, or three with commas, as in 0.485, 0.456, 0.406") from None


def _under_way(own: dict, row: Mapping) -> None:
    st.markdown(f"**{row['model']}** on **{row['dataset']}**")
    status(STAGES.get(row.get("stage"), "waiting"), BUSY, fraction=row["fraction"], again=LATER, key="own-status")
    st.button("Cancel", key="own-cancel", icon=":material/stop_circle:", on_click=_cancel, args=(own, row["identity"]))


def _cancel(own: dict, identity: str) -> None:
    services.cluster().cancel(identity)
    own.pop("row", None)


def _done(card: Mapping) -> None:
    """What was measured, and the question that only its owner can answer."""
    counts = ", ".join(f"{count:,} {split}" for split, count in card["pictures"].items())
    st.markdown(f"**{card['model']}** on **{card['dataset']}**: {card['classes']} classes; {counts} pictures.")
    for split in SPLITS:
        if card[split]:
            found = card[split]
            interval = f"95 %: {found['top1_low']:.2f} … {found['top1_high']:.2f}, n = {found['images']:,}"
            st.metric(f"Top-1, {split}, measured", f"{found['top1']:.2f} %", interval, delta_color="off", delta_arrow="off")
    st.markdown(QUESTION)
    for sentence in card["imported"]["notes"]:
        st.caption(sentence)
    for title, names in (("Tensors that were not used", card["imported"]["unmatched"]), ("Pictures that were left out", card["unreadable"])):
        if names:
            with st.expander(f"{title}: {len(names)}"):
                st.code("\n".join(names), language=None)
    with st.container(horizontal=True):
        st.button("Yes, compress it", key="own-use", type="primary", on_click=_use, args=(card["model"], card["dataset"]))
        st.button("No, change something", key="own-again", on_click=_open)


def _use(model: str, dataset: str) -> None:
    _close()
    state.change(model=model, dataset=dataset, pins=())
    state.session()["phase"] = "rest"
    state.drop_messages()
