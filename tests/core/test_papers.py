"""Papers beside ours: what is shipped holds the limits, every row has its figures, and MNIST is taken where it is here."""

import json

import numpy as np
import pytest

from core import engine, zoo
from core.__main__ import main
from core.datasets import DATASETS, load
from core.errors import UnknownName
from core.papers import reproduced
from core.papers.classics import PAPERS
from core.papers.figures import figure, ours_words, published_words, table
from core.papers.reproduced import standings, work
from core.store import Store
from core.work import MEASURED_SPLITS
from tests import small_mnist

FULL = "fashion_mnist_full"
EVERY = [pytest.param(paper, id=name) for name, paper in PAPERS.items()]
full_set = pytest.mark.skipif(DATASETS.get(FULL).missing() is not None, reason="needs the originals of Fashion-MNIST: python -m core datasets --fetch " + FULL)


@pytest.mark.parametrize("paper", EVERY)
def test_every_row_has_its_shipped_figures(paper):
    for split in MEASURED_SPLITS:
        found = standings(paper)[split]
        assert found.dataset == FULL and not found.missing, f"python -m core papers --build --only {paper.name}"
        for line in found.lines:
            assert line.result["metrics"]["images"] == 5000 and line.result["machine"]["cpu"] and line.result["date"]
            assert line.difference and line.difference["low"] <= line.difference["top1"] <= line.difference["high"]


@full_set
@pytest.mark.parametrize("paper", EVERY)
def test_what_is_shipped_is_of_todays_recipes_checkpoints_and_engine(paper):
    for split in MEASURED_SPLITS:
        for line in standings(paper)[split].lines:
            assert line.result["identity"] == work(line.row, FULL, split).identity(), f"python -m core papers --build --only {paper.name}"


@pytest.mark.parametrize(("model", "times"), [("lenet_300_100", 40), ("lenet_5", 39)])
def test_deep_compression_is_as_small_as_published_and_as_good_as_the_reference(model, times):
    paper = PAPERS.get(f"deep_compression_{model}")
    published = [paper.row(name).published.kilobytes for name in ("reference", "compressed")]
    assert round(published[0] / published[1]) == times  # of the paper's own kilobytes
    line = standings(paper)["validation"].lines[1]
    assert times * line.result["metrics"]["artifact_bytes"] <= 4 * zoo.models()[model]["parameters"]
    assert line.difference["high"] >= 0  # the interval contains 0, or lies above it


def test_distillation_makes_fewer_errors_than_the_same_net_alone():
    lines = {line.row.name: line for line in standings(PAPERS.get("distillation"))["test"].lines}
    right = {name: line.result["metrics"]["top1"] for name, line in lines.items()}
    assert right["teacher"] > right["distilled"] > right["alone"] and lines["distilled"].difference["low"] > 0
    alone, distilled = (lines[name].row.recipe.steps for name in ("alone", "distilled"))
    assert alone[0] == distilled[0] and all(getattr(alone[1], name) == getattr(distilled[1], name) for name in ("epochs", "images", "learning_rate"))


def test_slimming_falls_off_a_cliff_and_comes_back():
    top1 = {line.row.name: line.result["metrics"]["top1"] for line in standings(PAPERS.get("slimming"))["test"].lines}
    assert top1["whole"] > top1["cut_50"] > 80 and 30 > top1["cut_60"] > top1["cut_70"]
    assert all(top1[f"tuned_{share}"] > max(80, top1[f"cut_{share}"]) for share in (50, 60, 70))


def test_binary_weights_cost_next_to_nothing_and_binary_activations_little():
    lines = {line.row.name: line for line in standings(PAPERS.get("xnor"))["test"].lines}
    assert lines["weights"].difference["high"] >= 0 > lines["xnor"].difference["top1"] > -3
    assert [step.name for step in lines["xnor"].row.recipe.steps] == ["binarize", "finetune"] and lines["xnor"].row.recipe.steps[0].activations


@full_set
def test_a_shipped_row_is_measured_again_as_it_was(home):
    paper = PAPERS.get("deep_compression_lenet_300_100")
    known = standings(paper)["test"].lines[0].result
    again = engine.run(work(paper.rows[0], FULL, "test"))
    assert again.metrics["artifact_bytes"] == known["metrics"]["artifact_bytes"]
    assert abs(again.metrics["top1"] - known["metrics"]["top1"]) <= 0.1  # another processor may round a tie the other way


@full_set
def test_differences_between_two_recipes_are_paired():
    """The stored interval against the predicted labels, by a count of the four cells."""
    lines = {line.row.name: line for line in standings(PAPERS.get("distillation"))["validation"].lines}
    labels = load(FULL).split("validation").labels
    mine, theirs = (np.frombuffer(lines[name].result["predicted"], "<u2") == labels for name in ("distilled", "alone"))
    assert lines["distilled"].difference["top1"] == pytest.approx(100 * ((mine & ~theirs).sum() - (theirs & ~mine).sum()) / len(labels))


@pytest.mark.parametrize("paper", EVERY)
def test_tables_and_charts_show_every_row(paper):
    found = [standings(paper)[split] for split in ("test", "validation")]
    titles, rows = table(*found)
    assert len(rows) == len(paper.rows) and {len(row) for row in rows} == {len(titles)}
    drawn = figure(found[0])
    assert [len(trace["x"]) for trace in drawn["data"]] == [len(paper.rows)] * 2
    assert len(paper.rows) <= 4 or max(len(line) for title in drawn["data"][0]["x"] for line in title.split("<br>")) <= 12, "titles stand upright side by side"
    json.dumps(drawn)


def test_figures_are_said_as_the_paper_counts():
    compressed, distilled, xnor = (PAPERS.get(name) for name in ("deep_compression_lenet_5", "distillation", "xnor"))
    assert published_words(compressed, compressed.row("compressed").published) == "0.74 % wrong"
    assert [published_words(distilled, row.published) for row in distilled.rows] == ["67 of 10,000 wrong", "146 of 10,000 wrong", "74 of 10,000 wrong"]
    assert published_words(xnor, xnor.row("xnor").published) == "99.23 %" and published_words(xnor, None) == "–"
    line = standings(distilled)["test"].lines[1]
    wrong = round(50 * (100 - line.result["metrics"]["top1"]))
    assert ours_words(distilled, line).startswith(f"{wrong} of 5,000 wrong (")


def test_an_unknown_paper_is_refused_with_those_there_are(capsys):
    with pytest.raises(UnknownName, match="deep_compression_lenet_5"):
        PAPERS.get("lottery")
    assert main(["papers", "--only", "lottery"]) == 2 and "distillation" in capsys.readouterr().err


def test_the_command_lists_all_and_needs_no_pictures(capsys, home):
    assert main(["papers", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["papers"]
    assert [paper["name"] for paper in told] == list(PAPERS)
    assert all(row["ours"]["test"] and row["ours"]["validation"] for paper in told for row in paper["rows"])
    assert main(["papers", "--only", "slimming"]) == 0
    out = capsys.readouterr().out
    assert "37.83 %" in out and "Fashion-MNIST" in out and "pytorch-slimming" in out


@pytest.mark.slow
def test_mnist_is_taken_where_it_is_here(capsys, home):
    paper = PAPERS.get("deep_compression_lenet_300_100")
    assert paper.dataset() == FULL
    small_mnist.put(home)
    load.cache_clear()
    assert paper.dataset() == "mnist" and standings(paper)["test"].dataset == FULL  # until there are figures
    assert main(["papers", "--run", "--only", paper.name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["papers"][0]
    assert told["dataset"] == "mnist" and told["rows"][1]["ours"]["test"]["metrics"]["top1"] > 50
    store = Store()
    try:
        before = len(store.rows())
        found = standings(paper, store)["test"]
        assert (found.dataset, before) == ("mnist", 4) and not found.missing and found.lines[0].result["metrics"]["images"] == 200
        assert main(["papers", "--run", "--only", paper.name]) == 0 and len(store.rows()) == before  # nothing is measured twice
    finally:
        store.close()
        load.cache_clear()
    assert "MNIST, test split, n = 200" in capsys.readouterr().out


def test_both_splits_of_a_table_are_of_one_dataset(monkeypatch):
    """Also when only one split was measured on MNIST so far."""
    paper, results = PAPERS.get("deep_compression_lenet_5"), reproduced._results

    def half(paper, dataset, store):
        found = results(paper, FULL, store)
        return found if dataset == FULL else {key: run for key, run in found.items() if key[1] == "validation"}

    monkeypatch.setattr(reproduced, "_results", half)
    monkeypatch.setattr(type(paper), "dataset", lambda self: "mnist")
    found = standings(paper)
    assert {each.dataset for each in found.values()} == {"mnist"} and not found["validation"].missing and found["test"].missing == list(paper.rows)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("lenet_5", {"deep_compression_lenet_5": ["reference", "compressed"], "xnor": ["full", "weights", "xnor"]}),
        ("resnet18", {"distillation": ["teacher", "distilled"], "slimming": [row.name for row in PAPERS.get("slimming").rows]}),
    ],
)
def test_a_retrained_checkpoint_does_not_stand_beside_figures_of_the_one_before(model, expected, home):
    """Its rows, and those of which it is the teacher, wait to be measured; a copy of the checkpoint changes nothing."""

    def missing() -> dict[str, list[str]]:
        found = {name: [row.name for split in MEASURED_SPLITS for row in standings(paper)[split].missing] for name, paper in PAPERS.items()}
        return {name: rows for name, rows in found.items() if rows}

    there = zoo.checkpoint(model, FULL)
    own = home / "checkpoints" / there.family / f"{model}.safetensors"
    own.parent.mkdir(parents=True)
    own.write_bytes(there.path.read_bytes())
    own.with_suffix(".json").write_text(json.dumps(there.card))
    assert zoo.checkpoint(model, FULL).path == own and not missing()
    own.write_bytes(there.path.read_bytes() + b" ")  # another checkpoint, by one byte
    assert missing() == {name: 2 * rows for name, rows in expected.items()}
    paper = PAPERS.get(next(iter(expected)))
    line = standings(paper)["test"].lines[0]
    assert ours_words(paper, line) == "not measured yet" and line.difference is None


def test_no_shipped_row_lacks_what_others_need():
    for run in reproduced.runs():
        assert run["checkpoints"] and len(run["predicted"]) == 2 * run["metrics"]["images"] and not run["metrics"]["latencies"]
