"""The temperature under a hand: the teacher's answers soften as they should, and the measured runs nearest to it light up."""

from __future__ import annotations

import numpy as np
import pytest

from core import zoo
from core.lessons import answers
from core.recipe import Recipe
from core.studies import gallery

LIT = """document.querySelector('.paretochart')._fullData.filter(trace => Array.isArray(trace.marker?.line?.width)).flatMap(
    trace => trace.customdata.filter((_data, at) => trace.marker.line.width[at] === 2 && trace.marker.size[at] > 10).map(data => data[0]))"""
BARS = "bars => bars.map(bar => parseFloat(bar.style.height))"


def test_a_dragged_temperature_softens_answers_and_lights_up_what_was_measured(explorer):
    page = explorer.open().page
    explorer.connected()
    told = answers.find(zoo.checkpoint("squeezenet1_1", "fashion_mnist"))
    assert told["names"][int(np.argmax(told["logits"]))] == told["names"][told["label"]]
    distilled = [Recipe.from_json(row["recipe"]) for row in gallery.runs() if row["model"] == "squeezenet1_1"]
    temperature = {f"squeezenet1_1/{recipe.key()}": step.temperature for recipe in distilled for step in recipe.steps if step.name == "distill"}
    assert page.evaluate(LIT) == []
    drag, heights = explorer.hold("temperature"), []
    for share in (0.05, 0.35, 0.8):
        drag(share)
        at = float(explorer.value("temperature").split()[0])
        nearest = min(abs(value - at) for value in temperature.values())
        wanted = sorted(id for id, value in temperature.items() if abs(value - at) == nearest)
        explorer.until(f"wanted => JSON.stringify([...new Set({LIT})].sort()) === wanted", str(wanted).replace("'", '"').replace(", ", ","))
        powers = np.exp((np.array(told["logits"]) - max(told["logits"])) / at)
        heights.append(page.locator(".st-key-temperature .bars i").evaluate_all(BARS))
        assert heights[-1] == pytest.approx(np.maximum(1, 36 * powers / powers.sum()), abs=0.01)
        best = page.locator(".st-key-temperature .best").inner_text()
        assert best.startswith(f"{told['names'][told['label']]} {round(100 * powers.max() / powers.sum())} %")
    assert max(heights[0]) > max(heights[1]) > max(heights[2])
    explorer.let_go()
    explorer.until(f"({LIT}).length === 0")
