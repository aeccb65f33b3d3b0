"""How commands speak: JSON and tables on standard output, sentences and progress on standard error. Imports no torch."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

SECONDS_BETWEEN_LINES = 15.0  # of progress, where there is no terminal to draw a bar on


def say(sentence: str) -> None:
    """One sentence for the person, beside the output."""
    print(sentence, file=sys.stderr, flush=True)


def warn(sentences: Sequence[str]) -> None:
    """What a person should know before the work begins."""
    for sentence in sentences:
        say(f"Warning: {sentence}")


def print_json(value: dict) -> None:
    """One object on one line. What is not a finite number becomes null: JSON has no NaN."""
    print(json.dumps(finite(value), allow_nan=False))


def finite(value: Any) -> Any:
    """The same value with None in place of NaN and the infinities, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as they need to be, two spaces apart; those numbered in `right` stand flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if column in right else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def bytes_text(count: int | None) -> str:
    """Decimal units with three significant figures: 44.7 MB, 561 kB, 96 B."""
    if count is None:
        return "–"
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{_three(count / size)} {unit}"
    return f"{count} B"


def count_text(count: int) -> str:
    """Thousands, millions and billions with three significant figures: 11.2 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{_three(count / size)} {unit}"
    return str(count)


def seconds_text(seconds: float) -> str:
    """8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


class Progress:
    """Called with the engine's events: draws a bar on a terminal, and writes a line now and then elsewhere."""

    def __init__(self, title: str):
        self.title = title
        self.last: dict = {}
        self._noted: set[str] = set()
        self._spoken = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from tqdm import tqdm

            sized = os.get_terminal_size(sys.stderr.fileno()).columns > 0  # a terminal of no size would show nothing
            size = {"dynamic_ncols": True} if sized else {"ncols": 80, "nrows": 24}
            self._bar = tqdm(total=1.0, desc=title, file=sys.stderr, leave=False, bar_format="{percentage:3.0f} %|{bar:20}| {desc}", **size)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_error) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: dict) -> None:
        if event.get("stage", self.last.get("stage")) != self.last.get("stage"):
            self.last = {}
        self._note(event.get("notes", ()))
        event = event | event.get("curve", {}) | ({"top1": event["metrics"]["top1"]} if event.get("metrics") else {})
        self.last |= event
        line = ", ".join([self.title, *self._facts()])
        fraction = min(1.0, max(0.0, self.last.get("fraction", 0.0)))
        if self._bar is not None:
            self._bar.n = fraction
            self._bar.set_description_str(line)
        elif time.monotonic() - self._spoken >= SECONDS_BETWEEN_LINES or "top1" in event:
            self._spoken = time.monotonic()
            say(f"{fraction:4.0%} {line}")

    def _note(self, notes: Sequence[str]) -> None:
        """What a step could not do, once, while there is still time to think again."""
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                if self._bar is not None:
                    self._bar.clear()
                say(f"Note: {note}")

    def _facts(self):
        event = self.last
        if "stage" in event:
            yield event["stage"]
        if event.get("seconds_left") is not None:
            yield f"{seconds_text(event['seconds_left'])} left"
        if "epoch" in event and "epochs" in event:
            yield f"epoch {event['epoch']:.1f} of {event['epochs']}"
        if "loss" in event:
            yield f"loss {event['loss']:.3f}"
        if "top1" in event:
            yield f"validation {event['top1']:.1f} %"
