"""The live chart: a Custom Component v2 around `Plotly.react`, and the loader that gives the page plotly.js once.

`st.plotly_chart` remounts when its data change and forgets zoom and hidden traces; this keeps both over every update.
plotly.js is the copy inside the plotly package. The loader is constant and carries no data, so its 4.8 MB travel once a page load.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import plotly
import streamlit as st

from core.charts import Theme
from pages.ui import state
from pages.ui.slider import hear

THEME = Theme(ink="$ink", muted="$muted", grid="$grid", paper="$paper")  # the component fills these in from the page's theme
_HERE = Path(__file__).parent
_PLOTLY = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
_loader = st.components.v2.component("paretoscope_plotly", js=_PLOTLY + "\nexport default function () {}\n")
_component = st.components.v2.component(
    "paretoscope_chart",
    html='<div class="paretochart" role="img"></div>',
    css=(_HERE / "chart.css").read_text(),
    js=(_HERE / "chart.js").read_text(),
    isolate_styles=False,  # plotly.js writes its styles into the page's head
)


def load() -> None:
    """Put plotly.js on the page; call it once in the page's own run, outside every fragment."""
    _loader(key="plotly")


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
    text = json.dumps({"data": fixed, "layout": layout}, separators=(",", ":"))  # as text, the browser sees at once that it stayed
    _component(
        key=key,
        data={"fixed": text, "moving": moving, "tall": tall, "height": height, "label": label, "name": name, "listens": listens},
        on_drag_change=lambda: hear(state.reported(key, "drag")),
        on_pick_change=lambda: _told(key, "pick", on_pick),
        on_pin_change=lambda: _told(key, "pin", on_pin),
    )


def _told(key: str, event: str, act: Callable[[str], None] | None) -> None:
    value = state.reported(key, event)
    if act and isinstance(value, str):
        act(value)
