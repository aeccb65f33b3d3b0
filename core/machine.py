"""Which machine this is: the name that measured milliseconds belong to. Imports no torch."""

from __future__ import annotations

import functools
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

from core.recipe import digest


@functools.cache
def machine() -> dict:
    """`id` (a hash over processor, cores and runtime versions), `cpu`, `cores`, `memory_gb`, `platform`, `python`, `torch`, `onnxruntime`."""
    facts = {
        "cpu": _processor(), "cores": _cores(), "memory_gb": _memory_gb(), "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(), "torch": version("torch"), "onnxruntime": version("onnxruntime"),
    }  # fmt: skip
    identity = json.dumps([facts[name] for name in ("cpu", "cores", "memory_gb", "platform", "torch", "onnxruntime")])
    return {"id": digest(identity)} | facts


def _processor() -> str:
    """The processor's own name, as the operating system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> int:
    import psutil

    return round(psutil.virtual_memory().total / 2**30)
