"""Draws the fields of any step from their metadata alone: slider, choice, switch or text, with help and range."""

from __future__ import annotations

import functools
from collections.abc import Callable

import streamlit as st

from core.recipe import Param, Step, params
from core.silent import idle
from core.studies.points import is_share, value_words
from pages.ui import state
from pages.ui.slider import RELEASE, slider

Change = Callable[[str, object, str], None]  # field name, new value, phase ("drag" or "release")


def draw(step: Step, key: str, on_change: Change, below: Callable[[Param], None] = lambda spec: None) -> None:
    """Every field of `step` that counts: a threshold that is set leaves no sparsity, a granularity of channels no size of groups.

    `on_change` is called before the next run of the page. `below` draws what belongs to a field that is on.
    """
    for spec in params(type(step)):
        if idle(step, spec.name):
            continue
        one(spec, getattr(step, spec.name), f"{key}-{spec.name}", functools.partial(on_change, spec.name))
        if getattr(step, spec.name) is not None:
            below(spec)


def one(spec: Param, value, key: str, told: Callable[[object, str], None]) -> None:
    """One field; `told(value, phase)` receives what a person sets."""
    if spec.type is bool:
        _ask(st.toggle, key, value, told, spec.title, help=spec.help or None)
    elif spec.choices:
        _choice(spec, value, key, told)
    elif spec.type is str:
        _ask(st.text_input, key, value, told, spec.title, help=spec.help or None, max_chars=500)
    else:
        _number(spec, value, key, told)


def _choice(spec: Param, value, key: str, told) -> None:
    options = [None, *spec.choices] if spec.optional and None not in spec.choices else list(spec.choices)
    widget = functools.partial(st.segmented_control, required=True) if len(options) <= 3 else st.selectbox
    _ask(  # by place, because a choice of None would be drawn as no choice
        widget, key, options.index(value), lambda at, phase: told(options[at], phase), spec.title, range(len(options)),
        format_func=lambda at: value_words(spec, options[at]), help=spec.help or None,
    )  # fmt: skip


def _number(spec: Param, value, key: str, told) -> None:
    if spec.optional:
        first = spec.type(spec.low) if spec.start is None else spec.start
        _ask(st.toggle, f"{key}-on", value is not None, lambda on, phase: told(first if on else None, phase), spec.title, help=spec.help or None)
        if value is None:
            return
    if spec.stops:
        places = {"stops": spec.stops, "texts": [value_words(spec, stop) for stop in spec.stops]}
    else:
        places = {"low": spec.low, "high": spec.high, "step": spec.step, "percent": is_share(spec), "unit": spec.unit}
    slider(
        "" if spec.optional else spec.title, value, key=key, **places,
        help="" if spec.optional else spec.help, on_move=lambda at, phase: told(spec.type(at), phase),
    )  # fmt: skip


def _ask(widget, key: str, value, told, label: str, *arguments, **options) -> None:
    """A Streamlit widget that shows `value` and tells what it was set to."""
    key = state.mirror(key, value)
    widget(label, *arguments, key=key, on_change=state.told(key, lambda value: told(value, RELEASE)), **options)
