"""What the page says in sentences: the line under the chart, why latency is what it is, and what the budgets answer.

Pure text and small HTML; knows nothing of Streamlit. Every figure names what it is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from core.charts import AXES
from core.metrics.latency import INT8
from core.pareto import MAX, Answer, Limit
from core.recipe import GRID, PRUNE, STRUCTURE, TRAIN, Recipe
from core.studies import points
from core.studies.points import PREVIEW, how_timed, indistinct, signed

SIMULATED = "simulated"


def smaller(here: Mapping, baseline: Mapping) -> str:
    times = baseline["artifact_bytes"] / here["artifact_bytes"]
    if times >= 1.005:
        return f"<b>{times:.1f} times smaller</b> to download"
    return "<b>no smaller</b> to download" if times > 0.995 else f"<b>{1 / times:.2f} times larger</b> to download"


def lower(here: Mapping) -> str:
    """The paired difference in accuracy with its interval; "not distinguishable" when that contains 0."""
    if here.get("gained") is None:
        return ""
    span = f"({signed(here['gained_low'])}…{signed(here['gained_high'])})"
    if indistinct(here, "gained_low", "gained_high", 0):
        return f"accuracy <b>not distinguishable</b> {span}"
    return f"<b>{abs(here['gained']):.2f} points {'higher' if here['gained'] > 0 else 'lower'}</b> {span}"


def slower(here: Mapping) -> str:
    if here.get("ratio") is None:
        return "latency not measured yet"
    where = f" ({how_timed(here)})" if how_timed(here) else ""
    if indistinct(here, "ratio_low", "ratio_high", 1):
        return f"latency <b>not distinguishable</b>{where}"
    span = f"({here['ratio_low']:.2f}…{here['ratio_high']:.2f})"
    if here["ratio"] < 1:
        return f"<b>{1 / here['ratio']:.2f} times faster</b>{where}, ratio {here['ratio']:.2f} {span}"
    return f"<b>{here['ratio']:.2f} times slower</b> {span}{where}"


def sentence(here: Mapping | None, baseline: Mapping | None, before_recovery: bool) -> str:
    """The one sentence under the chart, as HTML."""
    if here is None or baseline is None:
        return "Nothing is measured yet."
    if not here.get("artifact_bytes") or here.get("top1") is None:
        return "Nothing is measured yet."
    if here["state"] == PREVIEW:
        when = ", before recovery by training" if before_recovery else ""
        speed = f"; {slower(here)}" if here.get("ratio") is not None else ""
        return f'<span class="tag">preview, {here["images"]:,} pictures{when}</span> {_and(smaller(here, baseline), lower(here))}{speed}.'
    return f"{_and(smaller(here, baseline), lower(here))}; {slower(here)}."


def _and(*parts: str) -> str:
    """The difference comes last of a run's figures, so it may not be there yet."""
    return ", ".join(filter(None, parts))


def no_preview(seconds: float) -> str:
    """What stands in a preview's place where the pictures are too large for one, as HTML."""
    return f'<span class="tag">too large to preview: 64 pictures take longer than a second</span> The run takes <b>{duration(seconds)}</b>, estimated.'


def why(recipe: Recipe, here: Mapping | None) -> list[str]:
    """Why the latency is what it is, and what is simulated: one paragraph each."""
    here = here or {}
    kinds = {step.kind for step in recipe.steps}
    shapes = {step.name for step in recipe.steps if step.kind == STRUCTURE}
    int8 = here["runtime"] == INT8 if here.get("runtime") else points.int8(recipe)
    said = [
        "Latency is measured for one picture on one thread, in blocks that alternate with the baseline's; "
        "it is *not distinguishable* when the 95 % interval of the ratio contains 1."
    ]
    if PRUNE in kinds:
        said.append("Zeros scattered among the weights run on dense kernels, so they make the file smaller and nothing faster.")
    if any(step.first for step in recipe.steps):
        said.append("The student is a network of its own, with shapes of its own.")
    if "factorize" in shapes:
        said.append("Layers were replaced by low-rank factors: two or three smaller ones in a row, which compute less, but one after the other.")
    if "channel_prune" in shapes:
        said.append("Whole channels were removed: the shapes are really smaller, so there is less to compute.")
    if GRID in kinds and int8:
        said.append("Weights and activations are both in 8 bits, so ONNX Runtime executes real int8 kernels.")
    elif GRID in kinds:
        simulated = here.get("provenance", {}).get("top1") == SIMULATED
        said.append(
            "What is stored in fewer bits is widened to float32 before it is multiplied: the latency is the float32 graph's."
            + (" No common processor kernel computes on such grids, so the accuracy is simulated on the very same ones." if simulated else "")
        )
    if TRAIN in kinds:
        said.append("Training changes the weights' values only; it costs nothing when the model runs.")
    if GRID not in kinds and not kinds & {PRUNE, STRUCTURE}:
        said.append("The graph is the baseline's, so its latency is too.")
    return [*said, *here.get("notes", [])]


def limit_words(limit: Limit) -> str:
    if limit.direction == MAX:
        return f"at least {limit.value:g} % accuracy"
    return f"at most {AXES[limit.objective].words(limit.value)}" + (" of the baseline's latency" if limit.objective == "ratio" else " to download")


def budget_answer(rows: Sequence[Mapping], limits: Sequence[Limit], answer: Answer) -> str:
    """What the budgets leave, in words, as HTML."""
    asked = ", ".join(limit_words(limit) for limit in limits)
    if answer.best is not None:
        best = rows[answer.best]
        text = f"Best measured run with {asked}: <b>{escape(best['words'])}</b>, {_figures(best)}."
        if answer.binding:
            text += f" What keeps better ones out is the budget of {limit_words(answer.binding)}."
        return text
    text = f"No measured run has {asked}."
    if answer.nearest is not None:
        near = rows[answer.nearest]
        text += f" The nearest is <b>{escape(near['words'])}</b>, {_figures(near)}."
    if answer.binding:
        text += f" The budget that binds is {limit_words(answer.binding)}."
    return text


def _figures(row: Mapping) -> str:
    found = f"{row['top1']:.2f} %, {AXES['artifact_bytes'].words(row['artifact_bytes'])}"
    if row.get("ratio") is None:
        return found
    return found + f", {row['ratio']:.2f} × latency" + (" (another machine)" if row["elsewhere"] else "")


def duration(seconds: float) -> str:
    """`≈ 20 s`, `≈ 3 min`."""
    if seconds < 10:
        return f"≈ {max(1, round(seconds))} s"
    if seconds < 90:
        return f"≈ {5 * round(seconds / 5)} s"
    return f"≈ {round(seconds / 60)} min" if seconds < 5400 else f"≈ {seconds / 3600:.1f} h"
