"""What the explorer shows, and its form in the address bar: everything a link restores. Knows nothing of Streamlit.

`decode(encode(view))` gives the same view. A link from elsewhere is met with good will: what cannot be used is replaced, and
each replacement is one sentence.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

import core.methods  # noqa: F401  (registers the steps)
from core import zoo
from core.charts import AXES
from core.datasets import DATASETS
from core.errors import BadInput
from core.pareto import MAX, MIN, Limit
from core.recipe import MAX_STEPS, STEPS, Param, Recipe, Step, params
from core.targets.devices import devices
from core.work import Work
from pages.ui import choices, looked_at, timed_at

Query = dict[str, list[str]]
X_WORDS = {
    "download": "artifact_bytes", "runs-as": "deployed_bytes", "on-paper": "paper_bytes", "macs": "macs", "latency": "ratio",
    "activations": "activation_bytes", "float32-latency": "ratio_float32", "int8-latency": "ratio_int8", "pytorch-latency": "ratio_pytorch",
    "litert-latency": "ratio_litert", "litert-int8-latency": "ratio_litert_int8",
    "device-latency": "device_ms",
}  # fmt: skip
BUDGETS = {"accuracy": ("top1", MAX, 0.0, 100.0, 1.0), "kilobytes": ("artifact_bytes", MIN, 0.1, 1e6, 1e3), "latency": ("ratio", MIN, 0.01, 100.0, 1.0)}
MOST_PINS = 4
LONGEST = 2_000  # characters of one value
LARGEST = 1e15  # of a number that a slider's position is looked for; what lies beyond is refused by its step

DEFAULT_STEPS = (
    {"step": "magnitude_prune", "sparsity": 0.8},
    {"step": "quantize", "weight_bits": 4, "clipping": "mse"},
    {"step": "calibrate_batchnorm"},
)


def default_recipe() -> Recipe:
    return Recipe.from_json({"steps": list(DEFAULT_STEPS)})


@dataclass(frozen=True)
class View:
    """One state of the pages. Budgets are None where none is set: percent, kilobytes of the download, times the latency."""

    model: str = "resnet18"
    dataset: str = "fashion_mnist"
    recipe: Recipe = dataclasses.field(default_factory=default_recipe)
    x: str = "artifact_bytes"
    third: str | None = None
    three_d: bool = False
    all_models: bool = False
    accuracy: float | None = None
    kilobytes: float | None = None
    latency: float | None = None
    pins: tuple[str, ...] = ()
    device: str = "raspberry_pi_4"
    lesson: choices.Choices = dataclasses.field(default_factory=choices.Choices)
    looked_at: looked_at.LookedAt = dataclasses.field(default_factory=looked_at.LookedAt)
    timed: timed_at.TimedAt = dataclasses.field(default_factory=timed_at.TimedAt)

    def work(self) -> Work:
        """The recipe on the model and the dataset; raises what `Work` raises of what cannot be."""
        return Work(self.model, self.dataset, self.recipe)

    def limits(self) -> list[Limit]:
        return [
            Limit(objective, direction, getattr(self, name) * unit)
            for name, (objective, direction, _, _, unit) in BUDGETS.items()
            if getattr(self, name) is not None
        ]

    def replace(self, **changes) -> View:
        return dataclasses.replace(self, **changes)


def encode(view: View) -> Query:
    """The query parameters of a view; what is as usual is left out, except model, data and steps."""
    words = {axis: word for word, axis in X_WORDS.items()}
    query: Query = {"model": [view.model], "data": [view.dataset], "step": [_encode_step(step) for step in view.recipe.steps] or ["none"]}
    if view.recipe.seed:
        query["seed"] = [str(view.recipe.seed)]
    if view.x != View.x:
        query["x"] = [words[view.x]]
    if view.third:
        query["size"] = [words[view.third]]
    if view.three_d:
        query["view"] = ["3d"]
    if view.all_models:
        query["front"] = ["all"]
    for name in BUDGETS:
        if getattr(view, name) is not None:
            query[name] = [f"{getattr(view, name):.12g}"]
    if view.pins:
        query["pin"] = list(view.pins)
    if view.device != View.device:
        query["device"] = [view.device]
    return query | choices.encode(view.lesson) | looked_at.encode(view.looked_at) | timed_at.encode(view.timed)


def decode(query: Mapping[str, Sequence[str]]) -> tuple[View, list[str]]:
    """The view that a link asks for, and a sentence for everything that had to be replaced."""
    said: list[str] = []
    view = View()
    model, dataset = _one(query, "model"), _one(query, "data")
    if model is not None:
        view = _try(view, said, lambda: view.replace(model=zoo.check_model(model)["name"]))
    if dataset is not None:
        view = _try(view, said, lambda: view.replace(dataset=DATASETS.get(dataset).name))
    if "step" in query or "seed" in query:
        view = view.replace(recipe=_decode_recipe(query, said))
    device = _one(query, "device")
    if device is not None:
        try:
            view = view.replace(device=devices().get(device).name)
        except BadInput as error:
            said.append(f"{error} {devices().get(view.device).title} is shown instead.")
    axes = {"x": _axis(query, "x", said) or View.x, "third": _axis(query, "size", said)}
    budgets = {name: _budget(name, _one(query, name), said) for name in BUDGETS}
    pins = tuple(dict.fromkeys(pin for pin in query.get("pin", ()) if 0 < len(pin) <= 80))[:MOST_PINS]
    view = view.replace(lesson=choices.decode(query, said, _snapped), looked_at=looked_at.decode(query, said), timed=timed_at.decode(query, said))
    return view.replace(**axes, **budgets, pins=pins, three_d=_one(query, "view") == "3d", all_models=_one(query, "front") == "all"), said


def snap(spec: Param, value: float) -> float:
    """The nearest of a field's slider positions."""
    if spec.choices:
        return min((choice for choice in spec.choices if choice is not None), key=lambda choice: abs(choice - value))
    if spec.stops:
        return min(spec.stops, key=lambda stop: abs(stop - value))
    steps = round((min(max(value, spec.low), spec.high) - spec.low) / spec.step)
    return spec.type(min(round(spec.low + steps * spec.step, 9), spec.high))


def _encode_step(step: Step) -> str:
    """`magnitude_prune~sparsity~0.8`: the name, then field and value in turn, only those that are not the default."""
    parts = [step.name]
    for spec in params(type(step)):
        value = getattr(step, spec.name)
        if value != spec.default:
            parts += [spec.name, quote(value, safe="").replace("~", "%7E") if isinstance(value, str) else json.dumps(value)]
    return "~".join(parts)


def _decode_recipe(query: Mapping[str, Sequence[str]], said: list[str]) -> Recipe:
    texts = [text for text in query.get("step", ()) if text != "none"]
    if len(texts) > MAX_STEPS:
        said.append(f"The link has {len(texts)} steps; the first {MAX_STEPS} are used.")
    steps = [_decode_step(text[:LONGEST], said) for text in texts[:MAX_STEPS]]
    seed = _one(query, "seed") or "0"
    try:
        return Recipe(tuple(step for step in steps if step), int(seed) if seed.isascii() and seed.isdigit() and len(seed) < 12 else 0)
    except BadInput as error:
        said.append(f"{error} The link's recipe was put aside.")
        return default_recipe()


def _decode_step(text: str, said: list[str]) -> Step | None:
    name, *rest = text.split("~")
    try:
        step_type = STEPS.get(name)
        specs = {spec.name: spec for spec in params(step_type)}
        given = {}
        for field, raw in zip(rest[::2], rest[1::2]):
            if field not in specs:
                said.append(f"{name} has no field named {field[:40]!r}; it was left out.")
                continue
            value = _value(specs[field], raw)
            given[field] = _snapped(specs[field], value, said) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        return step_type(**given)
    except BadInput as error:
        said.append(f"{error} The link's step was left out.")
        return None


def _value(spec: Param, raw: str):
    if raw == "null" and spec.optional:
        return None
    if spec.type is str:
        return unquote(raw)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return unquote(raw)


def _snapped(spec: Param, value: float, said: list[str]) -> float:
    if not -LARGEST < value < LARGEST or spec.type not in (int, float):
        return value
    at = snap(spec, value)
    if not math.isclose(at, value, rel_tol=1e-9, abs_tol=0 if spec.stops else 1e-12):
        why = "is not one of the slider's positions" if spec.choices or spec.low <= value <= spec.high else "is out of range"
        said.append(f"{spec.title} {value:g} {why}; {at:g} is used instead.")
    return at


def _axis(query: Mapping[str, Sequence[str]], name: str, said: list[str]) -> str | None:
    word = _one(query, name)
    if word is None:
        return None
    if word not in X_WORDS:
        said.append(f"There is no axis named {word[:40]!r}; it takes one of {', '.join(X_WORDS)}.")
        return None
    return X_WORDS[word] if X_WORDS[word] in AXES else None


def _budget(name: str, text: str | None, said: list[str]) -> float | None:
    if text is None:
        return None
    _, _, low, high, _ = BUDGETS[name]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if low <= value <= high:
        return value
    said.append(f"A budget of {text[:40]} for {name} cannot be; it takes a number from {low:g} to {high:g}.")
    return None


def _one(query: Mapping[str, Sequence[str]], name: str) -> str | None:
    found = query.get(name)
    return found[-1][:LONGEST] if found else None


def _try(view: View, said: list[str], change) -> View:
    try:
        return change()
    except BadInput as error:
        said.append(f"{error} {view.model if 'model' in str(error) else DATASETS.get(view.dataset).title} is shown instead.")
        return view
