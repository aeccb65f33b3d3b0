"""A slider that reports while it is dragged: Streamlit's own speaks only when it is let go.

A Custom Component v2. It sends a value at most every 150 ms while it moves ("drag") and one when it is let go
("release"); the newest value takes the place of any that was not handled yet. Works by pointer, touch and keyboard.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import streamlit as st

from pages.ui import state

DRAG, RELEASE = "drag", "release"
_HERE = Path(__file__).parent
_HTML = (
    '<div class="slider"><div class="head"><label></label><button class="help" type="button" aria-label="Help">?</button><output></output></div>'
    '<input type="range" /><div class="note"></div>'
    '<div class="answers" title="What the uncompressed model says of this picture, softened by the temperature" hidden>'
    '<img alt="" /><div class="bars"></div><div class="best"></div></div><div class="tip" popover="manual" role="tooltip"></div></div>'
)
_component = st.components.v2.component("paretoscope_slider", html=_HTML, css=(_HERE / "slider.css").read_text(), js=(_HERE / "slider.js").read_text())


def slider(
    label: str,
    value: float,
    *,
    key: str,
    on_move: Callable[[float, str], None],
    low: float = 0,
    high: float = 1,
    step: float = 1,
    stops: Sequence[float] | None = None,
    texts: Sequence[str] | None = None,
    percent: bool = False,
    unit: str = "",
    help: str = "",
    note: str = "",
    disabled: bool = False,
    answers: Mapping | None = None,
) -> None:
    """Draw one slider over `low`…`high` by `step`, or over `stops` (with their `texts`).

    `on_move(value, phase)` is called before the next run of the page, with phase "drag" or "release". While it is dragged, only
    the fragment of the live chart runs; when it is let go, the fragment that the slider is in. `value` moves the thumb unless a
    hand is on it. `answers` (of `core.lessons.answers`) are drawn below as bars, softened by the value as a
    temperature, at once and without asking the server.
    """
    told = state.reported(key, "at") or {}
    state.movers()[key] = on_move
    _component(
        key=key,
        data={"json": json.dumps({  # text: Streamlit would import pandas to see whether a list is a table
            "key": key, "label": label, "value": value, "low": low, "high": high, "step": step, "digits": _digits(step),
            "stops": list(stops) if stops else None,
            "texts": list(texts) if texts else None, "percent": percent, "unit": unit, "help": help, "note": note, "disabled": disabled,
            "seq": told.get("seq", 0), "answers": {name: answers[name] for name in ("logits", "names", "picture")} if answers else None,
        })},
        on_at_change=functools.partial(_moved, key, on_move),
    )  # fmt: skip


def _moved(key: str, on_move: Callable[[float, str], None]) -> None:
    told = state.reported(key, "at")
    hear(told | {"key": key} if isinstance(told, dict) else told, on_move)


def hear(told: object, on_move: Callable[[float, str], None] | None = None) -> None:
    """Pass on what a slider said; the one that is named in it, when it was heard by another component.

    A drag and the release after it travel by two components, and Streamlit may hand over both at once in any order: what is
    older than what was heard already says nothing.
    """
    if not isinstance(told, dict) or told.get("phase") not in (DRAG, RELEASE) or not isinstance(told.get("value"), (int, float)):
        return
    key, seq, heard = told.get("key"), told.get("seq", 0), state.session().setdefault("heard", {})
    if not isinstance(seq, (int, float)) or seq < heard.get(key, 0):
        return
    heard[key] = seq
    on_move = on_move or state.movers().get(key)
    if on_move:
        on_move(told["value"], told["phase"])


def _digits(step: float) -> int:
    """Decimals that a multiple of `step` needs, so that 0.1 + 0.2 is 0.3."""
    text = f"{step:.6f}".rstrip("0")
    return len(text.partition(".")[2])
