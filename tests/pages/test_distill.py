"""The page Distill without a browser: what it asks for, what it shows of what is known, and what its address holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from core import zoo
from core.lessons import answers
from core.lessons.students import SEEDS, Curve, Lesson
from core.recipe import Recipe
from core.store import blank_row
from pages.ui import taught_words
from tests.pages.conftest import metrics
from tests.pages.test_explorer import DASHBOARD, asked_for, components, markup

LESSON = Lesson(dataset="fashion_mnist")
LOGITS = [4.0, 0.0, 2.5, *[-1.0] * 7]


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """Two answers of whatever checkpoint is asked."""
    picture = answers.picture(np.zeros((1, 4, 4), np.uint8))
    found = {"number": 3, "label": 0, "logits": LOGITS, "picture": picture}
    monkeypatch.setattr(answers, "find", lambda checkpoint: found | {"names": list("abcdefghij"), "others": [found | {"number": 5, "label": 2}]})


def open_page(**query) -> AppTest:
    page = AppTest.from_file(DASHBOARD, default_timeout=60).switch_page("pages/2_Distill.py")
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def charts(page: AppTest) -> list[dict]:
    return [json.loads(drawn["fixed"]) for drawn in components(page, "paretoscope_chart")]


def traces(figure: dict) -> dict[str, dict]:
    return {trace["uid"]: trace for trace in figure["data"]}


def complete(notes, work, top1: float) -> None:
    notes.store.claim(blank_row(work.identity(), model=work.model, dataset=work.dataset, owner="test"))
    curve = [{"epoch": epoch, "loss": 1.0, "top1": top1 - 10 / epoch} for epoch in (1, 2, 3)]
    result = {
        "model": work.model, "dataset": work.dataset, "recipe": work.recipe.to_json(), "key": work.recipe.key(), "identity": work.identity(),
        "split": work.split, "machine": {"id": "here", "cpu": "a CPU"}, "baseline": metrics(92.0, 44_700_000), "metrics": metrics(top1, 7e5, None),
        "difference": {"top1": 0.0, "low": -0.1, "high": 0.1}, "seconds": {}, "date": "2026-11-22T10:00:00+00:00",
    }  # fmt: skip
    notes.store.complete(work.identity(), result, b"", origin="here", curve=curve)


def test_opens_with_the_teachers_answer_and_asks_nothing(notes):
    page = open_page()
    assert page.selectbox(key="model").label == "Teacher" and page.selectbox(key="student").value == LESSON.student
    drawn = components(page, "paretoscope_softened")[0]
    assert drawn["temperature"] == 4.0 and drawn["names"][drawn["answers"][0]["label"]] == "T-shirt" and drawn["answers"][0]["logits"] == LOGITS
    assert notes.asked == [] and "not measured yet" in markup(page)
    assert page.button(key="measure-curve").label.startswith("Measure this curve: 18 runs, ≈ ")
    assert "T²" in next(slider["help"] for slider in components(page, "paretoscope_slider") if slider["label"] == "Temperature")


def test_both_are_asked_for_and_both_curves_are_drawn_while_they_run(notes):
    page = open_page(temperature=["8"])
    assert page.button(key="train-pair").label.startswith("Train both, ≈ ")
    page.button(key="train-pair").click().run()
    taught, alone = LESSON.taught(8, 0), LESSON.alone(0)
    assert [entry[1] for entry in notes.asked] == [taught.recipe.key(), alone.recipe.key()]
    for work, top1 in ((taught, 70.0), (alone, 60.0)):
        notes.store.claim(blank_row(work.identity(), model=work.model, dataset=work.dataset, owner="test"))
        point = {"epoch": 1, "loss": 1.0, "top1": top1}
        notes.store.write({work.identity(): {"state": "RUNNING", "fraction": 0.25, "stage": "train", "curve": [point], "seconds_left": 12.0}})
    page.run()
    drawn = traces(charts(page)[0])
    assert drawn["taught"]["y"] == [70.0] and drawn["alone"]["y"] == [60.0]
    assert components(page, "paretoscope_status")[0]["again_ms"] and components(page, "paretoscope_status")[0]["fraction"] == 0.25
    assert "cancel-curve" not in {button.key for button in page.button} and page.button(key="measure-curve")  # nobody asked for the curve
    page.button(key="cancel-pair").click().run()
    assert notes.asked[-2:] == [("cancel", taught.identity()), ("cancel", alone.identity())]


def test_what_is_known_is_shown_at_once(notes):
    complete(notes, LESSON.taught(4, 0), 88.0)
    complete(notes, LESSON.alone(0), 85.0)
    page = open_page()
    drawn = traces(charts(page)[0])
    assert drawn["taught"]["x"] == [1, 2, 3] and drawn["taught-end"]["y"] == [88.0] and drawn["alone-end"]["y"] == [85.0]
    assert not [button for button in page.button if button.key == "train-pair"]
    said = markup(page)
    assert "88.00 %" in said and "85.00 %" in said and "Measured here, validation, n = 5,000" in said
    assert page.button(key="measure-curve").label.startswith("Measure this curve: 16 runs")


def test_the_curve_is_measured_then_confirmed(notes):
    page = open_page()
    page.button(key="measure-curve").click().run()
    assert len(notes.asked) == 18
    for work in LESSON.works():
        temperature = getattr(work.recipe.steps[1], "temperature", 0)
        complete(notes, work, 80.0 + work.recipe.seed / 10 + (6 if temperature == 8 else 3 if temperature else 0))
    page.run()
    drawn = traces(charts(page)[1])
    assert drawn["mean"]["x"] == [1, 2, 4, 8, 16] and drawn["mean"]["y"][3] == pytest.approx(86.1) and len(drawn["seeds"]["x"]) == 15
    said = markup(page)
    assert "<b>8</b>" in said and "+6.00 points" in said and "do not touch" in said and "not measured yet" in said
    notes.asked.clear()
    page.button(key="confirm-curve").click().run()
    assert len(notes.asked) == 6
    for seed in SEEDS:
        complete(notes, LESSON.alone(seed, "test"), 79.0)
        complete(notes, LESSON.taught(8, seed, "test"), 84.0)
    page.run()
    assert "On the test split" in markup(page) and "+5.00 points" in markup(page)


def test_choices_live_in_the_address(notes):
    page = open_page()
    page.selectbox(key="student").select("squeezenet1_1").run()
    page.segmented_control(key="student-seed").set_value(2).run()
    assert asked_for(page, "student") == ["squeezenet1_1"] and asked_for(page, "student-seed") == ["2"] and asked_for(page, "model") == ["resnet18"]
    page = open_page(student=["squeezenet1_1"], width=["0.75"], temperature=["2.5"], picture=["1"], epochs=["3"], images=["400"])
    assert [slider["value"] for slider in components(page, "paretoscope_slider")] == [0.75, 2.5]
    assert components(page, "paretoscope_softened")[0]["at"] == 1
    link = next(link for link in page.get("page_link") if "student" in link.proto.label)
    assert "student~model~%22squeezenet1_1%22" in link.proto.query_string or "squeezenet1_1" in link.proto.query_string
    assert "distill~temperature~2.5" in link.proto.query_string.replace("%7E", "~")


def test_a_student_that_cannot_be_narrower_says_so_and_another_can_be_chosen(notes, monkeypatch):
    stiff = "squeezenet1_1"
    models = {name: dict(facts) for name, facts in zoo.models().items()}
    models[stiff]["channel_prunable"] = "its channels cannot leave"
    monkeypatch.setattr(zoo, "models", lambda: models)
    page = open_page(student=[stiff], width=["0.5"])
    assert "cannot make" in page.error[0].value and page.selectbox(key="student").value == stiff
    page = open_page()
    page.selectbox(key="student").select(stiff).run()
    assert not page.error and asked_for(page, "width") == ["1"]


def test_the_view_survives_the_navigation(notes):
    page = AppTest.from_file(DASHBOARD, default_timeout=60)
    page.query_params["model"], page.query_params["step"] = "squeezenet1_1", "magnitude_prune~sparsity~0.6"
    page.run()
    page.query_params.clear()  # as the browser's address is after a click in the sidebar
    page.switch_page("pages/2_Distill.py").run()
    assert not page.exception
    assert page.selectbox(key="model").value == "squeezenet1_1" and asked_for(page, "step") == ["magnitude_prune~sparsity~0.6"]


def test_missing_checkpoints_are_offered_to_train(notes):
    page = open_page(model=["densenet121"])
    assert page.button(key="train") and "no trained weights" in " ".join(element.value for element in page.markdown)


def test_words_about_overlapping_ranges():
    best = {seed: 80.0 + seed for seed in SEEDS}
    said = taught_words.curve(Curve({4: best}, {0: 79.0, 1: 80.0, 2: 81.5}), None, LESSON)
    assert "+0.83 points" in said and "overlap" in said and "measured so far" in said
    assert f"{len(best) + 1} runs so far" in taught_words.curve(Curve({4: best}, {0: 79.0}), None, LESSON)
    assert "not measured yet" in taught_words.curve(Curve({}, {}), None, LESSON) and "1 run so far" in taught_words.curve(Curve({}, {0: 79.0}), None, LESSON)
    worse = taught_words.curve(Curve({4: best}, dict.fromkeys(SEEDS, 90.0)), None, LESSON)
    assert "−9.00 points" in worse


def test_the_recipe_of_a_pair_is_an_ordinary_one():
    assert Recipe.from_json(LESSON.taught(4, 1).recipe.to_json()) == LESSON.taught(4, 1).recipe


def test_a_checkpoint_without_shipped_answers_is_asked_once(notes, monkeypatch):
    monkeypatch.setattr(answers, "find", lambda checkpoint: None)
    page = open_page()
    assert notes.asked == [("ask", "resnet18")] and not components(page, "paretoscope_softened")
    page.run()
    assert len(notes.asked) == 1
    row = blank_row(answers.identity(zoo.checkpoint("resnet18", "fashion_mnist"), "fashion_mnist"), "answers", owner="test")
    notes.store.claim(row)
    told = {"number": 1, "label": 1, "logits": LOGITS, "picture": "data:image/png;base64,", "others": []}
    notes.store.write({row["identity"]: {"state": "COMPLETE", "metrics": told}})
    page.run()
    assert components(page, "paretoscope_softened")[0]["answers"][0]["label"] == 1


def test_a_question_that_came_to_nothing_is_asked_again_by_the_next_session(notes, monkeypatch):
    monkeypatch.setattr(answers, "find", lambda checkpoint: None)
    row = blank_row(answers.identity(zoo.checkpoint("resnet18", "fashion_mnist"), "fashion_mnist"), "answers", owner="test")
    notes.store.claim(row)
    notes.store.write({row["identity"]: {"state": "FAILED", "message": "The disk is full."}})
    page = open_page()
    assert notes.asked == [("ask", "resnet18")] and "The disk is full." not in " ".join(said.value for said in page.caption)
    page.run()
    assert len(notes.asked) == 1 and "The disk is full." in " ".join(said.value for said in page.caption)
