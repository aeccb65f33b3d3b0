"""The figures of the Layers page are checked by plotly's own validators, and for what they promise."""

from __future__ import annotations

import base64
import math

import numpy as np
import plotly.graph_objects as go
import pytest

from core.charts import Theme
from core.layers import charts as layer_charts

RESULT = {
    "model": "resnet18", "dataset": "digits", "step": {"step": "magnitude_prune"}, "field": "sparsity", "values": [0.5, 0.9], "layers": ["conv1", "fc"],
    "cells": [
        [{"top1": 90.0, "images": 100, "difference": {"top1": -2.0, "low": -4.0, "high": 1.0}}, {"refused": "It keeps its classes."}],
        [{"top1": 93.0, "images": 100, "difference": {"top1": 1.0, "low": 0.5, "high": 2.0}}, None],
    ],
}  # fmt: skip
WEIGHT = {
    "after_shape": [4, 3, 2, 2], "histogram": {"low": -1.0, "high": 1.0, "before": [1, 2, 3, 4], "after": [0, 1, 0, 2], "zeros": [0, 7]},
    "marks": [{"kind": "threshold", "values": [-0.2, 0.2], "said": "pruned below 0.2"}, {"kind": "centroids", "values": [0.1], "said": "1 shared value"}],
    "picture": {"rows": 2, "columns": 3, "shares": base64.b64encode(bytes([0, 255, 0, 128, 0, 255])).decode()},
    "singular_values": {"before": [3.0, 1.0], "after": None},
}  # fmt: skip


def test_the_heat_map_colours_losses_and_says_every_cell():
    figure = layer_charts.heat_map(RESULT, "fc")
    go.Figure(figure)
    (trace,) = figure["data"]
    assert trace["x"] == ["50 %", "90 %"] and trace["y"] == ["conv1", "fc"]
    assert trace["z"] == [[pytest.approx(math.sqrt(2)), None], [0.0, None]]  # a gain is no loss
    assert trace["text"] == [["−2.0", ""], ["+1.0", ""]] and trace["customdata"][1] == [["fc"], ["fc"]]
    said = trace["hovertext"]
    assert "−2.00 points (−4.00…+1.00, not distinguishable)" in said[0][0] and "n = 100" in said[0][0]
    assert "It keeps its classes." in said[0][1] and "not measured yet" in said[1][1] and "distinguishable" not in said[1][0]
    assert figure["layout"]["shapes"][0]["y0"] == 0.5 and figure["layout"]["yaxis"]["range"] == [1.5, -0.5]
    assert not layer_charts.heat_map(RESULT)["layout"]["shapes"]


def test_a_deep_network_has_no_numbers_in_its_cells():
    many = RESULT | {"layers": [f"layer{at}" for at in range(60)], "cells": RESULT["cells"] * 30}
    assert "texttemplate" not in layer_charts.heat_map(many)["data"][0] and "texttemplate" in layer_charts.heat_map(RESULT)["data"][0]


def test_the_histogram_has_both_and_the_marks():
    figure = layer_charts.histogram(WEIGHT)
    go.Figure(figure)
    before, threshold, centroids, after = figure["data"]
    assert before["x"] == pytest.approx([-0.75, -0.25, 0.25, 0.75]) and before["y"] == [1, 2, 3, 4] and after["y"] == [0, 1, 0, 2]
    assert threshold["x"] == [-0.2, -0.2, None, 0.2, 0.2, None] and threshold["y"] == [0, 4, None] * 2 and centroids["name"] == "Shared values"
    gone = WEIGHT | {"histogram": WEIGHT["histogram"] | {"after": None}, "marks": []}
    assert len(layer_charts.histogram(gone)["data"]) == 1
    assert len(layer_charts.histogram(gone | {"marks": [{"kind": "grid", "values": [], "said": "float16, unscaled"}]})["data"]) == 1


def test_the_picture_travels_as_bytes_and_the_singular_values_as_lines():
    figure = go.Figure(layer_charts.picture(WEIGHT))
    assert np.array_equal(np.frombuffer(base64.b64decode(layer_charts.picture(WEIGHT)["data"][0]["z"]["bdata"]), np.uint8), [0, 255, 0, 128, 0, 255])
    assert figure.layout.yaxis.title.text == "4 outputs" and figure.layout.xaxis.title.text == "12 inputs"
    (line,) = layer_charts.singular_values(WEIGHT)["data"]
    go.Figure(layer_charts.singular_values(WEIGHT))
    assert line["y"] == [3.0, 1.0] and line["x"] == [1, 2]


def test_every_colour_comes_from_the_theme_or_the_palette():
    theme = Theme(ink="$ink", muted="$muted", grid="$grid", paper="$paper")
    assert layer_charts.heat_map(RESULT, theme=theme)["data"][0]["colorscale"] == [[0, "$grid"], [1, layer_charts.LOST]]
    assert layer_charts.picture(WEIGHT, theme)["data"][0]["colorscale"] == [[0, "$paper"], [1, layer_charts.KEPT]]
