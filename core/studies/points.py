"""A run as one flat row, and a recipe in words: what charts, tables and sentences read.

Made from the JSON form of results, previews and rows of the store. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from core.recipe import GRID, PRUNE, STRUCTURE, TRAIN, Param, Recipe, Step, params

MEASURED, PREVIEW = "measured", "preview"

# What a recipe mainly is, in the order in which it is recognised: the last that fits names it.
FAMILIES = (
    "Baseline", "Other steps", "Fewer bits", "int8", "Weights pruned", "Pruned, fewer bits", "Low rank", "Channels removed", "Fine-tuned", "Distilled",
)  # fmt: skip
FIGURES = (
    "top1",
    "top1_low",
    "top1_high",
    "top5",
    "images",
    "parameters",
    "nonzero",
    "macs",
    "activation_bytes",
    "paper_bytes",
    "artifact_bytes",
    "deployed_bytes",
)


RUNTIMES = {
    "float32": "onnxruntime-float32", "int8": "onnxruntime-int8", "pytorch": "pytorch-float32", "litert": "litert-float32", "litert_int8": "litert-int8",
}  # fmt: skip
DISTURBED = "disturbed by other load"
MOST_OF_LAYERS = 24  # characters of their patterns that a step in words has


def family(recipe: Recipe) -> str:
    """The one of `FAMILIES` that says what a recipe mainly does to a model."""
    kinds = {step.kind for step in recipe.steps}
    if not recipe.steps:
        return "Baseline"
    if any(step.name == "distill" for step in recipe.steps):
        return "Distilled"
    if any(step.name == "factorize" for step in recipe.steps):
        return "Low rank"
    if any(step.kind == STRUCTURE and not step.first for step in recipe.steps):
        return "Channels removed"
    if TRAIN in kinds:
        return "Fine-tuned"
    if PRUNE in kinds:
        return "Pruned, fewer bits" if GRID in kinds else "Weights pruned"
    if GRID in kinds:
        return "int8" if int8(recipe) else "Fewer bits"
    return "Other steps"


def int8(recipe: Recipe) -> bool:
    """Whether the grids that last, of weights and of the values between layers, are such that integer kernels can run them, as far as a recipe tells."""
    weights = _lasting([step for step in recipe.steps if step.grids_weights])
    values = _lasting([step for step in recipe.steps if step.rounds_activations])
    return (
        bool(weights and values)
        and all(getattr(step, "int8_weights", False) for step in weights)
        and all(getattr(step, "int8_values", False) for step in values)
    )


def _lasting(steps: list[Step]) -> list[Step]:
    """Those that no later one repeats, on all layers or on the same."""
    found: list[Step] = []
    for step in reversed(steps):
        if not any(getattr(later, "layers", "all") in ("all", getattr(step, "layers", "all")) for later in found):
            found.append(step)
    return found


def is_share(spec: Param) -> bool:
    """Whether a field is a share of 1, to be shown in percent."""
    return spec.type is float and spec.low == 0 and spec.high is not None and 0.9 <= spec.high <= 1


def value_words(spec: Param, value: object) -> str:
    """A field's value with its unit: `80 %`, `4 bits`, `0.01`."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if is_share(spec):
        return f"{100 * value:g} %"
    return f"{value:,g}" + (f" {spec.unit}" if spec.unit else "")


def step_words(step: Step) -> str:
    """A step's title with its first number, and its layers where they are chosen: `Prune weights 80 %`, `Quantize 4 bits on fc`, `Distill, temperature 4`.

    A threshold that is set stands in place of the sparsity that it overrides. Amounts of pictures are left out.
    """
    return _what(step) + _where(step)


def unmarked(text: str) -> str:
    """A text as it is where Markdown is read: patterns of layers have asterisks and brackets."""
    return re.sub(r"([\\`*_\[\]$:~<>#])", r"\\\1", text)


def _where(step: Step) -> str:
    spec = next((spec for spec in params(type(step)) if spec.name == "layers"), None)
    if spec is None or step.layers == spec.default:
        return ""
    if step.layers in ("all", "inner"):
        return f" on {step.layers} layers"
    return f" on {step.layers if len(step.layers) <= MOST_OF_LAYERS else step.layers[: MOST_OF_LAYERS - 1] + '…'}"


def _what(step: Step) -> str:
    if getattr(step, "threshold", None) is not None:
        return f"{step.called} below {step.threshold:g}"
    for spec in params(type(step)):
        value = getattr(step, spec.name)
        if spec.type in (int, float) and value is not None and spec.unit != "pictures":
            plain = is_share(spec) or spec.unit
            return f"{step.called} {value_words(spec, value)}" if plain else f"{step.called}, {spec.title.lower()} {value_words(spec, value)}"
    return step.called


def words(recipe: Recipe) -> str:
    """`Prune weights 80 % → Quantize 4 bits → Repair batch norm`."""
    return " → ".join(step_words(step) for step in recipe.steps) or "Uncompressed"


def latency(metrics: Mapping) -> dict | None:
    """The latency that stands for a run: real int8 where it has one, else float32, in ONNX Runtime, else in PyTorch."""
    found = {entry["runtime"]: entry for entry in metrics.get("latencies") or []}
    for runtime in ("onnxruntime-int8", "onnxruntime-float32", "pytorch-float32"):
        if runtime in found:
            return found[runtime]
    return None


def point(row: Mapping, *, state: str = MEASURED, elsewhere: bool = False) -> dict:
    """One flat row of a result's JSON form. `elsewhere` says that its latency is another machine's.

    Keys: `id` (model/key), `model`, `dataset`, `key`, `recipe` (JSON), `words`, `family`, `state`, `split`, `elsewhere`, every one of
    `FIGURES`, `operators` (the key of its graph), `ratio`, `ratio_low`, `ratio_high`, a `ratio_` for each of `RUNTIMES`, `ms_p10`, `ms_p50`,
    `ms_p90`, `runtime`, `brief` (a first, short measurement of latency), `disturbed` (by other load), `gained` (points against the baseline),
    `gained_low`, `gained_high`, `provenance` and `notes`. What was not measured is None.
    """
    recipe = Recipe.from_json(row["recipe"])
    metrics, difference = row["metrics"], row.get("difference") or {}
    key = row.get("key") or recipe.key()
    return {
        "id": f"{row['model']}/{key}", "model": row["model"], "dataset": row["dataset"], "key": key, "recipe": row["recipe"],
        "words": words(recipe), "family": family(recipe), "state": state, "split": row.get("split", "validation"), "elsewhere": elsewhere,
        **{name: metrics.get(name) for name in FIGURES},
        **timing(metrics), "operators": metrics.get("graph"),
        "gained": difference.get("top1"), "gained_low": difference.get("low"), "gained_high": difference.get("high"),
        "provenance": metrics.get("provenance", {}), "notes": metrics.get("notes", []),
        "machine": (row.get("machine") or {}).get("cpu"), "date": row.get("date"), "seconds": row.get("seconds") or {},
    }  # fmt: skip


def timing(metrics: Mapping) -> dict:
    """The columns of a point that say its latency."""
    stands, ratios = latency(metrics) or {}, {entry["runtime"]: entry.get("ratio") for entry in metrics.get("latencies") or []}
    found = {name: stands.get(name) for name in ("ratio", "ratio_low", "ratio_high", "ms_p10", "ms_p50", "ms_p90", "runtime")}
    found |= {name: stands.get(name, False) for name in ("brief", "disturbed")}
    return found | {f"ratio_{name}": ratios.get(runtime) for name, runtime in RUNTIMES.items()}


def how_timed(point: Mapping) -> str:
    """What is to be known of a point's latency before it is believed; "" of one that was measured calmly on this machine."""
    said = {"another machine": point["elsewhere"], "a short first look": point.get("brief"), DISTURBED: point.get("disturbed")}
    return ", ".join(words for words, true in said.items() if true)


def unrest(timing: Mapping) -> str:
    """What goes behind the figure of a measurement that was not calm; "" of one that was."""
    return f", {DISTURBED}" if timing.get("disturbed") else ""


def timed(point: Mapping, latencies: list[dict]) -> dict:
    """A preview's point with the latency that its run has measured by now."""
    return dict(point) | timing({"latencies": latencies})


def indistinct(point: Mapping, low: str, high: str, nothing: float) -> bool:
    """Whether an interval contains the value that means "no difference"."""
    return point.get(low) is not None and point.get(high) is not None and point[low] <= nothing <= point[high]


def bytes_words(count: float | None) -> str:
    """`1.23 MB`, `98 kB` (1 kB is 1,000 bytes); a dash for nothing."""
    if count is None:
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{_three(count / size)} {unit}"
    return f"{count:.0f} B"


def count_words(count: float | None) -> str:
    """`37.2 M`, `1.1 G`; a dash for nothing."""
    if count is None:
        return "–"
    for unit, size in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if count >= size:
            return _three(count / size) + unit
    return f"{count:.0f}"


def times_words(times: float | None) -> str:
    """A ratio: `36.8 ×`, `0.52 ×`."""
    return "–" if times is None else f"{_three(times)} ×"


def ms_words(ms: float | None) -> str:
    """`14.2 ms`, `0.31 ms`, `2.40 s`; a dash for nothing."""
    if ms is None:
        return "–"
    return f"{_three(ms / 1000)} s" if ms >= 1000 else f"{_three(ms)} ms"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, a true minus: `+0.12`, `−1.40`."""
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else ("+" if value > 0 else "−") + text


def _three(value: float) -> str:
    """Three significant digits without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def newest(rows: Iterable[Mapping]) -> dict[str, Mapping]:
    """id → the last point of that id: later rows take the place of earlier ones."""
    return {row["id"]: row for row in rows}
