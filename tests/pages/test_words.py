"""Sentences: what is said of a run, why, and what the budgets answer."""

import core.methods  # noqa: F401
from core import pareto
from core.pareto import Limit
from core.recipe import Recipe
from core.studies.points import point, timed, unmarked
from pages.ui import drawers, words
from pages.ui.link import View
from tests.pages.conftest import BITS, PRUNE, preview, result

BASE = point(result("resnet18", []))
RUN = point(result("resnet18", [PRUNE], 1), elsewhere=True)


def recipe(*steps):
    return Recipe.from_json({"steps": list(steps)})


def test_a_measured_run_in_one_sentence():
    assert words.sentence(RUN, BASE, False) == (
        "<b>6.0 times smaller</b> to download, <b>1.00 points lower</b> (−1.30…−0.70); latency <b>not distinguishable</b> (another machine)."
    )


def test_what_cannot_be_told_apart_is_not_called_different():
    near = RUN | {"gained": -0.1, "gained_low": -0.4, "gained_high": 0.2, "ratio": 0.9, "ratio_low": 0.8, "ratio_high": 1.1, "elsewhere": False}
    said = words.sentence(near, BASE, False)
    assert "accuracy <b>not distinguishable</b> (−0.40…+0.20)" in said and said.endswith("latency <b>not distinguishable</b>.")
    fast = near | {"ratio": 0.5, "ratio_low": 0.45, "ratio_high": 0.55}
    assert "2.00 times faster" in words.sentence(fast, BASE, False)


def test_a_preview_is_called_one():
    row = point(result("resnet18", [PRUNE]) | preview(), state="preview")
    assert "preview, 256 pictures" in words.sentence(row, BASE, False)
    assert "before recovery" in words.sentence(row, BASE, True)
    assert "latency" not in words.sentence(row, BASE, False)
    brief = {"runtime": "onnxruntime-float32", "ratio": 0.4, "ratio_low": 0.35, "ratio_high": 0.45, "brief": True}
    assert words.sentence(timed(row, [brief]), BASE, False).endswith("; <b>2.50 times faster</b> (a short first look), ratio 0.40 (0.35…0.45).")
    assert "(a short first look, disturbed by other load)" in words.sentence(timed(row, [brief | {"disturbed": True}]), BASE, False)


def test_nothing_is_said_of_nothing():
    assert words.sentence(None, BASE, False) == words.sentence(RUN, None, False) == "Nothing is measured yet."


def test_why_scattered_zeros_are_not_faster():
    said = " ".join(words.why(recipe(PRUNE, BITS), RUN | {"provenance": {"top1": "simulated"}}))
    assert "dense kernels" in said and "float32 graph's" in said and "simulated" in said
    assert "shapes are really smaller" in " ".join(words.why(recipe({"step": "channel_prune"}), RUN))


def test_why_goes_by_what_was_measured():
    eight = {"step": "quantize", "weight_bits": 8, "activation_bits": 8}
    assert "real int8 kernels" in " ".join(words.why(recipe(eight), RUN | {"runtime": "onnxruntime-int8"}))
    for field in ({"activation_scale": "dynamic"}, {"granularity": "group"}, {"symmetric": False}):
        for here in (RUN, None):
            said = " ".join(words.why(recipe(eight | field), here))
            assert "int8 kernels" not in said and "float32 graph's" in said
    for name in ("mixed_precision", "binarize", "ternarize", "share_weights"):
        said = " ".join(words.why(recipe({"step": name}), RUN | {"provenance": {"top1": "simulated"}}))
        assert "float32 graph's" in said and "simulated" in said
    said = " ".join(words.why(recipe({"step": "cast"}), RUN))
    assert "float32 graph's" in said and "simulated" not in said
    said = " ".join(words.why(recipe({"step": "factorize"}), RUN))
    assert "low-rank factors" in said and "channels were removed" not in said


def test_budgets_answer_in_words():
    rows = [RUN, RUN | {"id": "b", "words": "small <one>", "top1": 80.0, "artifact_bytes": 90_000}]
    limits = [Limit("artifact_bytes", "min", 100_000.0)]
    said = words.budget_answer(rows, limits, pareto.answer(rows, limits))
    assert "Best measured run with at most 100 kB to download: <b>small &lt;one&gt;</b>" in said and "keeps better ones out" in said
    limits.append(Limit("top1", "max", 91.5))
    said = words.budget_answer(rows, limits, pareto.answer(rows, limits))
    assert said.startswith("No measured run has") and "The nearest is" in said and "The budget that binds" in said


def test_patterns_of_layers_are_no_markdown_and_no_html():
    from core import charts

    assert unmarked("Quantize 4 bits on *conv1*, f[c]") == r"Quantize 4 bits on \*conv1\*, f\[c\]" and unmarked("Prune weights 80 %") == "Prune weights 80 %"
    assert "<b>Quantize 4 bits on f[c&lt;]</b>" in charts.hover(RUN | {"words": "Quantize 4 bits on f[c<]"}, "artifact_bytes")


def test_durations():
    assert [words.duration(seconds) for seconds in (0.2, 6, 22, 200, 8000)] == ["≈ 1 s", "≈ 6 s", "≈ 20 s", "≈ 3 min", "≈ 2.2 h"]


def test_code_is_exact():
    view = View(recipe=recipe(PRUNE, BITS))
    line = drawers.command(view)
    given = line.split("'")[1]
    assert Recipe.parse(given) == view.recipe and line.endswith("--model resnet18 --dataset fashion_mnist --recipe - --json")
    namespace = {}
    exec(drawers.python(view).split("result =")[0].replace("from core import engine\n", ""), namespace)
    assert namespace["recipe"] == view.recipe
