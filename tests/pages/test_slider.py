"""What a slider says reaches the page in the order in which it was said."""

from __future__ import annotations

import pytest

from pages.ui import state
from pages.ui.slider import DRAG, RELEASE, hear


@pytest.fixture
def session(monkeypatch):
    remembered: dict = {}
    monkeypatch.setattr(state, "session", lambda: remembered)
    return remembered


def test_a_drag_that_arrives_after_its_release_says_nothing(session):
    moves = []
    said = [(0.4, DRAG, 1), (0.6, RELEASE, 3), (0.5, DRAG, 2), (0.7, DRAG, 4)]
    for value, phase, seq in said:
        hear({"key": "sparsity", "value": value, "phase": phase, "seq": seq}, lambda *move: moves.append(move))
    assert moves == [(0.4, DRAG), (0.6, RELEASE), (0.7, DRAG)]


def test_each_slider_counts_for_itself(session):
    moves = []
    for key, seq in (("sparsity", 9), ("bits", 1)):
        hear({"key": key, "value": seq, "phase": RELEASE, "seq": seq}, lambda *move: moves.append(move))
    assert len(moves) == 2


@pytest.mark.parametrize("told", [None, "text", {"phase": "thrown", "value": 1}, {"phase": DRAG, "value": "far"}, {"phase": DRAG, "value": 1, "seq": "soon"}])
def test_what_is_no_slider_is_not_heard(session, told):
    hear(told, lambda *move: pytest.fail("it was heard"))
