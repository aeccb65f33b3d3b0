"""What the page "Distill" says: the two runs at hand, how far they are, and what the curve over the temperature comes to.

Pure text and small HTML; knows nothing of Streamlit.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from core.lessons.students import SEEDS, TEMPERATURES, Curve, Lesson, Spread
from core.store import CANCELLED, COMPLETE, FAILED
from core.studies.points import bytes_words, count_words, signed, times_words

SIDES = {"taught": "With the teacher", "alone": "Alone"}
STAGES = {"train": "training", "evaluate": "evaluating", "compress": "asking the teacher"}


def pair(rows: Mapping[str, Mapping | None], difference: Mapping | None, teacher: Mapping | None) -> str:
    """The two runs as lines, their paired difference, and what the student costs beside its teacher."""
    lines = "".join(f'<div class="side {side}"><span>{name}</span>{_figure(rows[side])}</div>' for side, name in SIDES.items())
    return f'<div class="pair">{lines}{_difference(difference)}{_cost(rows, teacher)}</div>'


def _figure(row: Mapping | None) -> str:
    if row is None:
        return '<span class="quiet">not measured yet</span>'
    if row["state"] == COMPLETE:
        metrics = row["metrics"]
        return f'<span><b>{metrics["top1"]:.2f} %</b> <span class="quiet">({metrics["top1_low"]:.2f}…{metrics["top1_high"]:.2f})</span></span>'
    if row["state"] == FAILED:
        return f'<span class="tag wrong">{escape(row.get("message") or "The run failed.")}</span>'
    return f'<span class="quiet">{"cancelled" if row["state"] == CANCELLED else "under way"}</span>'


def _difference(difference: Mapping | None) -> str:
    if difference is None:
        return ""
    span = f"({signed(difference['low'])}…{signed(difference['high'])})"
    same = difference["low"] <= 0 <= difference["high"]
    said = f"not distinguishable {span}" if same else f"<b>{signed(difference['top1'])} points</b> {span}"
    return f'<div class="quiet">The teacher’s worth here, paired: {said}</div>'


def _cost(rows: Mapping[str, Mapping | None], teacher: Mapping | None) -> str:
    done = next((row for row in rows.values() if row and row["state"] == COMPLETE), None)
    if done is None:
        return ""
    metrics, said = done["metrics"], f"validation, n = {done['metrics']['images']:,}"
    size = f"{count_words(metrics['parameters'])} parameters, {bytes_words(metrics['artifact_bytes'])} to download"
    if teacher and teacher.get("macs") and teacher.get("artifact_bytes"):
        fewer, smaller = teacher["macs"] / metrics["macs"], teacher["artifact_bytes"] / metrics["artifact_bytes"]
        size += f": {times_words(smaller)} smaller than the teacher, {times_words(fewer)} fewer MACs"
    return f'<div class="quiet">{size}. {_where(done)}, {said}.</div>'


def _where(row: Mapping) -> str:
    if row.get("origin") != "gallery":
        return "Measured here"
    return f"Shipped, measured on {escape(row['machine']['cpu'])}" if (row.get("machine") or {}).get("cpu") else "Shipped"


def progress(side: str, row: Mapping) -> str:
    """`With the teacher: training, 12 s left`."""
    doing = STAGES.get(row.get("stage"), "waiting")
    if doing == "training" and not row.get("curve"):
        doing = "starting"
    left = row.get("seconds_left")
    return f"{SIDES[side]}: {doing}" + (f", {left:.0f} s left" if left and doing == "training" else "")


def curve(validation: Curve, test: Curve | None, lesson: Lesson) -> str:
    """What the curve says, as far as it is measured; the test split's word for it where that was asked."""
    best, alone = validation.best(), validation.spread(None)
    if best is None or alone is None or alone.count < len(SEEDS):
        known = len(validation.alone) + sum(map(len, validation.taught.values()))
        so_far = f"{known} run{'s' if known > 1 else ''} so far" if known else "not measured yet for this student, training and data"
        return f'<span class="quiet">The curve is {so_far}; a temperature counts when all {len(SEEDS)} seeds are known, with the teacher and alone.</span>'
    taught = validation.spread(best)
    so_far = "" if all(len(validation.taught.get(temperature, {})) == len(SEEDS) for temperature in TEMPERATURES) else " of those measured so far"
    said = f"At the best temperature{so_far}, <b>{best:g}</b>, the student reaches {_spread(taught)}; alone {_spread(alone)}: {_gain(taught, alone)}."
    confirmed, own = (test.spread(best), test.spread(None)) if test else (None, None)
    if confirmed and own and confirmed.count == own.count == len(SEEDS):
        said += f" On the test split, which chose nothing: {_spread(confirmed)} against {_spread(own)}, {_gain(confirmed, own)}."
    else:
        said += " <span class='quiet'>The temperature was chosen on these very pictures; the test split is not measured yet.</span>"
    return f"{said} <span class='quiet'>Means of {len(SEEDS)} seeds, lowest…highest; {lesson.images:,} training pictures.</span>"


def _spread(spread: Spread) -> str:
    return f"<b>{spread.mean:.2f} %</b> ({spread.low:.2f}…{spread.high:.2f})"


def _gain(taught: Spread, alone: Spread) -> str:
    gain = taught.mean - alone.mean
    apart = taught.low > alone.high or taught.high < alone.low
    return f"<b>{signed(gain)} points</b>, {'and the ranges do not touch' if apart else 'but the ranges overlap'}"
