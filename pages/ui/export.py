"""The page "Export", in one fragment: which run, and every format with its figures, or the way to them.

A file is offered once it was made, read back in its runtime and run over the validation split; the cluster does so and keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import streamlit as st

from core.errors import ParetoscopeError
from core.exports import FORMATS, Export, Format, Record
from core.exports.export import WANTS_INT8, refusal
from core.recipe import Recipe, step_from_json
from core.store import CANCELLED, COMPLETE, FAILED, OPEN
from core.studies.known import Known
from core.studies.points import bytes_words, words
from pages.ui import edits, follow, refusals, services, state
from pages.ui import words as said
from pages.ui.frame import guard
from pages.ui.link import View
from pages.ui.pulse import pulse

FRAGMENT = "export"
AGAIN = 0.5  # seconds between two looks at what is under way
COLUMNS = (30, 46, 24)
STAGES = {"compress": "making the model again", "train": "training it again", "write": "writing the file", "verify": "running the file"}


@st.fragment(key=FRAGMENT)
@guard()
def export() -> None:
    view = state.view()
    known = services.shelf().known(view.model, view.dataset)
    run = _measured(view, known)
    with st.container(key="export-run", horizontal=True, vertical_alignment="bottom", gap="small"):
        _choose(view, known, run)
    refusals.say(icon=":material/error:")
    open_rows = [row for row in ([_unmeasured(view, known)] if run is None else _formats(view, run)) if row is not None and row["state"] in OPEN]
    _pulse(open_rows)
    state.publish()


def _measured(view: View, known: Known) -> Mapping | None:
    """The complete run of the recipe at hand."""
    return next((row for row in _runs(known) if row["key"] == view.recipe.key()), None)


def _runs(known: Known) -> list[dict]:
    """The baseline first, which is a run of no steps."""
    return [*([known.baseline] if known.baseline else []), *known.rows, *known.apart]


def _choose(view: View, known: Known, run: Mapping | None) -> None:
    rows = {row["key"]: row for row in _runs(known)}
    here = view.recipe.key()
    state.set_widget("export-run-key", here)
    st.selectbox(
        "Run", [*([here] if run is None else []), *rows], key="export-run-key", width=560,
        format_func=lambda key: _run_words(rows[key]) if key in rows else f"{words(view.recipe)} (not measured yet)",
        on_change=lambda: state.change(recipe=Recipe.from_json(rows[state.widget("export-run-key")]["recipe"])),
        help="Any measured run of this model on this data; the explorer goes on with the one that is chosen here.",
    )  # fmt: skip
    if run is not None:
        st.html(f'<div class="export-said">{escape(_figures(run))}</div>')


def _run_words(row: Mapping) -> str:
    return f"{row['words']} · {row['top1']:.2f} % · {bytes_words(row['artifact_bytes'])}"


def _figures(run: Mapping) -> str:
    told = run["provenance"].get("top1", "measured")
    return (
        f"In the engine {run['top1']:.2f} % ({run['top1_low']:.2f}…{run['top1_high']:.2f}), {told}, {run.get('split') or 'validation'}, n = {run['images']:,}."
    )


def _unmeasured(view: View, known: Known) -> dict | None:
    """A recipe that was not measured: a button that has it done, and how far it is."""
    work = view.work()
    row = services.cluster().find(work.identity())
    st.info("Only measured runs can be exported: what a file gives is held against what the engine measured.", icon=":material/science:")
    if row is not None and row["state"] in OPEN:
        st.progress(min(1.0, row["fraction"]), text="Measuring this recipe")
        st.button("Cancel", key="cancel", icon=":material/stop_circle:", on_click=_cancel, args=(row["identity"],))
        return row
    seconds = follow.estimate_recipe(view.recipe, known)
    label = "Measure it" + (f", {said.duration(seconds)}" if seconds > follow.SHORT_TRAINING else "")
    st.button(label, key="measure", type="primary", icon=":material/play_arrow:", on_click=_asked, args=(lambda: services.cluster().submit(work),))
    if row is not None and row["state"] in (FAILED, CANCELLED) and row["message"]:
        st.caption(row["message"])
    return row


def _formats(view: View, run: Mapping) -> list[dict | None]:
    """A line a format; the rows of what is being made."""
    found = []
    for name, format in FORMATS.items():
        with st.container(key=f"format-{name}", border=True):
            about, figures, act = st.columns(COLUMNS, vertical_alignment="center", gap="small")
            about.html(f'<div class="export-title">{escape(format.title)}</div><div class="quiet export-small">{escape(format.about)}</div>')
            found.append(_format(view, Export(view.work(), name), format, figures, act))
    return found


def _format(view: View, asked: Export, format: Format, figures, act) -> dict | None:
    absent, refused = format.missing(), refusal(format, view.recipe)
    if absent or refused:
        figures.html(f'<div class="export-small">{escape(str(absent or refused).replace(format.name, format.title, 1))}</div>')
        if not absent:
            act.button("Append int8", key=f"append-{format.name}", icon=":material/add:", on_click=_append_int8, help="As a new run, which is measured first.")
        return None
    record = services.exported(asked)
    if record is not None:
        figures.html(_measured_words(record))
        act.download_button(
            f"Download, {bytes_words(record.bytes)}", lambda: _bundle(asked), f"{asked.file_name()}.zip", "application/zip", key=f"download-{format.name}",
            icon=":material/download:", on_click="ignore",
            help=f"The file, its preprocessing and class names, a model card, and scripts that run and check it {_alone(format)}.",
        )  # fmt: skip
        return None
    row = services.cluster().find(asked.identity())
    if row is not None and row["state"] in OPEN:
        figures.progress(min(1.0, row["fraction"]), text=STAGES.get(row["stage"], "waiting"))
        act.button("Cancel", key=f"cancel-{format.name}", icon=":material/stop_circle:", on_click=_cancel, args=(row["identity"],))
        return row
    if row is not None and row["state"] in (FAILED, CANCELLED) and row["message"]:
        figures.html(f'<div class="export-small {"wrong" if row["state"] == FAILED else ""}">{escape(row["message"])}</div>')
    elif row is not None and row["state"] == COMPLETE and state.session().get(f"made {asked.identity()}"):
        figures.html('<div class="export-small">The file is not kept any more; make it again.</div>')
    act.button("Make and measure", key=f"make-{format.name}", icon=":material/build:", on_click=_make, args=(asked,))
    return row


def _measured_words(record: Record) -> str:
    """What was measured of the very file, and where."""
    return (
        f"<div><b>{record.top1:.2f} %</b> ({record.top1_low:.2f}…{record.top1_high:.2f}) · <b>{100 * record.agreement:.2f} %</b> the engine’s labels · "
        f'<b>{bytes_words(record.bytes)}</b></div><div class="quiet export-small">measured on {record.split}, n = {record.images:,}, in '
        f"{escape(record.runtime)} on this machine, {record.date[:10]}</div>"
    )


def _alone(format: Format) -> str:
    return "with Paretoscope’s own reader" if format.runtime == "Paretoscope" else "without Paretoscope"


def _bundle(asked: Export) -> bytes:
    """Called by the browser's click, from another thread."""
    made = asked.found()
    if made is None:
        raise ParetoscopeError("The file is not kept any more; make it again.")
    return made.packed(asked.file_name())


def _make(asked: Export) -> None:
    state.session()[f"made {asked.identity()}"] = True
    _asked(lambda: services.cluster().export(asked))


def _append_int8() -> None:
    """The recipe with 8-bit grids on weights and activations at its end, as the view's recipe; it is measured when somebody asks for it."""
    recipe = state.view().recipe
    _asked(lambda: state.change(recipe=edits.steps_of(recipe, [*recipe.steps, step_from_json(WANTS_INT8)])))


def _asked(act) -> None:
    """A refusal becomes a sentence on the page."""
    with refusals.kept():
        act()


def _cancel(identity: str) -> None:
    services.cluster().cancel(identity)


def _pulse(under_way: list[Mapping]) -> None:
    fraction = sum(row["fraction"] for row in under_way) / max(1, len(under_way))
    doing = f"making {len(under_way)} file{'s' if len(under_way) > 1 else ''}" if under_way else ""
    pulse(doing, AGAIN, fraction=fraction, others=True)
