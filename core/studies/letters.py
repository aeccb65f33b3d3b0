"""The letters of pinned runs in a chart, placed so that they lie neither on each other nor on the baseline's star. Part of `core.charts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LETTERS = "ABCD"
CLOSE = 0.03, 0.04  # of the frame's width and height: letters whose points are closer would lie on each other


def beside(pins: Sequence[Mapping], x: str, x_range, y_range, baseline: Mapping | None, ink: str) -> list[dict]:
    """The letters above their points; those that would lie on each other, or on the star, stand together to the left of theirs."""
    pins = [(letter, row) for letter, row in zip(LETTERS, pins) if row.get(x) and row.get("top1") is not None]
    if not pins:
        return []

    def place(row: Mapping) -> tuple[float, float]:
        return (math.log10(row[x]) - x_range[0]) / (x_range[1] - x_range[0]), (row["top1"] - y_range[0]) / (y_range[1] - y_range[0])

    def close(one: Mapping, other: Mapping) -> bool:
        return all(abs(mine - theirs) < reach for mine, theirs, reach in zip(place(one), place(other), CLOSE, strict=True))

    groups: list[list[tuple[str, Mapping]]] = []
    for letter, row in pins:
        near = next((group for group in groups if any(close(row, other) for _, other in group)), None)
        if near is None:
            groups.append([(letter, row)])
        else:
            near.append((letter, row))
    crowded = [len(group) > 1 or bool(baseline and baseline.get(x) and close(group[0][1], baseline)) for group in groups]
    return [{
        "type": "scatter", "mode": "markers+text", "name": "Pinned", "uid": "pins", "showlegend": False, "hoverinfo": "skip",
        "x": [min(row[x] for _, row in group) for group in groups], "y": [sum(row["top1"] for _, row in group) / len(group) for group in groups],
        "text": [f"<b>{' '.join(letter for letter, _ in group)}</b>" for group in groups],
        "textposition": ["middle left" if beside else "top center" for beside in crowded], "textfont": {"size": 13, "color": ink},
        "marker": {"size": 14, "opacity": 0},  # which keeps the letters off the points
    }]  # fmt: skip
