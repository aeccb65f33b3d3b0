"""Lessons: what both trainings have in common, what a curve comes to, and what the shipped students show."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.__main__ import main
from core.datasets import DATASETS
from core.lessons import students
from core.lessons.students import SEEDS, TEMPERATURES, Curve, Lesson
from core.recipe import Recipe
from core.studies import gallery
from core.work import Work
from tests import five_layers


@pytest.mark.parametrize(("student", "repaired"), [("resnet18", True), ("squeezenet1_1", False)])
def test_the_teacher_is_all_that_differs(student, repaired):
    lesson = Lesson(dataset="fashion_mnist", student=student, width=0.5)
    taught, alone = lesson.taught(4, 2), lesson.alone(2)
    assert taught.recipe.prefix(1).key() == alone.recipe.prefix(1).key()  # so the same first weights, pictures and order
    for name in ("epochs", "images", "learning_rate"):
        assert getattr(taught.recipe.steps[1], name) == getattr(alone.recipe.steps[1], name) == getattr(lesson, name)
    assert [step.name for step in taught.recipe.steps[2:]] == [step.name for step in alone.recipe.steps[2:]] == ["calibrate_batchnorm"] * repaired
    assert taught.recipe.steps[1].teacher == "self" and taught.model == "resnet18"
    works = lesson.works()
    assert len({work.identity() for work in works}) == len(works) == len(SEEDS) * (1 + len(TEMPERATURES))


@given(st.dictionaries(st.sampled_from(TEMPERATURES), st.dictionaries(st.sampled_from(SEEDS), st.floats(1, 100), min_size=1), max_size=5))
def test_the_best_temperature_has_the_highest_mean_of_all_seeds(taught):
    curve = Curve(taught, {})
    whole = {temperature: np.mean(list(seeds.values())) for temperature, seeds in taught.items() if len(seeds) == len(SEEDS)}
    best = curve.best()
    assert (best is None) == (not whole)
    if whole:
        assert whole[best] == pytest.approx(max(whole.values()))
        spread = curve.spread(best)
        assert (spread.low, spread.high, spread.count) == (min(taught[best].values()), max(taught[best].values()), 3)


def test_a_curve_holds_what_is_measured():
    lesson = Lesson(dataset="fashion_mnist")
    known = {lesson.taught(2, 1).identity(): 80.0, lesson.alone(0).identity(): 70.0}
    curve = Curve.of(lesson, lambda work: known.get(work.identity()))
    assert curve == Curve({2: {1: 80.0}}, {0: 70.0}) and curve.best() is None and curve.spread(None).mean == 70.0


def shipped(dataset: str, split: str) -> Curve:
    """The curve of the shipped rows, from the rows' own recipes."""
    taught: dict[float, dict[int, float]] = {}
    alone: dict[int, float] = {}
    for row in students.runs():
        if (row["dataset"], row["split"]) == (dataset, split):
            training = row["recipe"]["steps"][1]
            at = taught.setdefault(training["temperature"], {}) if training["step"] == "distill" else alone
            at[row["recipe"]["seed"]] = row["metrics"]["top1"]
    return Curve(taught, alone)


@pytest.mark.parametrize("dataset", students.DATASETS)
def test_the_shipped_student_is_better_with_its_teacher(dataset):
    """On a limited part of the training pictures, over three seeds: chosen on one split, confirmed on the other."""
    validation, test = shipped(dataset, "validation"), shipped(dataset, "test")
    best = validation.best()
    for curve in (validation, test):
        assert set(curve.taught) == set(TEMPERATURES) and set(curve.alone) == set(SEEDS)
        taught, alone = curve.spread(best), curve.spread(None)
        assert taught.mean > alone.mean
        assert taught.low > alone.high  # by more than the spread of either
    assert Lesson(dataset=dataset).images <= 6000


@pytest.mark.parametrize("dataset", students.DATASETS)
def test_shipped_students_are_the_runs_that_they_say(dataset):
    rows = [row for row in students.runs() if row["dataset"] == dataset]
    if DATASETS.get(dataset).missing() is None:
        assert [row["identity"] for row in rows] == [work.identity() for work in students.works(dataset)], "python -m core gallery --students --build"
        assert students.found(rows[0]["identity"]) is rows[0] or students.found(rows[0]["identity"]) == rows[0]
    for row in rows:
        assert row["metrics"]["images"] == 5000 and len(row["predicted"]) == 10_000 and row["machine"]["cpu"] and row["date"]
        if row["split"] == "validation":
            assert [point["epoch"] for point in row["curve"]] == list(range(1, row["recipe"]["steps"][1]["epochs"] + 1))


def test_the_gallery_and_the_students_are_kept_apart():
    assert not {row["identity"] for row in gallery.runs()} & {row["identity"] for row in students.runs()}


def test_what_is_built_is_kept_and_goes_on_where_it_stood(five_layer_checkpoint, tmp_path, monkeypatch):
    recipe = Recipe.from_json({"steps": [{"step": "finetune", "epochs": 2, "images": 200}]})
    works = [Work(five_layers.NAME, "digits", recipe), Work(five_layers.NAME, "digits", recipe, "test"), Work(five_layers.NAME, "digits")]
    monkeypatch.setattr(students, "FOLDER", tmp_path)
    monkeypatch.setattr(students, "works", lambda dataset: works[: 3 if done else 2])
    done: list[tuple] = []
    rows = students.build("digits", report=lambda *told: None)
    assert [point["epoch"] for point in rows[0]["curve"]] == [1, 2] and rows[1]["curve"] == []  # the second found the training kept
    done.append(("once",))
    students.build("digits", report=lambda *told: done.append(told))
    assert [told[0] for told in done[1:]] == [2]
    stored = json.loads((tmp_path / "digits.json").read_text())
    assert [row["identity"] for row in stored] == [work.identity() for work in works]
    assert stored[0]["metrics"]["top1"] == rows[0]["metrics"]["top1"] and all("predicted" in row for row in stored)
    students.runs.cache_clear()
    students.found.cache_clear()


def test_the_command_lists_them(capsys):
    assert main(["gallery", "--students", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["runs"]
    assert [row["identity"] for row in printed] == [row["identity"] for row in students.runs()]
    assert main(["gallery", "--students"]) == 0
    assert "by resnet18 at temperature 4" in capsys.readouterr().out


@pytest.mark.parametrize(("field", "value"), [("width", 7.0), ("alpha", -1.0), ("images", 3)])
def test_what_cannot_be_is_refused(field, value):
    from core.errors import BadField

    with pytest.raises(BadField, match=field):
        dataclasses.replace(Lesson(), **{field: value}).taught(4, 0)
