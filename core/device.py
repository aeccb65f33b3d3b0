"""The one place that chooses what accuracy and training are computed on: the processor, CUDA, or Apple's MPS. Latency is the processor's alone.

    chosen()        "cpu", "cuda" or "mps", told without importing torch, because a run's identity holds it
    place()         the same as a torch.device, refused in one sentence where torch finds none
    on(module)      to measure: the module itself on the processor, elsewhere a copy of it, which leaves the module where it is
    moved(module)   to train: the module itself, which comes back

PARETOSCOPE_DEVICE names it. Where it is not set, CUDA or MPS serves once `core.device_check` has seen it compute what the processor computes, which
the cluster process asks for when it first starts, and `python -m core device` while none runs: what is computed never changes its device on the way. The
same recipe gives other last digits on another device, so it is part of a run's identity, and a worker computes on the device of the identity asked for.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import platform
import shutil
import sys
from pathlib import Path

from core.errors import BadField, NotHere
from core.home import folder, home, write_whole
from core.machine import machine

DEVICES = CPU, CUDA, MPS = "cpu", "cuda", "mps"
WORDS = {CPU: "the processor", CUDA: "CUDA", MPS: "Apple's MPS"}
FILE = "device.json"  # in the home folder: what the check found
EDITION = 2  # of what the check looks at; the first trained nothing behind a grid


def chosen() -> str:
    """What PARETOSCOPE_DEVICE names, else what passed the check on this machine, else the processor."""
    given = os.environ.get("PARETOSCOPE_DEVICE")
    if given and given not in DEVICES:
        raise BadField("PARETOSCOPE_DEVICE", given, "one of " + ", ".join(DEVICES))
    if given:
        return given
    found = checked()
    return found["device"] if found else CPU


@functools.cache
def candidate() -> str | None:
    """CUDA or MPS, where this machine looks as if it had one; told without importing torch."""
    if sys.platform == "darwin":
        return MPS if platform.machine() == "arm64" else None
    return CUDA if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") else None


def checked() -> dict | None:
    """What the check found on this machine with this version of torch: `device`, and a `sentence`; None before there was one, and where the device has gone."""
    try:
        path = home() / FILE
        found = _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None
    today = (found.get("machine"), found.get("edition")) == (machine()["id"], EDITION)
    return found if today and found["device"] in (CPU, candidate()) else None


def keep(found: dict) -> dict:
    """Let what a check found count on this machine from now on; it comes back."""
    found = found | {"machine": machine()["id"], "edition": EDITION}
    write_whole(folder() / FILE, json.dumps(found, indent=1).encode())
    return found


@functools.lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> dict:
    found = json.loads(path.read_text())
    if not isinstance(found, dict) or found.get("device") not in DEVICES or not isinstance(found.get("sentence"), str):
        raise ValueError(f"{path} is not what a check of a device writes.")
    return found


def unchecked() -> str | None:
    """The device that nobody has checked or named yet."""
    return None if os.environ.get("PARETOSCOPE_DEVICE") or checked() else candidate()


@contextlib.contextmanager
def using(name: str):
    """While inside, this process computes on that device, whatever is chosen otherwise."""
    before = os.environ.get("PARETOSCOPE_DEVICE")
    os.environ["PARETOSCOPE_DEVICE"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["PARETOSCOPE_DEVICE"]
        else:
            os.environ["PARETOSCOPE_DEVICE"] = before


def place():
    """The chosen device; raises `NotHere` where torch does not find it."""
    import torch

    name = chosen()
    here = {CPU: lambda: True, CUDA: torch.cuda.is_available, MPS: torch.backends.mps.is_available}
    if not here[name]():
        raise NotHere(f"The device {name}", "PyTorch does not find it on this machine", f"Set PARETOSCOPE_DEVICE={CPU}.")
    if name == CUDA:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # same identity, same figures
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # ten bits of a factor: other labels than its exports give
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
