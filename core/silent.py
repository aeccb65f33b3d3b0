"""Fields that say nothing beside another's choice, or in whose place another stands: not drawn, without a floor, warned of where they are set. No torch."""

from __future__ import annotations

import json

from core.recipe import Step, params

INSTEAD = {"sparsity": "threshold", "scope": "threshold", "energy": "rank"}  # the field that stands in place of another where it is set
SET = ()  # any of the other field's choices but none
# the choices of another field without which a field says nothing; "step.field" where it is so in that step alone
ONLY_WHERE = {
    "group_size": ("granularity", ("group",)), "temperature": ("targets", ("soft",)), "memory_limit": ("checkpoint_activations", (True,)),
    "activation_scale": ("activation_bits", SET),
    "entropy_prune.images": ("granularity", ("filter",)), "channel_prune.images": ("importance", ("taylor", "entropy")),
}  # fmt: skip


def idle(step: Step, field: str) -> bool:
    """Whether another field leaves this one without a meaning, by its choice or by standing in its place."""
    return silenced(step, field) is not None


def silenced(step: Step, field: str) -> tuple[str, tuple] | None:
    """The field that leaves this one without a meaning as it is, and the choices of it that would not; None where this one has a meaning."""
    known = {spec.name: spec for spec in params(type(step))}
    instead = INSTEAD.get(field)
    if instead in known and getattr(step, instead) is not None:
        return instead, (None,)
    other, choices = ONLY_WHERE.get(f"{step.name}.{field}") or ONLY_WHERE.get(field) or ("", SET)
    if other not in known:
        return None
    choices = choices or tuple(choice for choice in known[other].choices if choice is not None)
    return None if getattr(step, other) in choices else (other, choices)


def unheard(step: Step) -> list[str]:
    """A sentence for every field that was set and that another one leaves without a meaning."""
    return [
        f"{step.name}.{spec.name} {nothing(step, *by)}."
        for spec in params(type(step))
        if getattr(step, spec.name) != spec.default and (by := silenced(step, spec.name))
    ]


def nothing(step: Step, other: str, choices: tuple) -> str:
    """What to say of a field that `silenced` tells these of."""
    *first, last = (_word(choice) for choice in choices)
    return f"says nothing where {other} is {_word(getattr(step, other))}; set that to {', '.join(first)}{' or ' if first else ''}{last}"


def _word(value: object) -> str:
    return json.dumps(value).strip('"')
