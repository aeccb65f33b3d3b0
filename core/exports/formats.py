"""What a format of files is, and the registry of them. Each family of formats registers its own in a file beside this one. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.errors import NotHere
from core.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from core.weights import Compressed
    from core.work import Work

    Logits = Callable[[Any], np.ndarray]  # pictures (B, 3, S, S) float32, torch or numpy → logits (B, K)

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"


@dataclass(frozen=True)
class Around:
    """What a writer may need besides the compressed model: the work that it comes from, the size of a picture, and turns."""

    work: Work
    input_size: int
    turn: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


@dataclass(frozen=True)
class Format:
    """One entry of the registry.

    `write` makes the file of a compressed model, in one turn; `finish`, where a format has it, goes on from there and takes turns by itself.
    `load` opens the file in `runtime`, which `version` names with its version.
    `held` says that a file which answers otherwise than the engine on more than 0.1 % of the pictures is refused. `script` runs the file
    in that runtime alone. `missing` is None when the runtime is here.
    """

    name: str
    title: str
    suffix: str
    numbers: str
    runtime: str
    held: bool
    about: str
    write: Callable[[Compressed, Around], bytes] = field(repr=False)
    load: Callable[[bytes], Logits] = field(repr=False)
    version: Callable[[], str] = field(repr=False)
    script: str
    finish: Callable[[bytes, Around], bytes] | None = field(repr=False, default=None)
    missing: Callable[[], NotHere | None] = field(repr=False, default=lambda: None)


FORMATS: Registry[Format] = Registry("format")


def register(**facts: Any) -> Format:
    return FORMATS.add(facts["name"], Format(**facts))
