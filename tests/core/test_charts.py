"""Figures are checked by plotly's own validators, and for what they promise: marks, ranges, and stable trace names."""

import re
import tomllib
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from core import charts, pareto
from core.studies.points import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


def rows(count=30, model="resnet18", seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        top1, size = 92 - 8 * rng.random() ** 2, 10 ** rng.uniform(4.5, 7.5)
        made.append({
            "id": f"{model}/{number}", "model": model, "words": f"recipe {number}", "family": FAMILIES[1 + number % (len(FAMILIES) - 1)], "state": "measured",
            "split": "validation", "top1": top1, "top1_low": top1 - 0.8, "top1_high": top1 + 0.7, "images": 5000, "elsewhere": number % 3 == 0,
            "artifact_bytes": size, "deployed_bytes": size * 1.2, "paper_bytes": size * 0.9, "macs": 3e7, "ratio": rng.uniform(0.4, 1.1), "ratio_low": 0.4,
            "ratio_high": 1.1, "runtime": "onnxruntime-float32", "gained": top1 - 92, "gained_low": top1 - 92.3, "gained_high": top1 - 91.7, "provenance": {},
        })  # fmt: skip
    return made


BASELINE = rows(1)[0] | {"id": "resnet18/base", "family": "Baseline", "words": "Uncompressed", "top1": 92.1, "artifact_bytes": 4.4e7, "ratio": 1.0}


def named(figure, name):
    return next(trace for trace in figure["data"] if trace["name"] == name)


@pytest.mark.parametrize("x", list(charts.AXES))
@pytest.mark.parametrize("three_d", [False, True])
def test_plotly_accepts_every_figure(x, three_d):
    made = rows()
    others = rows(9, "squeezenet1_1", 1)
    everything = dict(baseline=BASELINE, live=made[3], third="macs", pins=made[:3], others=others, lit={made[0]["id"]}, fits={made[1]["id"]})
    for options in ({}, everything, {"live": made[3] | {"state": "preview"}}):
        go.Figure(charts.figure(made, x=x, three_d=three_d, **options))
    go.Figure(charts.figure([], x=x, three_d=three_d))


def test_letters_of_pins_that_would_lie_on_each_other_stand_together_beside_their_points():
    places = ((80.0, 1e5), (90.0, 3e6), (90.1, 3.1e6), (91.0, 4e7))
    apart, one, other, under = (row | {"top1": top1, "artifact_bytes": size} for row, (top1, size) in zip(rows(4), places, strict=True))
    baseline = BASELINE | {"top1": 91.2, "artifact_bytes": 4e7}
    pins = named(charts.figure([apart, one, other, under], x="artifact_bytes", baseline=baseline, pins=[apart, one, other, under]), "Pinned")
    assert pins["text"] == ["<b>A</b>", "<b>B C</b>", "<b>D</b>"]
    assert pins["textposition"] == ["top center", "middle left", "middle left"]


def test_where_no_run_has_the_figure_the_chart_says_where_it_comes_from():
    (said,) = charts.figure(rows(), x="ratio_litert")["layout"]["annotations"]
    assert "the page Latency" in said["text"].replace("<br>", " ")
    assert charts.figure(rows(), x="ratio")["layout"]["annotations"] == []
    deep = charts.figure(rows(), x="artifact_bytes", third="ratio_litert", three_d=True)["layout"]["annotations"]
    assert "LiteRT float32 ratio" in deep[0]["text"]


def test_a_latency_that_was_measured_here_is_not_drawn_as_another_machines():
    timing = {"ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6, "disturbed": True}
    made = [row | {"family": "int8", "elsewhere": True, "ratio_litert": 0.5, "beside": {"ratio_litert": timing}} for row in rows()]
    there, here = (named(charts.figure(made, x=x), "int8") for x in ("ratio", "ratio_litert"))
    assert set(there["marker"]["symbol"]) == {charts.ELSEWHERE} and charts.ELSEWHERE not in here["marker"]["symbol"]
    assert "LiteRT float32 ratio 0.50 × (0.40…0.60), disturbed by other load" in here["text"][0]


def test_the_front_is_a_step_line_over_the_undominated_rows():
    made = rows()
    line = named(charts.figure(made), "Front")
    mask = pareto.front(made, {"top1": "max", "artifact_bytes": "min"})
    expected = sorted((row["artifact_bytes"], row["top1"]) for row, on in zip(made, mask) if on)
    assert list(zip(line["x"], line["y"]))[:-1] == expected
    assert line["line"]["shape"] == "hv" and line["y"][-1] == max(row["top1"] for row in made)


def test_dominated_is_pale_and_out_of_budget_is_grey():
    made = [row | {"family": "Weights pruned"} for row in rows()]
    trace = named(charts.figure(made), "Weights pruned")
    mask = pareto.front(made, {"top1": "max", "artifact_bytes": "min"})
    strong = {row["id"] for row, on in zip(made, mask) if on}
    assert {data[0] for data, colour in zip(trace["customdata"], trace["marker"]["color"]) if colour.endswith(",1)")} == strong
    assert trace["marker"]["color"][0].endswith(",1)")  # the legend shows the first
    trace = named(charts.figure(made, fits={made[0]["id"]}), "Weights pruned")
    grey = [data[0] for data, colour in zip(trace["customdata"], trace["marker"]["color"]) if colour == charts.Theme().muted]
    assert sorted(grey) == sorted(row["id"] for row in made[1:])


# Okabe and Ito, "Color Universal Design", 2008: black, orange, sky blue, bluish green, yellow, blue, vermilion, reddish purple.
OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2, from 1 to 21."""

    def luminance(colour: str) -> float:
        shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_each_family_has_its_own_shape_and_a_colour_of_the_palette():
    assert set(charts.STYLES) == set(FAMILIES) - {"Baseline"}
    assert len({shape for _, shape in charts.STYLES.values()}) == len(charts.STYLES)
    assert {colour for colour, _ in charts.STYLES.values()} < OKABE_ITO and charts.FRONT in OKABE_ITO
    assert not {"star", "diamond", "diamond-open", "circle-open"} & {shape for _, shape in charts.STYLES.values()}  # these mean something else


def test_each_colour_shows_on_a_light_and_on_a_dark_page():
    theme = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"]
    for paper in (theme[scheme]["backgroundColor"] for scheme in ("light", "dark")):
        assert min(contrast(colour, paper) for colour, _ in charts.STYLES.values()) > 2
    assert {colour for colour in OKABE_ITO if contrast(colour, "#FFFFFF") < 2} == {"#F0E442"}  # why it is left out


def test_in_three_dimensions_no_two_families_look_alike():
    made = [row | {"family": family} for family in charts.STYLES for row in rows(6)]
    clouds = [trace for trace in charts.figure(made, three_d=True)["data"] if trace["type"] == "scatter3d" and trace.get("legendgroup")]
    looks = {trace["legendgroup"]: (trace["marker"]["symbol"], charts.STYLES[trace["legendgroup"]][0]) for trace in clouds}
    assert set(looks) == set(charts.STYLES) == set(charts.SOLIDS) and len(set(looks.values())) == len(looks)
    go.Figure(charts.figure(made, three_d=True))


def test_a_preview_is_hollow_with_its_interval_and_a_measured_run_is_solid():
    live = rows(1)[0] | {"family": "Weights pruned"}
    hollow = named(charts.figure([], live=live | {"state": "preview"}), "Preview")
    assert hollow["marker"]["symbol"] == "circle-open" and hollow["error_y"]["array"] == [pytest.approx(0.7)]
    solid = named(charts.figure([], live=live), "This run")
    assert solid["marker"]["symbol"] == "circle" and hollow["uid"] == solid["uid"]


def test_another_machine_is_a_diamond_only_where_latency_is_drawn():
    made = [row | {"family": "int8"} for row in rows()]
    trace = named(charts.figure(made, x="ratio"), "int8")
    diamonds = {data[0] for data, symbol in zip(trace["customdata"], trace["marker"]["symbol"]) if symbol == charts.ELSEWHERE}
    assert diamonds == {row["id"] for row in made if row["elsewhere"]}
    assert charts.ELSEWHERE not in named(charts.figure(made), "int8")["marker"]["symbol"]


def test_names_of_traces_do_not_depend_on_what_is_at_hand():
    made = rows()
    uids = [trace["uid"] for trace in charts.figure(made, baseline=BASELINE)["data"]]
    assert uids == [trace["uid"] for trace in charts.figure(made, baseline=BASELINE, live=made[0])["data"]]
    assert len(set(uids)) == len(uids)
    assert all(re.fullmatch("[a-z0-9-]+", uid) for uid in uids)  # plotly.js builds CSS selectors from them


def test_accuracy_is_linear_and_bytes_are_logarithmic():
    layout = charts.figure(rows())["layout"]
    assert layout["xaxis"]["type"] == "log" and layout["yaxis"].get("type") is None and layout["uirevision"]


def test_the_third_objective_is_the_markers_size():
    made = [row | {"family": "int8", "macs": 10 ** (6 + number / 10)} for number, row in enumerate(rows())]
    trace = named(charts.figure(made, third="macs"), "int8")
    order = [made.index(next(row for row in made if row["id"] == data[0])) for data in trace["customdata"]]
    sizes = [size for _, size in sorted(zip(order, trace["marker"]["size"]))]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_the_frame_stands_still_while_the_point_is_dragged():
    made = rows()
    frames = {str(charts.figure(made, live=made[0] | {"state": "preview", "top1": 91 - 0.05 * step})["layout"]["yaxis"]["range"]) for step in range(20)}
    assert len(frames) == 1
    low = charts.figure(made, live=made[0] | {"top1": 33.0})["layout"]["yaxis"]["range"]
    assert low[0] < 33


def test_room_widens_the_frame_and_draws_nothing():
    made = rows()
    plain, wide = charts.figure(made), charts.figure(made, room=[made[0] | {"top1": 33.0}])
    assert wide["layout"]["yaxis"]["range"][0] < 33 < plain["layout"]["yaxis"]["range"][0]
    assert [trace["y"] for trace in wide["data"]] == [trace["y"] for trace in plain["data"]]


def test_learning_curve():
    figure = charts.curve([{"epoch": 0.5, "loss": 1.0}, {"epoch": 1.0, "loss": 0.5, "top1": 80.0}])
    go.Figure(figure)
    assert named(figure, "Validation top-1")["y"] == [80.0]
    go.Figure(charts.curve([]))
    go.Figure(charts.softened([0.9, 0.1], ["a", "b"]))
