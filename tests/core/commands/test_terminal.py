"""How commands speak: strict JSON, spoken units, progress with and without a terminal, the report of a run."""

import fcntl
import json
import math
import os
import pty
import struct
import sys
import termios

import pytest

from core.commands import terminal
from core.commands.report import report


def test_the_report_says_when_latency_is_not_distinguishable():
    row = {"runtime": "onnxruntime-float32", "threads": 1, "batch": 1, "ms_p10": 0.9, "ms_p50": 1.0, "ms_p90": 1.2}
    metrics = {
        "top1": 90.0, "top1_low": 89.0, "top1_high": 91.0, "top5": 99.0, "images": 5000, "parameters": 11_200_000, "nonzero": 11_200_000, "macs": 37_000_000,
        "paper_bytes": 44_700_000, "artifact_bytes": 44_700_000, "deployed_bytes": None, "provenance": {}, "notes": ["A note."],
        "latencies": [row | {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}],
    }  # fmt: skip
    after = metrics | {"artifact_bytes": 561_000, "latencies": [row | {"ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6}]}
    result = {
        "model": "m", "dataset": "d", "split": "test", "recipe": {"steps": []}, "baseline": metrics, "metrics": after,
        "difference": {"top1": -0.4, "low": -0.7, "high": -0.1}, "seconds": {"total": 71.2},
    }  # fmt: skip
    text = report(result)
    assert "−0.40 points (−0.70 … −0.10, paired)" in text and "79.68 × smaller" in text and "A note." in text and "1 min 11 s" in text
    assert "0.50 × the baseline's (0.40 … 0.60), faster" in text and "not distinguishable" not in text and "Runs as" not in text
    after["latencies"][0] |= {"ratio_high": 1.1}
    assert "not distinguishable" in report(result)


def test_json_never_holds_nan(capsys):
    terminal.print_json({"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.5, "NaN"), "e": None})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, {"c": None}], "d": [1.5, "NaN"], "e": None}


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (561_400, "561 kB"), (44_700_000, "44.7 MB"), (2_500_000_000, "2.50 GB")],
)
def test_bytes_are_decimal_with_three_figures(count, text):
    assert terminal.bytes_text(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_seconds_are_spoken(seconds, text):
    assert terminal.seconds_text(seconds) == text


def test_progress_away_from_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    with terminal.Progress("m on d") as progress:
        for second in range(40):
            clock[0] += 1
            progress({"stage": "train", "fraction": second / 40, "curve": {"epoch": second / 10, "epochs": 4, "loss": 1.0, "seconds_left": 40 - second}})
        progress({"stage": "evaluate", "fraction": 1.0, "metrics": {"top1": 91.25}})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        " 35% m on d, train, 26 s left, epoch 1.4 of 4, loss 1.000", " 72% m on d, train, 11 s left, epoch 2.9 of 4, loss 1.000",
        "100% m on d, evaluate, validation 91.2 %",
    ]  # fmt: skip


@pytest.fixture
def screen(monkeypatch):
    """Puts a terminal so many columns wide in place of standard error (0: one that has no size), and reads what was drawn on it."""
    ours, theirs = pty.openpty()
    stream = os.fdopen(theirs, "w", encoding="utf-8")
    monkeypatch.setenv("TERM", "xterm")

    def show(columns: int) -> None:
        monkeypatch.setattr(sys, "stderr", stream)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))

    def read() -> str:
        stream.flush()
        os.set_blocking(ours, False)
        found = b""
        while True:
            try:
                found += os.read(ours, 65536)
            except BlockingIOError:
                return found.decode()

    yield show, read
    stream.close()
    os.close(ours)


@pytest.mark.parametrize("columns", [0, 120])
def test_progress_on_a_terminal_is_a_bar_that_goes_away(screen, columns, capsys):
    show, read = screen
    show(columns)
    with terminal.Progress("m on d") as progress:
        progress({"stage": "train", "fraction": 0.25, "curve": {"epoch": 1.0, "epochs": 4, "loss": 0.75, "seconds_left": 90}})
        first = read()
        progress({"stage": "evaluate", "fraction": 0.95})
        second = read()
    assert " 25 %|█████               | m on d, train, 1 min 30 s left, epoch 1.0 of 4" + (", loss 0.750" if columns else "") in first
    assert " 95 %|███████████████████ | m on d, evaluate" in second and "loss" not in second.rpartition("evaluate")[2]
    assert "\n" not in first + second  # one line, drawn over and over
    assert read().rpartition("\r")[0].strip() == ""  # and wiped in the end
    assert capsys.readouterr().out == ""


def test_a_terminal_that_can_draw_nothing_gets_lines(screen, monkeypatch):
    show, read = screen
    show(80)
    monkeypatch.setenv("TERM", "dumb")
    with terminal.Progress("m on d") as progress:
        progress({"stage": "evaluate", "fraction": 1.0, "metrics": {"top1": 91.25}})
    assert read().splitlines() == ["100% m on d, evaluate, validation 91.2 %"]


def test_notes_are_said_at_once_and_once(capsys):
    with terminal.Progress("m on d") as progress:
        for _ in range(2):
            progress({"fraction": 0.1, "notes": ["A layer is empty."]})
    assert capsys.readouterr().err == "Note: A layer is empty.\n"
