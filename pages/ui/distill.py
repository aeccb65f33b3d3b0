"""The page "Distill": the controls, the teacher's answers, both learning curves, and the accuracy over the temperature.

One fragment, so that one run of it answers a control. The model of the view is the teacher.
"""

from __future__ import annotations

import functools

import streamlit as st

from core import zoo
from core.datasets import DATASETS
from core.errors import ParetoscopeError
from core.lessons import answers, students
from core.lessons import charts as distill_charts
from core.lessons.students import SEEDS, Curve, Lesson
from core.store import COMPLETE, OPEN
from core.studies.known import Known
from core.studies.points import count_words
from core.work import Work
from pages.ui import choices, fields, lesson, link, services, state, taught_words, words
from pages.ui.chart import THEME, chart
from pages.ui.follow import LATER, SELDOM
from pages.ui.frame import guard
from pages.ui.lesson import Runs
from pages.ui.link import View
from pages.ui.pulse import pulse
from pages.ui.slider import RELEASE, slider
from pages.ui.softened import softened

FRAGMENT = "distill"
PREFIX = "distill-"  # of this page's sliders
TRAINING = ("alpha", "epochs", "images", "learning_rate")
T_SQUARED = (
    " The gradients of softened answers shrink by 1/T²; the loss multiplies them by T², so that the teacher weighs as much at every "
    "temperature (Hinton et al. 2015)."
)


@st.fragment(key=FRAGMENT)
@guard()
def distill() -> None:
    view = state.view()
    chosen = view.lesson
    asked = chosen.lesson(view.model, view.dataset)
    left, right = st.columns([27, 73], gap="medium")
    with left, st.container(key="lesson", gap="small"):
        _controls(view)
    known = services.shelf().known(view.model, view.dataset)
    try:
        pair = {"taught": asked.taught(chosen.temperature, chosen.seed), "alone": asked.alone(chosen.seed)}
        for work in pair.values():
            work.check()
        works, tests = asked.works(), asked.works("test")
        runs = Runs([*pair.values(), *works, *tests])
    except ParetoscopeError as error:  # a student that cannot be; another can be chosen at the left
        with right:
            st.error(str(error), icon=":material/error:")
        _pulse([], runs=None)
        state.publish()
        return
    rows = {side: runs.row(work) for side, work in pair.items()}
    with left, st.container(key="pair", gap="small"):
        _pair(view, asked, pair, runs, known)
    with right:
        at_left, at_right = st.columns([46, 54], gap="medium")
        with at_left:
            waits = _answers(view)
        with at_right:
            _curves(rows, chosen)
        _over_temperature(asked, works, pair, chosen, runs, known)
    _pulse(runs.open(dict.fromkeys([*pair.values(), *works, *tests])), runs, waits)
    state.publish()


def _choose(**changes) -> None:
    state.change(lesson=state.view().lesson.replace(**changes))
    state.session()["refused"] = ""
    state.drop_messages()


def _moved(name: str, value, phase: str) -> None:
    """Only where a slider comes to rest; the teacher's answers follow it in the browser."""
    if phase == RELEASE:
        _choose(**{name: choices.field(name).type(value)})


def _controls(view: View) -> None:
    chosen = view.lesson
    size = zoo.checkpoint(view.model, view.dataset).input_size
    names = sorted((name for name, facts in zoo.models().items() if facts["smallest_input"] <= size), key=lambda name: zoo.models()[name]["parameters"])
    key = state.mirror("student", chosen.student)
    st.selectbox(
        "Student", names if chosen.student in names else [chosen.student, *names], key=key, format_func=_student_words,
        on_change=state.told(key, _new_student), help="A fresh network with torchvision's own initialisation. The smallest models come first.",
    )  # fmt: skip
    prunable = zoo.models()[chosen.student].get("channel_prunable", True)
    _slider("Width", "width", chosen.width, percent=True, disabled=prunable is not True, note="" if prunable is True else f"Full width only: {prunable}.")
    _slider("Temperature", "temperature", chosen.temperature, help=choices.field("temperature").help + T_SQUARED)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        seed = state.mirror("student-seed", chosen.seed)
        st.segmented_control(
            "Seed", SEEDS, key=seed, required=True, on_change=state.told(seed, lambda chosen: _choose(seed=chosen)),
            help="Decides the first weights and the order of the pictures, with a teacher and alone alike.",
        )  # fmt: skip
        opened = st.popover("Training", key="training-fields", icon=":material/tune:", on_change="rerun", help="What both trainings have in common.")
        if opened.open:
            with opened, st.container(width=280):
                for name in TRAINING:
                    fields.one(choices.field(name), getattr(chosen, name), f"{PREFIX}{name}", functools.partial(_moved, name))
                st.caption("Without a teacher the same pictures, passes and rates are used; alpha then has no meaning.")


def _slider(label: str, name: str, value: float, *, percent: bool = False, help: str = "", note: str = "", disabled: bool = False) -> None:
    spec = choices.field(name)
    slider(
        label, value, key=f"{PREFIX}{name}", low=spec.low, high=spec.high, step=spec.step, percent=percent, help=help or spec.help, note=note,
        disabled=disabled, on_move=functools.partial(_moved, name),
    )  # fmt: skip


def _student_words(name: str) -> str:
    return f"{name} · {count_words(zoo.models()[name]['parameters'])} parameters"


def _new_student(name: str) -> None:
    narrow = zoo.models()[name].get("channel_prunable", True) is True
    _choose(student=name, **({} if narrow else {"width": 1.0}))


def _pair(view: View, asked: Lesson, pair: dict[str, Work], runs: Runs, known: Known) -> None:
    """The two runs at hand: what they came to, or what can be done about it."""
    rows = {side: runs.row(work) for side, work in pair.items()}
    works = list(dict.fromkeys(pair.values()))
    st.html(taught_words.pair(rows, services.shelf().difference(*_as_points(pair)) if _complete(rows) else None, known.baseline))
    for side, row in rows.items():
        if row and row["state"] in OPEN:
            st.progress(min(1.0, row["fraction"]), text=taught_words.progress(side, row))
    missing, under_way = runs.missing(works), runs.open(works)
    if under_way:
        st.button("Cancel", key="cancel-pair", icon=":material/stop_circle:", width="stretch", on_click=lesson.cancel, args=(under_way,))
    elif missing:
        label = "Train both" if len(missing) == 2 else "Train with the teacher" if pair["taught"] in missing else "Train alone"
        st.button(
            f"{label}, {words.duration(lesson.seconds(asked, missing, known))}", key="train-pair", type="primary", width="stretch",
            icon=":material/play_arrow:", on_click=lesson.submit, args=(missing, True),
        )  # fmt: skip
    refused = state.session().get("refused")
    if refused:
        st.error(refused)
    st.page_link(
        "dashboard.py", label="Open this student in the explorer", icon=":material/scatter_plot:",
        query_params=link.encode(view.replace(recipe=pair["taught"].recipe, pins=())),
    )  # fmt: skip


def _complete(rows: dict) -> bool:
    return all(row and row["state"] == COMPLETE for row in rows.values())


def _as_points(pair: dict[str, Work]) -> list[dict]:
    return [{"identity": work.identity(), "dataset": work.dataset, "split": work.split} for work in (pair["taught"], pair["alone"])]


def _answers(view: View) -> bool:
    """The bars; whether they are still waited for."""
    st.html(f'<div class="label">What {view.model} answers, softened</div>')
    told, problem = lesson.teacher_answers(view.model, view.dataset)
    if told is None:
        st.caption(problem or "The teacher is being asked about a few pictures.")
        return not problem
    found = answers.several(told)
    softened(
        found, DATASETS.get(view.dataset).classes, at=min(view.lesson.picture, len(found) - 1), temperature=view.lesson.temperature,
        slider=f"{PREFIX}temperature", prefix=PREFIX, key="answers", on_choose=lambda number: _choose(picture=number),
    )  # fmt: skip
    return False


def _curves(rows: dict, chosen: choices.Choices) -> None:
    st.html(
        f'<div class="label">Learning curves <span class="quiet">temperature {chosen.temperature:g}, seed {chosen.seed}; '
        "up to 500 pictures after an epoch, all at the end</span></div>"
    )
    points = {side: (row or {}).get("curve") or [] for side, row in rows.items()}
    ends = {side: row["metrics"] for side, row in rows.items() if row and row["state"] == COMPLETE}
    chart(
        distill_charts.learning(points["taught"], points["alone"], chosen.epochs, ends, THEME), key="curves", height="16.5rem",
        label="Validation accuracy after each epoch, with the teacher and alone", name="learning-curves",
    )  # fmt: skip


def _over_temperature(asked: Lesson, works: list[Work], pair: dict[str, Work], chosen: choices.Choices, runs: Runs, known: Known) -> None:
    temperatures = (*students.TEMPERATURES, chosen.temperature)
    curve = Curve.of(asked, runs.top1, temperatures=temperatures)
    missing, under_way = runs.missing(works), runs.open(works)
    confirmed = lesson.confirming(asked, curve) if not missing and not under_way else []
    unconfirmed, confirming = runs.missing(confirmed), runs.open(confirmed)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="curve-head"):
        st.html(
            '<div class="label">Accuracy over the temperature <span class="quiet">bars and band: from the lowest to the highest of three seeds</span></div>'
        )
        st.space("stretch")
        measuring = under_way if not missing or not {*under_way} <= {*pair.values()} else []  # the pair alone is shown, and cancelled, at the left
        if measuring or confirming:
            st.html(f'<span class="quiet">{len(works) - len(missing) - len(under_way)} of {len(works)} measured</span>', width="content")
            st.button("Cancel", key="cancel-curve", icon=":material/stop_circle:", on_click=lesson.cancel, args=(measuring + confirming,))
        elif missing:
            label = f"Measure this curve: {len(missing)} runs, {words.duration(lesson.seconds(asked, missing, known))}"
            st.button(label, key="measure-curve", icon=":material/stacked_line_chart:", on_click=lesson.submit, args=(missing,))
        elif unconfirmed:
            label = f"Confirm on the test split, {words.duration(lesson.seconds(asked, unconfirmed, known))}"
            st.button(label, key="confirm-curve", icon=":material/verified:", on_click=lesson.submit, args=(unconfirmed,))
    chart(
        distill_charts.over_temperature(curve, chosen.temperature, THEME), key="temperatures", height="max(15rem, calc(100dvh - 36.5rem))", name="temperatures",
        label="Accuracy over the temperature, three seeds, beside the student alone", on_pick=_pick,
    )  # fmt: skip
    test = Curve.of(asked, runs.top1, "test", temperatures) if not missing else None
    st.html(f'<div class="sentence">{taught_words.curve(curve, test, asked)}</div>')


def _pick(id: str) -> None:
    """A point of the curve was clicked: look at that run."""
    temperature, _, seed = id.partition("/")
    if temperature != "alone":
        _choose(temperature=float(temperature), **({"seed": int(seed)} if seed else {}))


def _pulse(under_way: list[Work], runs: Runs | None, waits: bool = False) -> None:
    doing, fraction = "asking the teacher" if waits else "", None
    if under_way:
        doing = f"training {len(under_way)} student{'s' if len(under_way) > 1 else ''}"
        fraction = sum(runs.row(work)["fraction"] for work in under_way) / len(under_way)
    pulse(doing, LATER, fraction=fraction, others=True, seldom=SELDOM)
