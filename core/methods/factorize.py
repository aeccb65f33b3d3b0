"""Low-rank factorization: a layer becomes two or three smaller ones in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.errors import BadRecipe
from core.methods.apply import applies, fits
from core.recipe import STRUCTURE, Step, choose, layers_param, param, register

ROUNDS = 3  # of higher-order orthogonal iteration; a preview makes none
NAMED = 6  # layers that a note lists


@register
@dataclass(frozen=True)
class Factorize(Step):
    """Replaces layers by their low-rank factors, where those hold fewer numbers than the layer.

    - svd: the weight as a matrix W (O, I·h·w) ≈ U_r·S_r·V_rᵀ. A linear layer becomes two, V_rᵀ (r, I) and U_r (O, r); a
      convolution a kernel of r outputs (r, I, h, w) and a 1×1 convolution (O, r) (Denton et al. 2014, arXiv:1404.0736).
    - tucker: a kernel W (O, I, h, w) ≈ core (b, a, h, w) ×_I A ×_O B becomes the 1×1 convolution A (a, I), the core, and the 1×1
      convolution B (O, b), by higher-order SVD and orthogonal iteration (Kim et al. 2015, arXiv:1511.06530). Linear layers and
      1×1 convolutions, where both are the same, take the svd.

    By energy, the rank is the smallest whose squared singular values sum to this share of ‖W‖²; with tucker each side may
    lose half of the rest, so that ‖W − Ŵ‖² ≤ (1 − energy)·‖W‖² for both methods. Singular values are shared evenly among
    the factors. Biases and what follows (batch norm) belong to the last factor. Grouped convolutions and attention stay whole.
    """

    name: ClassVar[str] = "factorize"
    title: ClassVar[str] = "Factor layers"
    kind: ClassVar[str] = STRUCTURE
    fills_zeros: ClassVar[bool] = True

    method: str = param("svd", choices=("svd", "tucker"), help="Two factors of each weight as a matrix, or three of a kernel (tucker).")
    energy: float = param(0.9, 0.0, 1.0, 0.01, help="Share of each weight's squared norm that its factors keep; decides the rank.", harder="down")
    rank: float | None = param(None, 0.01, 1.0, 0.01, optional=True, help="Keep this share of each layer's full rank instead of an energy.", harder="down")
    layers: str = layers_param()

    def weights_after(self, names: list[str]) -> list[str]:
        """The factors that there may be, beside the layers that may stay whole; these stay first and last."""
        paths = [name.removesuffix(".weight") for name in choose(names, self.layers) if name.endswith(".weight")]
        parts = [f"{path}.{number}.weight" for path in paths for number in range(3 if self.method == "tucker" else 2)]
        return [*names[:-1], *parts, names[-1]]


@fits(Factorize)
def replaceable_layers(step: Factorize, subject) -> list[str]:
    """The paths of the chosen layers that factors can stand in for; raises `BadRecipe` when that is none."""
    from core.models.architecture import replaceable

    found, factors = replaceable(subject.module, subject.architecture.input_size), subject.architecture.factors
    chosen = (name.rpartition(".")[0] for name in subject.chosen(step.layers))
    paths = [path for path in chosen if path in found and path.rpartition(".")[0] not in factors]
    if not paths:
        raise BadRecipe(
            f"factorize finds no layer to factor in layers {step.layers!r} of {subject.architecture.model}, because grouped convolutions, "
            "attention and what is a factor already stay whole."
        )
    return paths


@applies(Factorize)
def apply(step: Factorize, subject, context) -> None:
    names = subject.chosen(step.layers)
    with context.turn():
        paths = replaceable_layers(step, subject)
    rounds = ROUNDS if context.images_at_most is None else 0
    made, done, total = {}, 0, sum(subject.value(f"{path}.weight").numel() for path in paths)
    for path in paths:
        weight = subject.value(f"{path}.weight")
        factors = _factors(step, weight, rounds, context.turn)
        if factors is not None:
            made[path] = factors
        done += weight.numel()
        context.report({"fraction": done / total})
    if made:
        with context.turn():
            _install(made, subject)
    _note(subject, len(names), [path for path in paths if path not in made], "because their factors would be larger")
    kept = [name.rpartition(".")[0] for name in names if name.rpartition(".")[0] not in paths]
    _note(subject, len(names), kept, "because they are grouped convolutions, attention or factors already")


def _factors(step: Factorize, weight, rounds: int, turn) -> tuple[list, list] | None:
    """The form of a weight's factors, and their weights; None when they would not be smaller."""
    from core.arithmetic import factors

    shape = tuple(weight.shape)
    if step.method == "tucker" and factors.spatial(shape):
        into, out = (factors.spectrum(weight, side, turn) for side in (factors.by_input, factors.by_output))
        form = ["tucker", *_tucker_ranks(step, into, out, shape[2] * shape[3])]
        return (form, factors.tucker(weight, form[1:], into, out, rounds, turn)) if factors.saves(form, shape) else None
    side = factors.spectrum(weight, factors.shorter, turn)
    form = ["svd", _share(step.rank, side) if step.rank is not None else side.rank_keeping(step.energy)]
    if not factors.saves(form, shape):
        return None
    return form, factors.svd(weight, form[1], side, turn)


def _tucker_ranks(step: Factorize, into, out, places: int) -> tuple[int, int]:
    """(a, b): each mode may lose half of what the two together may; neither more than the other's vectors times places can span."""
    if step.rank is not None:
        a, b = _share(step.rank, into), _share(step.rank, out)
    else:
        a, b = (side.rank_keeping((1 + step.energy) / 2) for side in (into, out))
    return min(a, b * places), min(b, a * places)


def _share(rank: float, side) -> int:
    return max(1, round(rank * len(side.squares)))


def _install(made: dict, subject) -> None:
    """Put the factors in the module; a mask comes back where a factor is exactly 0."""
    import torch

    from core.arithmetic.factors import put_factors
    from core.models.architecture import allocate
    from core.weights import Weight

    masked = [path for path in made if subject.weights[f"{path}.weight"].mask is not None]
    for path, (form, weights) in made.items():
        parts = put_factors(subject.module, path, form)
        allocate(parts)
        with torch.no_grad():
            for part, weight in zip(parts, weights, strict=True):
                part.weight.copy_(weight)
    subject.architecture = subject.architecture.factored(subject.module, {path: form for path, (form, _weights) in made.items()})
    subject.rebuild()
    for name in (f"{path}.{number}.weight" for path in masked for number in range(len(made[path][1]))):
        value = subject.value(name)
        if not value.all():
            subject.set(name, Weight(value, value != 0))
    if masked:
        subject.notes.append(
            f"factorize filled in the scattered zeros of {len(masked)} layers, because the factors of a sparse weight are dense; prune after it instead."
        )


def _note(subject, chosen: int, whole: list[str], reason: str) -> None:
    if whole:
        more = f" and {len(whole) - NAMED} more" if len(whole) > NAMED else ""
        subject.notes.append(f"factorize left {len(whole)} of {chosen} layers whole, {reason}: {', '.join(whole[:NAMED])}{more}.")
