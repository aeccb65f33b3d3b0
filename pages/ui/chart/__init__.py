"""The live chart: a Custom Component v2 around `Plotly.react`, and the loaders that give the page plotly.js once.

`st.plotly_chart` remounts when its data change and forgets zoom and hidden traces; this keeps both over every update.
What draws two dimensions is a file of assets/plotly (1.5 MB); a chart in three brings the whole of plotly.js along, which is
the copy inside the plotly package (4.8 MB). The loaders are constant and carry no data, so each travels once a page load.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from core.charts import Theme
from core.home import ASSETS
from pages.ui import state
from pages.ui.slider import hear

THEME = Theme(ink="$ink", muted="$muted", grid="$grid", paper="$paper")  # the component fills these in from the page's theme
_HERE = Path(__file__).parent
_FLAT = ASSETS / "plotly" / "plotly-cartesian.min.js"
_component = st.components.v2.component(
    "paretoscope_chart",
    html='<div class="paretochart" role="img"></div>',
    css=(_HERE / "chart.css").read_text(),
    js=(_HERE / "chart.js").read_text(),
    isolate_styles=False,  # plotly.js writes its styles into the page's head
)


def load() -> None:
    """Put plotly.js on the page; call it once in the page's own run, outside every fragment."""
    _flat()(key="plotly")


@functools.cache
def _flat():
    """A component that does nothing but put on the page what draws in two dimensions."""
    return _evaluates("paretoscope_plotly", _FLAT, "window.Plotly = window.PlotlyWhole ?? window.Plotly;")


@functools.cache
def _whole():
    """The same with the whole of plotly.js, for which chart.js waits where a chart has three dimensions."""
    import plotly

    return _evaluates("paretoscope_plotly_whole", Path(plotly.__file__).parent / "package_data" / "plotly.min.js", "window.PlotlyWhole = window.Plotly;")


def _evaluates(name: str, file: Path, after: str):
    return st.components.v2.component(name, js=f"{file.read_text(encoding='utf-8')}\n{after}\nexport default function () {{}}\n")


def chart(
    figure: dict,
    *,
    key: str,
    height: str,
    label: str,
    name: str = "paretoscope",
    glides: bool = False,
    listens: bool = False,
    on_pick: Callable[[str], None] | None = None,
    on_pin: Callable[[str], None] | None = None,
) -> None:
    """Draw a figure of `core.charts`, made with `THEME`. `height` is a CSS length, `name` the stem of downloaded files.

    With `glides`, the figure's last two traces move smoothly to a new place. With `listens`, a slider that is dragged anywhere
    on the page runs the fragment that draws this chart. `on_pick` receives the id of a run that was
    clicked, `on_pin` that of one clicked with shift held; both are called before the next run of the page.
    """
    traces = figure["data"]
    fixed, moving = (traces[:-2], traces[-2:]) if glides else (traces, [])
    layout = dict(figure["layout"])
    tall = layout["yaxis"].get("range") if glides else None  # grows while a point is dragged
    if tall:
        layout["yaxis"] = {name: value for name, value in layout["yaxis"].items() if name != "range"}
    deep = any(trace["type"] == "scatter3d" for trace in traces)
    if deep:
        _whole()(key="plotly-whole")
    text = json.dumps({"data": fixed, "layout": layout}, separators=(",", ":"))  # as text, the browser sees at once that it stayed
    rest = {"moving": moving, "tall": tall, "height": height, "label": label, "name": name, "listens": listens, "deep": deep}
    _component(
        key=key,
        data={"json": json.dumps({"fixed": text, **rest})},  # text: Streamlit would import pandas to see whether a list is a table
        on_drag_change=lambda: hear(state.reported(key, "drag")),
        on_pick_change=lambda: _told(key, "pick", on_pick),
        on_pin_change=lambda: _told(key, "pin", on_pin),
    )


def _told(key: str, event: str, act: Callable[[str], None] | None) -> None:
    value = state.reported(key, event)
    if act and isinstance(value, str):
        act(value)
