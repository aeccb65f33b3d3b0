"""Smaller floats: 16 or 8 bits instead of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies
from core.recipe import GRID, Step, layers_param, param, register


@register
@dataclass(frozen=True)
class Cast(Step):
    """Rounds weights to a smaller floating-point type: w ≈ code · scale.

    float16 has 5 bits of exponent and 10 of mantissa, bfloat16 8 and 7, both with scale 1; float8 (E4M3) 4 and 3, with one power of
    two a tensor that brings the largest weight just within its range. Micikevicius et al. 2022, arXiv:2209.05433; Kalamkar et
    al. 2019, arXiv:1905.12322.
    """

    name: ClassVar[str] = "cast"
    title: ClassVar[str] = "Cast"
    kind: ClassVar[str] = GRID

    dtype: str = param("float16", choices=("float16", "bfloat16", "float8"), help="The type of the stored weights; they are widened to be computed with.")
    layers: str = layers_param()


@applies(Cast)
def apply(step: Cast, subject, context) -> None:
    from core.arithmetic.grids import Floats
    from core.weights import Weight

    for name in subject.chosen(step.layers):
        with context.turn():
            value = subject.value(name)
            subject.set(name, Weight(value, subject.weights[name].mask, Floats.of(value, step.dtype)))
