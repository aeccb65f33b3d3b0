"""A teacher's answers to real pictures as bars, which move in the browser while a temperature slider is dragged.

A Custom Component v2. It hears what the slider of `core`'s temperature says while it moves, so nothing is asked of the server
until that is let go; the other sliders of the page are heard too, since nothing else here follows a drag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import streamlit as st

from pages.ui import state

_HERE = Path(__file__).parent
_HTML = (
    '<div class="softened"><div class="shown"><img class="picture" alt="" /><div class="truth"></div>'
    '<div class="pictures" role="radiogroup" aria-label="Picture"></div></div><div class="bars"></div><p class="said"></p></div>'
)
_component = st.components.v2.component("paretoscope_softened", html=_HTML, css=(_HERE / "softened.css").read_text(), js=(_HERE / "softened.js").read_text())


def softened(
    answers: Sequence[Mapping], names: Sequence[str], *, at: int, temperature: float, slider: str, prefix: str, key: str, on_choose: Callable[[int], None]
) -> None:
    """Draw the answer number `at` of `core.lessons.answers.several`: softmax(logits / T) for every class, beside what it is at T = 1.

    `slider` is the key of the slider whose value is T; drags of sliders whose key begins with `prefix` are heard here and
    go no further. `on_choose` receives the number of a picture that was clicked, before the next run of the page.
    """
    data = {
        "answers": [{name: answer[name] for name in ("label", "logits", "picture")} for answer in answers], "names": list(names), "at": at,
        "temperature": temperature, "slider": slider, "prefix": prefix,
    }  # fmt: skip
    _component(key=key, data=data, on_picture_change=lambda: _chosen(key, len(answers), on_choose))


def _chosen(key: str, count: int, on_choose: Callable[[int], None]) -> None:
    told = state.reported(key, "picture")
    if isinstance(told, (int, float)) and told in range(count):
        on_choose(int(told))
