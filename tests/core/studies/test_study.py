"""A study and its report: the runs that are of today, those of this machine before shipped ones, and a file that says all of it and escapes everything."""

from __future__ import annotations

import datetime
import json
import re
from html.parser import HTMLParser

import pytest

from core import zoo
from core.__main__ import main
from core.errors import BadInput, NotHere, UnknownName
from core.machine import machine
from core.recipe import Recipe
from core.store import Store
from core.studies import gallery, known, study, study_report
from core.studies.known import Shelf
from core.work import Work

MODEL, DATA = "squeezenet1_1", "fashion_mnist"
SHIPPED = [row for row in gallery.runs() if row["model"] == MODEL]


@pytest.fixture
def store(home):
    made = Store()
    yield made
    made.close()


class Page(HTMLParser):
    """Collects what a browser would ask the network for, the text, and the figures."""

    def __init__(self, text: str):
        super().__init__()
        self.asks, self.tags, self.text, self.figures, self._script = [], [], "", [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.asks += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data") and not value.startswith("data:")]
        self._script = dict(attrs).get("type", "") if tag == "script" else None

    def handle_data(self, data):
        if self._script == "application/json":
            self.figures.append(json.loads(data))
        elif self._script is None:
            self.text += data


def test_shipped_runs_make_a_study_and_its_front_is_one(store):
    found = study.of(MODEL, DATA, Shelf.of(store))
    current = {row["key"] for row in SHIPPED if row["recipe"]["steps"] and row["split"] == "validation"}
    assert {row["key"] for row in found.rows} == current and found.baseline["family"] == "Baseline"
    front = found.front()
    assert 1 < len(front) < len(found.rows) and [row["top1"] for row in front] == sorted(row["top1"] for row in front)
    assert not any(row["top1"] > best["top1"] and row["artifact_bytes"] <= best["artifact_bytes"] for best in front for row in found.rows)


def test_a_run_of_this_machine_goes_before_a_shipped_one_and_another_engines_does_not_count(store):
    mine = next(row for row in SHIPPED if row["recipe"]["steps"]) | {"machine": machine()}
    mine["metrics"] = mine["metrics"] | {"top1": 12.5}
    store.complete(mine["identity"], mine, mine["predicted"], origin="here", kind="run")
    store.complete("of-another-engine", mine | {"key": "other"}, mine["predicted"], origin="here", kind="run")
    found = study.of(MODEL, DATA, Shelf.of(store))
    (row,) = found.choose([mine["key"]])
    assert row["top1"] == 12.5 and not row["elsewhere"] and "other" not in {row["key"] for row in found.rows}


def test_a_graph_that_was_timed_here_has_its_latency_of_here(store, monkeypatch):
    monkeypatch.setattr(known, "machine", lambda: {"id": "another"})
    shipped = next(row for row in SHIPPED if row["recipe"]["steps"])
    entry, base = (next(each for each in metrics["latencies"] if "float32" in each["runtime"]) for metrics in (shipped["metrics"], shipped["baseline"]))
    assert study.of(MODEL, DATA, Shelf.of(store)).choose([shipped["key"]])[0]["elsewhere"]
    timed = {"signature": entry["signature"], "baseline_signature": base["signature"], "machine_id": "another", "runtime": entry["runtime"], "threads": 1}
    store.add_latencies([timed | {"batch": 1, "row": entry | {"ratio": 0.25}, "measured_at": 0.0}])
    (row,) = study.of(MODEL, DATA, Shelf.of(store)).choose([shipped["key"]])
    assert not row["elsewhere"] and row["ratio"] == 0.25


def test_what_cannot_be_chosen_is_one_sentence(store):
    found = study.of(MODEL, DATA, Shelf.of(store))
    with pytest.raises(UnknownName, match=f"no measured run of {MODEL} on {DATA} named 'nope'; there are {len(found.rows)}"):
        found.choose(["nope"])
    with pytest.raises(BadInput, match="13 runs are chosen; a report takes at most 12"):
        found.choose([row["key"] for row in found.rows][:13])
    assert [row["key"] for row in found.choose([f"{MODEL}/{found.rows[3]['key']}"] * 2)] == [found.rows[3]["key"]]
    with pytest.raises(NotHere, match="alexnet"):
        study.of("alexnet", DATA, Shelf.of(store))


def test_the_command_measures_the_same_run():
    recipe = Recipe.from_json({"seed": 3, "steps": [{"step": "magnitude_prune", "sparsity": 0.8}]})
    found = study.shell_command(MODEL, DATA, recipe, "test")
    told = re.fullmatch(rf"echo '(.+)' \| python -m core run --model {MODEL} --dataset {DATA} --recipe - --split test --json", found)
    assert Recipe.from_json(json.loads(told[1])).key() == recipe.key()


def test_the_report_shows_every_figure_with_its_interval_split_and_n(store):
    found = study.of(MODEL, DATA, Shelf.of(store))
    keys = [row["key"] for row in found.rows[:2]]
    page = Page(study_report.html(found, keys, datetime.datetime(2026, 11, 22)))
    assert page.asks == [] and len(page.figures) == 3
    for row in found.rows:
        assert row["key"] in page.text and f"{row['top1']:.2f} %" in page.text and f"{row['top1_low']:.2f}…{row['top1_high']:.2f}" in page.text
    for row in found.rows[:2]:
        recipe = Recipe.from_json(row["recipe"])
        assert study.shell_command(MODEL, DATA, recipe) in page.text
        assert Work(MODEL, DATA, recipe).identity_of(zoo.checkpoint(MODEL, DATA)) in {each["identity"] for each in SHIPPED}
    for said in ("22 November 2026", "validation split, n = 5,000", machine()["cpu"], f"onnxruntime {machine()['onnxruntime']}", "95 % Wilson interval"):
        assert said in page.text
    drawn = {point[0] for trace in page.figures[0]["data"] for point in trace.get("customdata", ())}
    assert {row["id"] for row in found.rows} <= drawn
    assert page.figures[2]["data"][0]["x"] == [row["gained"] for row in found.rows[:2]]


def test_nothing_that_is_told_becomes_markup(store):
    found = study.of(MODEL, DATA, Shelf.of(store))
    evil = '</script><img src="http://example.org/x" onerror=alert(1)>'
    bad = found.rows[0] | {"words": evil, "notes": [evil], "machine": evil, "runtime": evil, "date": evil}
    page = Page(study_report.html(study.Study(MODEL, DATA, found.baseline, (bad,), (), {}), [bad["key"]]))
    assert page.asks == [] and "img" not in page.tags and page.text.count(evil) >= 4
    assert page.figures[2]["data"][0]["y"] == [f"A. {evil}"]


def test_on_the_command_line(home, tmp_path, capsys):
    key = next(row["key"] for row in SHIPPED if row["recipe"]["steps"])
    call = lambda *more: (main(["report", "--model", MODEL, "--dataset", DATA, *(str(each) for each in more)]), capsys.readouterr())
    status, printed = call("--runs", key, "--output", tmp_path / "study.html", "--json")
    assert status == 0 and json.loads(printed.out)["bytes"] == (tmp_path / "study.html").stat().st_size > 1_400_000
    for given, sentence in (
        (("--output", tmp_path / "study.pdf"), "--output takes a name that ends in .html"),
        (("--output", tmp_path / "no" / "study.html"), "--output takes a file in one that does"),
        (("--output", "/proc/study.html"), "The folder /proc cannot be written ("),
        (("--runs", "nope", "--output", tmp_path / "x.html"), "named 'nope'"),
        ((), "--output"),
    ):
        status, printed = call(*given)
        assert status == 2 and printed.out == "" and sentence in printed.err and len(printed.err.splitlines()) == 1
    assert not (tmp_path / "x.html").exists()
