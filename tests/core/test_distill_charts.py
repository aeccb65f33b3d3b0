"""Figures of students: accepted by plotly's own validators, every figure from what was given, nothing for what was not measured."""

import plotly.graph_objects as go
import pytest

from core.lessons import charts as distill_charts
from core.lessons.students import Curve

CURVE = Curve({1: {0: 80.0, 1: 81.0, 2: 82.0}, 4: {0: 84.0}}, {0: 78.0, 1: 79.0, 2: 77.0})
POINTS = [{"epoch": 0.5, "loss": 2.0}, {"epoch": 1, "loss": 1.2, "top1": 60.0}, {"epoch": 2, "loss": 0.8, "top1": 70.0}]
END = {"top1": 72.0, "top1_low": 71.0, "top1_high": 73.0, "images": 5000}


def trace(figure: dict, uid: str) -> dict:
    return next(trace for trace in figure["data"] if trace["uid"] == uid)


def test_plotly_accepts_every_figure():
    for figure in (
        distill_charts.learning([], [], 3), distill_charts.learning(POINTS, POINTS[:1], 2, {"taught": END}),
        distill_charts.over_temperature(Curve({}, {})), distill_charts.over_temperature(CURVE, 4.5), distill_charts.over_temperature(Curve({}, {0: 70.0})),
    ):  # fmt: skip
        go.Figure(figure)


def test_both_learning_curves_and_where_they_end():
    figure = distill_charts.learning(POINTS, POINTS[:2], 2, {"taught": END})
    assert trace(figure, "taught")["x"] == [1, 2] and trace(figure, "taught")["y"] == [60.0, 70.0]
    assert trace(figure, "alone")["x"] == [1]
    end = trace(figure, "taught-end")
    assert end["y"] == [72.0] and end["error_y"]["array"] == [1.0] and end["x"][0] > 2 and end["x"][0] <= figure["layout"]["xaxis"]["range"][1]
    assert not [found for found in figure["data"] if found["uid"] == "alone-end"]
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < 60 and high > 72
    looks = [trace(figure, side)["line"] for side in ("taught", "alone")]
    assert looks[0]["color"] != looks[1]["color"] and looks[1]["dash"] == "dash"  # never colour alone


def test_means_reach_from_the_lowest_to_the_highest_seed():
    figure = distill_charts.over_temperature(CURVE, 4)
    mean = trace(figure, "mean")
    assert mean["x"] == [1, 4] and mean["y"] == [81.0, 84.0]
    assert mean["error_y"]["array"] == [1.0, 0.0] and mean["error_y"]["arrayminus"] == [1.0, 0.0]
    seeds = trace(figure, "seeds")
    assert seeds["x"] == [1, 1, 1, 4] and [found[0] for found in seeds["customdata"]] == ["1/0", "1/1", "1/2", "4/0"]
    assert trace(figure, "alone")["y"] == [78.0] * 2
    assert (trace(figure, "alone-low")["y"][0], trace(figure, "alone-high")["y"][0]) == (77.0, 79.0)
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < 77 and high > 84
    assert figure["layout"]["shapes"][0]["x0"] == 4


@pytest.mark.parametrize("curve", [Curve({}, {}), Curve({2: {0: 50.0}}, {})])
def test_nothing_is_drawn_that_is_not_measured(curve):
    uids = {found["uid"] for found in distill_charts.over_temperature(curve)["data"]}
    assert uids == ({"mean", "seeds"} if curve.taught else set())
