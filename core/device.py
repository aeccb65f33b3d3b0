"""The one place that chooses what accuracy and training are computed on: the processor, CUDA, or Apple's MPS. Latency is the processor's alone.

    chosen()        "cpu", "cuda" or "mps", told without importing torch, because a run's identity holds it
    place()         the same as a torch.device, refused in one sentence where torch finds none
    on(module)      to measure: the module itself on the processor, elsewhere a copy of it, which leaves the module where it is
    moved(module)   to train: the module itself, which comes back

PARETOSCOPE_DEVICE names it. It is the processor unless a person says otherwise: the shipped figures are the processor's, and the same recipe
gives other last digits on another device.
"""

from __future__ import annotations

import contextlib
import copy
import os

from core.errors import BadField, NotHere

DEVICES = CPU, CUDA, MPS = "cpu", "cuda", "mps"


def chosen() -> str:
    """What PARETOSCOPE_DEVICE names, else the processor."""
    given = os.environ.get("PARETOSCOPE_DEVICE") or CPU
    if given not in DEVICES:
        raise BadField("PARETOSCOPE_DEVICE", given, "one of " + ", ".join(DEVICES))
    return given


def place():
    """The chosen device; raises `NotHere` where torch does not find it."""
    import torch

    name = chosen()
    here = {CPU: lambda: True, CUDA: torch.cuda.is_available, MPS: torch.backends.mps.is_available}
    if not here[name]():
        raise NotHere(f"The device {name}", "PyTorch does not find it on this machine", f"Set PARETOSCOPE_DEVICE={CPU}.")
    if name == CUDA:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # same identity, same figures
    return torch.device(name)


def on(module):
    """`module` where it is to run."""
    where = place()
    return module if where.type == CPU else copy.deepcopy(module).to(where)


@contextlib.contextmanager
def moved(module):
    """While inside, `module` itself is where it is to be trained; yields that device."""
    where = place()
    if where.type != CPU:
        module.to(where)
    try:
        yield where
    finally:
        if where.type != CPU:
            module.to(CPU)
