"""What the live part does beside the point at hand: lighting up temperatures, the learning curve, timing graphs, the table of runs."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import pytest

from core.machine import machine
from core.recipe import Recipe
from core.store import blank_row
from core.studies import gallery
from core.work import Work
from pages.ui import drawers, live
from tests.pages.conftest import BITS, REPAIR, TRIED, result, shipped
from tests.pages.test_cards import read
from tests.pages.test_explorer import components, markup, open_page, trace

DISTILLED = {"step": "distill", "epochs": 1, "images": 500}


def at(temperature: float) -> list[dict]:
    return [{"step": "distill", "temperature": temperature}, BITS, REPAIR]


@pytest.fixture
def temperatures(notes, monkeypatch):
    """Measured runs distilled at 1, 4 and 16."""
    found = [*shipped(), result("resnet18", at(1), 4), result("resnet18", at(16), 4)]
    monkeypatch.setattr(gallery, "runs", lambda: found)


def glowing(page) -> list[float]:
    """The temperatures of the runs that light up."""
    marks = trace(page, "distilled")
    ids = [data[0] for data, width in zip(marks["customdata"], marks["marker"]["line"]["width"]) if width]
    known = {f"resnet18/{Recipe.from_json({'steps': at(value)}).key()}": value for value in (1, 4, 16)}
    for id, size in zip((data[0] for data in marks["customdata"]), marks["marker"]["size"]):
        assert (size > 10) == (id in ids)
    return sorted(known[id] for id in ids)


def test_the_nearest_measured_temperatures_light_up_while_it_is_dragged(temperatures, notes):
    page = open_page()
    assert glowing(page) == []
    places, asked = sorted(trace(page, "distilled")["x"]), len(notes.asked)
    for temperature, nearest in ((1.5, [1]), (10.0, [4, 16]), (20.0, [16])):
        page.session_state["session"] |= {"lit_temperature": temperature, "phase": "drag"}
        page.run()
        assert glowing(page) == nearest
        assert sorted(trace(page, "distilled")["x"]) == places and len(notes.asked) == asked  # no point is invented, and nothing is asked for


def test_the_slider_is_given_the_teachers_own_answers(notes, monkeypatch):
    from core.lessons import answers

    told = {"logits": [1.0, 3.0], "names": ["a", "b"], "picture": "data:image/png;base64,", "label": 1, "number": 4}
    monkeypatch.setattr(answers, "find", lambda checkpoint: told if checkpoint.model == "resnet18" else None)
    for model, expected in (("resnet18", {name: told[name] for name in ("logits", "names", "picture")}), ("squeezenet1_1", None)):
        drawn = {slider["key"]: slider for slider in components(open_page(model=[model]), "paretoscope_slider")}
        assert drawn["temperature"]["answers"] == expected and drawn["bits"]["answers"] is None


def chart_named(page, label: str) -> dict | None:
    return next((json.loads(drawn["fixed"]) for drawn in components(page, "paretoscope_chart") if drawn["label"] == label), None)


CURVE = [{"epoch": 0.5, "loss": 1.25}, {"epoch": 1.0, "loss": 0.75, "top1": 84.5}]


def test_the_learning_curve_opens_while_a_run_trains(notes):
    recipe = Recipe.from_json({"steps": [DISTILLED]})
    identity = Work("resnet18", "fashion_mnist", recipe).identity()
    notes.store.claim(blank_row(identity, model="resnet18", dataset="fashion_mnist", recipe=recipe.to_json(), split="validation", owner="test"))
    notes.store.write({identity: {"state": "RUNNING", "stage": "train", "fraction": 0.2, "seconds_left": 12.0, "curve": CURVE[:1]}})
    page = open_page(step=["distill~epochs~1~images~500"])
    assert components(page, "paretoscope_status")[0]["text"] == "training, 12 s left"
    assert chart_named(page, "Learning curve") is None  # on demand
    page.session_state["curve"] = True
    page.run()
    assert chart_named(page, "Learning curve")["data"][0]["y"] == [1.25]
    notes.store.write({identity: {"curve": CURVE}})
    page.run()
    loss, top1 = chart_named(page, "Learning curve")["data"]
    assert loss["y"] == [1.25, 0.75] and (top1["x"], top1["y"]) == ([1.0], [84.5])


def test_a_training_of_a_checkpoint_draws_its_curve(notes):
    notes.store.claim(blank_row("a-training", "training", model="alexnet", dataset="fashion_mnist", owner="test"))
    notes.store.write({"a-training": {"state": "RUNNING", "stage": "train", "fraction": 0.4, "seconds_left": 200.0, "curve": CURVE}})
    page = open_page(model=["alexnet"])
    assert chart_named(page, "Learning curve")["data"][1]["y"] == [84.5]
    assert page.button(key="cancel") and not [button for button in page.button if button.key == "train"]


def signed() -> list[dict]:
    """The shipped runs, with a graph each; the pruned and the quantized one share the baseline's."""
    graphs, found = ("base", "base", "base", "base", "other"), shipped()
    for number, row in enumerate(found):
        for side, graph in (("metrics", graphs[number % len(TRIED)]), ("baseline", "base")):
            row[side] = row[side] | {"latencies": [row[side]["latencies"][0] | {"signature": f"{row['model']}-{graph}"}]}
    return found


@pytest.fixture
def graphs(notes, monkeypatch):
    found = signed()
    monkeypatch.setattr(gallery, "runs", lambda: found)


def measured(notes) -> list[str]:
    return [key for kind, key, *_ in notes.asked if kind == "measure"]


def test_each_graph_of_another_machine_is_timed_once_the_one_at_hand_first(notes, graphs):
    page = open_page()
    for _ in range(4):
        page.run()
    at_hand = Recipe.from_json({"steps": TRIED[3]}).key()
    assert measured(notes) == [at_hand, Recipe.from_json({"steps": TRIED[4]}).key()]  # one of the shared graph, and the other


def test_nothing_is_timed_beside_other_work(notes, graphs):
    quiet, page = notes.told, None
    for busy in ({"waiting": 1}, {"running": 1}, {"workers": 0}, {"connected": False}):
        notes.told = quiet | busy
        page = page.run() if page else open_page()
        assert measured(notes) == []
    notes.told = quiet
    page.run()
    assert len(measured(notes)) == 1


def test_what_was_timed_here_is_this_machines(notes, graphs):
    page = open_page()
    assert read(markup(page))["Latency"][3].endswith("another machine")
    row = {"runtime": "onnxruntime-float32", "threads": 1, "batch": 1, "signature": "resnet18-base", "ms_p10": 0.9, "ms_p50": 1.0, "ms_p90": 1.1}
    row |= {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
    key = {"signature": "resnet18-base", "baseline_signature": "resnet18-base", "machine_id": machine()["id"], "runtime": row["runtime"]}
    notes.store.add_latencies([key | {"threads": 1, "batch": 1, "row": row, "measured_at": 0.0}])
    notes.store.claim(blank_row("the-job", "latency", model="resnet18", dataset="fashion_mnist", owner="test"))  # as the job that timed it changes the store
    page.run()
    assert read(markup(page))["Latency"][3] == "1.00 ms (0.90–1.10) · float32, CPU · this machine"


def test_the_runs_are_filtered_by_words(notes):
    page = open_page()
    for words, count in (("", 5), ("prune 80", 2), ("QUANTIZE", 3), ("no such thing", 0)):
        page.session_state["runs-filter"] = words
        page.button(key="runs").click().run()
        assert not page.exception and len(page.dataframe[0].value) == count
        assert any(caption.value.startswith(f"{count} of 5 runs, fashion_mnist, validation split.") for caption in page.caption)
        assert all(word in recipe.lower() for recipe in page.dataframe[0].value["Recipe"] for word in words.lower().split())


def test_the_csv_is_the_table():
    table = {"Recipe": ['a "quoted", one', "two\nlines"], "Top-1, %": [90.5, None], "Key": ["k", "−"]}
    read_back = list(csv.DictReader(io.StringIO(drawers._csv(table), newline="")))
    assert read_back == [{"Recipe": 'a "quoted", one', "Top-1, %": "90.5", "Key": "k"}, {"Recipe": "two\nlines", "Top-1, %": "", "Key": "−"}]


def test_pictures_too_large_to_preview_show_an_estimate_in_its_place(notes):
    notes.answer = {"estimate": 240.0, "seconds": {}}
    page = open_page(step=["magnitude_prune~sparsity~0.61"])
    assert "too large to preview: 64 pictures take longer than a second" in markup(page) and "<b>≈ 4 min</b>, estimated" in markup(page)
    assert [entry[0] for entry in notes.asked if entry[0] != "measure"] == ["preview", "submit"]


def test_the_page_is_not_drawn_anew_under_an_open_dialog(monkeypatch):
    asked = []
    monkeypatch.setattr(live.st, "rerun", asked.append)
    session = {"dialog": True, "baseline_shown": ("resnet18/base", True, 1.0)}
    timed = SimpleNamespace(baseline={"id": "resnet18/base", "elsewhere": False, "ms_p50": 1.2})
    live._renew_header(timed, session)
    assert asked == []
    live._renew_header(timed, session | {"dialog": False})
    assert asked == ["app"]
