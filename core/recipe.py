"""Steps and recipes: parse, check, canonical JSON, hash. What sliders, links, files and the command line exchange.

A step is a frozen dataclass whose fields are made by `param()`; everything that draws or reads a step (the slider, the
JSON form, the command line, the contract tests) works from those fields. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from core.errors import BadField, BadRecipe
from core.registry import Registry

MAX_STEPS = 32
MAX_JSON_BYTES = 64 * 1024
MAX_SEED = 2**31 - 1
RANGE_PICTURES = 500  # calibration pictures that set the ranges of activations
LARGEST = 2.0**53  # beyond every field's range; NaN and whole numbers too large for a float are outside it too
RATES = (*(float(f"{lead}e{power}") for power in (-4, -3, -2) for lead in (1, 1.5, 2, 3, 5, 7)), 0.1, 0.15, 0.2)  # where a slider of learning rates stands

# What a step does to the model; the order rules of `check_order` are stated in these words.
SPARED = ("images", "epochs", "iterations", "passes")  # fields of which fewer are less work
PRUNE, STRUCTURE, GRID, REPAIR, TRAIN = "prune", "structure", "grid", "repair", "train"


@dataclass(frozen=True)
class Param:
    """What one field of a step accepts, and how it is drawn. `type` is float, int, bool or str.

    `harder` says which way a number compresses more, or spares work: "up", "down", or nothing where neither does, and a floor is the most of it.
    A share or a limit that is named sparsity or threshold need not say that it is "up", nor one of `SPARED` that it is "down". A `later`
    field came to its step after recipes without it were measured: at its default it is left out of the canonical form, so that those keep their
    keys. `stops` are where the slider stands of a field that spans decades, in ascending order; any other number between `low` and `high` is accepted as well.
    An optional number that is switched on is `start`, else `low`.
    """

    name: str
    type: type
    default: Any
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple = ()
    optional: bool = False
    unit: str = ""
    title: str = ""
    help: str = ""
    harder: str = ""
    later: bool = False
    stops: tuple = ()
    start: Any = None

    @property
    def accepted(self) -> str:
        """The end of the sentence "it takes …"."""
        if self.choices:
            words = [json.dumps(choice) if isinstance(choice, str) else str(choice) for choice in self.choices]
            kind = "one of " + ", ".join(words)
        elif self.type is bool:
            kind = "true or false"
        elif self.type is str:
            kind = "a text of at most 500 characters"
        else:
            kind = f"a {'whole ' if self.type is int else ''}number from {self.low:g} to {self.high:g}"
        return kind + (", or null" if self.optional else "")

    def parse(self, value: Any, where: str) -> Any:
        """`value` as this field's type, or `BadField` naming `where`, the value and the range. NaN is refused."""
        if value is None and self.optional:
            return None
        bad = BadField(where, value, self.accepted)
        if self.type is bool:
            if not isinstance(value, bool):
                raise bad
        elif self.type is str:
            if not isinstance(value, str) or len(value) > 500:
                raise bad
        else:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
                raise bad
            if self.type is int and value != int(value):
                raise bad
            value = self.type(value) + 0  # −0.0 becomes 0.0, so that equal recipes have equal text
            if not self.choices and not self.low <= value <= self.high:
                raise bad
        if self.choices and value not in self.choices:
            raise bad
        return value


def param(
    default, low=None, high=None, step=None, *, choices=(), optional=False, unit="", title="", help="", harder="", later=False, stops=(), start=None,
):  # fmt: skip
    """A step's field with its range, unit and help. The field's type is that of the default, or of the first choice; `stops` give the range too."""
    low, high = (stops[0], stops[-1]) if stops else (low, high)
    sample = default if default is not None else (choices[0] if choices else low)
    spec = Param("", type(sample), default, low, high, step, tuple(choices), optional, unit, title, help, harder, later, tuple(stops), start)
    return dataclasses.field(default=default, metadata={"param": spec})


def layers_param(default: str = "all"):
    """The field that every step on weights shares: which layers it touches ("partial" compression)."""
    return param(
        default,
        title="Layers",
        help='"all", "inner" (all but the first and the last), or name patterns separated by commas, such as "layer1.*, fc".',
    )


@dataclass(frozen=True)
class Step:
    """One compression action with its parameters. Subclasses are registered by `core.methods`."""

    name: ClassVar[str]
    title: ClassVar[str]
    kind: ClassVar[str]
    first: ClassVar[bool] = False  # whether it may only stand first in a recipe
    before_grid: ClassVar[bool] = False  # of a step that changes no shapes, and yet has to come before every grid
    behind_grid: ClassVar[bool] = False  # of a step that takes away what rounding did, so that nothing may have made up for it since
    makes_up: ClassVar[bool] = False  # of a repair that makes up for what rounding did, as training does
    fills_zeros: ClassVar[bool] = False  # whether zeros scattered among the weights are lost in it
    reads: ClassVar[str] = "calibration"  # the split that its `images` are the first of, where it has such a field
    looks: ClassVar[int] = 1  # how often at most it looks at each of its `images`, where it has such a field

    def __post_init__(self):
        for spec in params(type(self)):
            object.__setattr__(self, spec.name, spec.parse(getattr(self, spec.name), f"{self.name}.{spec.name}"))
        self.check()

    def check(self) -> None:
        """Overridden where two fields depend on each other; raises `BadField`."""

    @property
    def called(self) -> str:
        """The title; overridden where a choice makes another thing of a step."""
        return self.title

    @property
    def edition(self) -> str:
        """Where the same fields meant something else once: a part of what identifies a run, so that it is not taken for one of then.

        Ranges of values between layers were chosen among several norms of their error once.
        """
        return "ranges of least squares" if self.ranges_from else ""

    @property
    def rounds_activations(self) -> bool:
        """Whether values between layers are rounded as well; overridden by steps that can."""
        return bool(getattr(self, "activations", False))

    @property
    def ranges_from(self) -> int:
        """How many calibration pictures it runs at each application to set the ranges of values between layers."""
        return RANGE_PICTURES if self.rounds_activations else 0

    def check_model(self, model: str) -> None:
        """Overridden where a step does not fit every model; raises `BadRecipe` by the model list alone, before any long work."""

    def check_teacher(self, teacher, dataset) -> None:
        """Overridden where a step cannot learn from every checkpoint `teacher` on what `dataset()` loads; raises `BadRecipe`, before any long work."""

    def model_after(self, model: str) -> str:
        """The name of the model that the next step meets; overridden where a step puts another in its place."""
        return model

    def check_layers(self, names: list[str]) -> None:
        """Raises `BadField` when `layers` means none of the weights `names`; overridden where a step does not take every one."""
        choose(names, getattr(self, "layers", "all"))

    def weights_after(self, names: list[str]) -> list[str]:
        """The names of the weights that the next step may meet; overridden where a step splits layers."""
        return names

    @property
    def grids_weights(self) -> bool:
        """Whether the step puts weights on a grid, not biases alone."""
        return self.kind == GRID and getattr(self, "parameters", "weights") != "biases"

    @property
    def takes_filters(self) -> bool:
        """Whether a pruning step takes whole filters and not single weights; overridden where that is no choice."""
        return getattr(self, "granularity", "weight") == "filter"

    def undone_by(self, later: Step) -> str:
        """Why `later`, somewhere after this step and on the same layers, takes its work away, and what keeps it; "" where it does not."""
        if self.kind == GRID and later.kind == GRID:
            return f"{later.name} puts the weights on a grid of its own; keep one of the two, or give them different layers"
        if self.kind == PRUNE and later.fills_zeros:
            return f"{later.name} fills scattered zeros in; put {self.name} after {later.name}"
        return ""

    def idle(self, before: tuple[Step, ...], facts: Mapping[str, Any]) -> str:
        """Why this step changes nothing after those before it, of a model of which the model list says `facts`; "" where it does."""
        if self.kind != PRUNE or not hasattr(self, "sparsity") or getattr(self, "threshold", None) is not None:
            return ""
        from core.repeated import prunes_as_much

        for earlier in reversed(before):
            if earlier.kind == STRUCTURE:  # a share of other weights
                return ""
            if prunes_as_much(earlier, self):
                return f"{earlier.name} before it prunes as much already"
        return ""

    def to_json(self) -> dict:
        return {"step": self.name} | {spec.name: getattr(self, spec.name) for spec in params(type(self))}


@functools.cache
def params(step_type: type[Step]) -> tuple[Param, ...]:
    """The fields of a step, in order, each with its name, title and direction filled in."""
    found = []
    for field in dataclasses.fields(step_type):
        spec: Param = field.metadata["param"]
        title = spec.title or field.name.replace("_", " ").capitalize()
        harder = spec.harder or ("up" if spec.type is float and field.name in ("sparsity", "threshold") else "down" if field.name in SPARED else "")
        found.append(dataclasses.replace(spec, name=field.name, title=title, harder=harder))
    return tuple(found)


STEPS: Registry[type[Step]] = Registry("step")


def register(step_type: type[Step]) -> type[Step]:
    """Class decorator that enters a step under its `name`."""
    return STEPS.add(step_type.name, step_type)


def step_from_json(value: Any, position: int = 1) -> Step:
    """`{"step": "quantize", "weight_bits": 4}` → `Quantize(weight_bits=4)`; unknown fields are refused, not ignored."""
    if not isinstance(value, dict):
        raise BadRecipe(f'Step {position} is {_short(value)}; a step is an object such as {{"step": "quantize", "weight_bits": 4}}.')
    if "step" not in value:
        raise BadRecipe(f'Step {position} has no "step" key; it takes one of {", ".join(STEPS)}.')
    step_type = STEPS.get(value["step"])
    known = [spec.name for spec in params(step_type)]
    for field in value:
        if field != "step" and field not in known:
            raise BadRecipe(f"{step_type.name} has no field named {_short(field)}; it takes {', '.join(known)}.")
    return step_type(**{field: given for field, given in value.items() if field != "step"})


@dataclass(frozen=True)
class Recipe:
    """An ordered tuple of steps and a seed. Raises `BadRecipe` for an order that cannot work."""

    steps: tuple[Step, ...] = ()
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "steps", tuple(self.steps))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise BadField("seed", self.seed, f"a whole number from 0 to {MAX_SEED}")
        if len(self.steps) > MAX_STEPS:
            raise BadRecipe(f"The recipe has {len(self.steps)} steps; at most {MAX_STEPS} are accepted.")
        check_order(self.steps)

    def to_json(self) -> dict:
        return {"seed": self.seed, "steps": [step.to_json() for step in self.steps]}

    def shortest(self) -> dict:
        """As `to_json`, without the `later` fields that have their defaults."""
        steps = [step.to_json() for step in self.steps]
        for step, stored in zip(self.steps, steps):
            for spec in params(type(step)):
                if spec.later and stored[spec.name] == spec.default:
                    del stored[spec.name]
        return {"seed": self.seed, "steps": steps}

    def canonical(self) -> str:
        """`shortest()` as text, every other default filled in, keys sorted, no spaces: equal recipes give equal text."""
        return json.dumps(self.shortest(), sort_keys=True, separators=(",", ":"))

    def key(self) -> str:
        """16 hexadecimal digits of BLAKE2b over `canonical()`."""
        return digest(self.canonical())

    def warnings(self, names: list[str] | None = None) -> list[str]:
        """A sentence for every step whose work a later one undoes, which is allowed and rarely meant.

        `names` are the weights of the model, by which patterns of layers are compared; without them, as texts.
        """
        said = []
        for number, step in enumerate(self.steps):
            reasons = ((later, step.undone_by(later)) for later in self.steps[number + 1 :] if _meet(step, later, names))
            later, reason = next(((later, reason) for later, reason in reasons if reason), (None, ""))
            if reason:
                said.append(f"{step.name} is undone by {later.name}, because {reason}.")
        if any(step.first for step in self.steps) and not any(step.kind == TRAIN for step in self.steps):
            said.append(f"{self.steps[0].name} leaves its weights random, because no training follows; put a distill or finetune step after it.")
        return said

    def shaping(self) -> int:
        """How many of the first steps decide the shapes: all up to the last structural one."""
        return max((number + 1 for number, step in enumerate(self.steps) if step.kind == STRUCTURE), default=0)

    def prefix(self, length: int) -> Recipe:
        """The recipe of the first `length` steps, with the same seed."""
        return Recipe(self.steps[:length], self.seed)

    @staticmethod
    def from_json(value: Any) -> Recipe:
        if not isinstance(value, dict):
            raise BadRecipe(f'A recipe is an object with "steps" and "seed", not {_short(value)}.')
        unknown = [key for key in value if key not in ("seed", "steps")]
        if unknown:
            raise BadRecipe(f'A recipe has no key {_short(unknown[0])}; it takes "seed" and "steps".')
        steps = value.get("steps", [])
        if not isinstance(steps, list):
            raise BadRecipe(f'"steps" is {_short(steps)}; it takes a list of steps.')
        if len(steps) > MAX_STEPS:
            raise BadRecipe(f"The recipe has {len(steps)} steps; at most {MAX_STEPS} are accepted.")
        return Recipe(tuple(step_from_json(step, i) for i, step in enumerate(steps, 1)), value.get("seed", 0))

    @staticmethod
    def parse(text: str | bytes) -> Recipe:
        """A recipe from JSON text; every fault is one sentence."""
        if len(text) > MAX_JSON_BYTES:
            raise BadRecipe(f"The recipe is {len(text):,} bytes long; at most {MAX_JSON_BYTES:,} are accepted.")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
            raise BadRecipe(f'The recipe is not JSON{where}; it takes the form {{"seed": 0, "steps": […]}}.') from None
        return Recipe.from_json(value)


def choose(names: list[str], layers: str, whole: Mapping[str, str] | None = None) -> list[str]:
    """The weights among `names` ("layer1.0.conv1.weight") that a step's `layers` field means; raises `BadField` when that, or any pattern of it, is none.

    "all"; "inner" for all but the first and the last; or patterns such as "layer1.*, fc" on layer names. `whole` names the weight
    that a factor stands in for: factors go by its name as well as by their own, and the first layer is all of its factors.
    """
    if layers == "all":
        return names
    whole = whole or {name: name for name in names}
    if layers == "inner":
        return [name for name in names if whole[name] not in (whole[names[0]], whole[names[-1]])]
    patterns = [pattern.strip() for pattern in layers.split(",") if pattern.strip()]
    called = {name: {name, _layer(name), whole[name], _layer(whole[name])} for name in names}
    meant = {pattern: {name for name in names if any(fnmatch.fnmatchcase(word, pattern) for word in called[name])} for pattern in patterns}
    for pattern in [pattern for pattern, found in meant.items() if not found] if meant else [layers]:
        raise BadField("layers", pattern, f"all, inner, or patterns that match a layer, such as {_layer(names[0])!r} or {_layer(names[-1])!r}")
    return [name for name in names if any(name in found for found in meant.values())]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _meet(step: Step, later: Step, names: list[str] | None) -> bool:
    """Whether two steps have layers in common; a step without such a field touches all of them."""
    one, other = (getattr(each, "layers", "all") for each in (step, later))
    if names is None:
        return one == other or "all" in (one, other)
    return not set(choose(names, one)).isdisjoint(choose(names, other))


def check_order(steps: tuple[Step, ...]) -> None:
    """Refuse orders that would undo an earlier step, naming the order that works."""
    grid, made_up = None, ()  # the last grid; a grid and what first made up for its rounding
    for number, step in enumerate(steps):
        if not isinstance(step, Step):
            raise BadRecipe(f"A recipe takes steps, not {_short(step)}.")
        if step.first and number:
            raise BadRecipe(f"{step.name} cannot follow {steps[0].name}, because it starts with a fresh network; put {step.name} first, and only once.")
        if grid and (step.kind == STRUCTURE or step.before_grid):
            what = "shapes" if step.kind == STRUCTURE else "weights"
            raise BadRecipe(
                f"{step.name} cannot follow {grid.name}, because it changes the {what} that the grid was fitted to; put {step.name} before {grid.name}."
            )
        if step.behind_grid and made_up:
            rounded, by = made_up
            better = f"put {step.name} between {rounded.name} and {by.name}" if by.name != step.name else "once is enough"
            raise BadRecipe(f"{step.name} cannot follow {by.name}, because that has made up for what {rounded.name} changed; {better}.")
        if step.kind == GRID:
            grid, made_up = step, () if getattr(step, "layers", "all") == "all" else made_up
        elif grid and (step.kind == TRAIN or step.makes_up):
            made_up = made_up or (grid, step)


def digest(text: str | bytes, length: int = 16) -> str:
    """The project's one short hash: hexadecimal BLAKE2b."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.blake2b(data, digest_size=length // 2).hexdigest()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
