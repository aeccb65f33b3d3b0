"""What is known of a lesson: its runs by identity, from the store and from what is shipped; asking for them, and what they would take.

Every figure is a run's. A run that was asked for is found again by its identity, so a reload loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from core import device, zoo
from core.cluster import SLIDER
from core.datasets import load
from core.lessons import answers, students
from core.lessons.students import Curve, Lesson
from core.store import COMPLETE, OPEN
from core.studies.known import Known, seconds_a_picture
from core.work import Work
from pages.ui import refusals, services, state

SECONDS_A_RUN = 3  # of evaluating and packing, beside its training


class Runs:
    """The rows of works, as the store has them now; shipped ones until it has its own, and for the learning curves that it does not keep of them."""

    def __init__(self, works: Iterable[Work]):
        self._stored = services.store().find_all({work.identity() for work in works})
        self._rows: dict[Work, Mapping | None] = {}

    def row(self, work: Work) -> Mapping | None:
        """With at least `state`, `metrics`, `curve`, `fraction`, `stage`, `message`; None of what was neither measured nor asked for."""
        if work not in self._rows:  # an identity takes a while, and each is asked for several times
            self._rows[work] = self._looked_up(work)
        return self._rows[work]

    def _looked_up(self, work: Work) -> Mapping | None:
        identity = work.identity()
        stored, shipped = self._stored.get(identity), students.found(identity if device.chosen() == device.CPU else work.identity_on(device.CPU))
        if stored is None or stored["state"] != COMPLETE:
            stored = services.cluster().find(identity)  # which knows what was asked for a moment ago
        if stored is not None and (stored["state"] in OPEN or stored["state"] == COMPLETE):
            return stored | {"curve": stored["curve"] or (shipped or {}).get("curve")}
        return shipped | {"state": COMPLETE, "origin": "gallery"} if shipped else stored

    def top1(self, work: Work) -> float | None:
        row = self.row(work)
        return row["metrics"]["top1"] if row and row["state"] == COMPLETE else None

    def missing(self, works: Iterable[Work]) -> list[Work]:
        return [work for work in works if (row := self.row(work)) is None or row["state"] not in (*OPEN, COMPLETE)]

    def open(self, works: Iterable[Work]) -> list[Work]:
        return [work for work in works if (row := self.row(work)) is not None and row["state"] in OPEN]


def teacher_answers(model: str, dataset: str) -> tuple[Mapping | None, str]:
    """What `core.lessons.answers` has of the checkpoint, or what the cluster was asked for, once a session. Else None, and why it never comes, if so."""
    checkpoint = zoo.checkpoint(model, dataset)
    found, identity = answers.find(checkpoint), answers.identity(checkpoint, dataset)
    if found is not None:
        return found, ""
    row, session = services.cluster().find(identity), state.session()
    if row is not None and row["state"] == COMPLETE:
        return row["metrics"], ""
    if (row is None or row["state"] not in OPEN) and session.get("answers") != identity:  # also what failed for somebody before
        services.cluster().ask(model, dataset)
        session["answers"] = identity
        return None, ""
    ended = row is not None and row["state"] not in OPEN
    return None, (row["message"] or "The question was cancelled.") if ended else ""


def confirming(lesson: Lesson, curve: Curve) -> list[Work]:
    """What says on the test split whether the best temperature is as good as the validation split makes it."""
    best = curve.best()
    if best is None:
        return []
    return [work for seed in students.SEEDS for work in (lesson.alone(seed, "test"), lesson.taught(best, seed, "test"))]


def submit(works: Sequence[Work], first: bool = False) -> None:
    """Ask for what is not measured; `first` before whatever waits. A refusal is kept for the page to say."""
    with refusals.kept():
        services.cluster().submit_all(works, priority=SLIDER if first else None)
        state.session()["refused"] = ""


def cancel(works: Iterable[Work]) -> None:
    for work in works:
        services.cluster().cancel(work.identity())


def seconds(lesson: Lesson, works: Sequence[Work], known: Known) -> float:
    """A careful guess at how long these runs take one after another: the student's pictures, and the teacher's answers once."""
    if not works:
        return 0.0
    checkpoint = zoo.checkpoint(lesson.teacher, lesson.dataset)
    pictures = min(lesson.images, len(load(lesson.dataset).split("train")))
    student = zoo.models()[lesson.student]
    scale = (checkpoint.input_size / student["smallest_input"]) ** 2 * lesson.width**2
    each = lesson.epochs * pictures * seconds_a_picture([*known.rows, *known.others], student["macs"] * scale)
    answers = 2 * pictures * seconds_a_picture([], zoo.models()[lesson.teacher].get("macs")) / 3  # as they are and mirrored; forwards only
    trains = {work.recipe.key() for work in works if work.split == "validation"}
    return len(works) * SECONDS_A_RUN + len(trains) * each + (answers if trains else 0.0)
