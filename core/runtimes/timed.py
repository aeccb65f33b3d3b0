"""The runtimes that a latency can be measured in: a registry, which the latency page, the command line and the engine read.

A further runtime is one entry: how a model is made ready in it, what its ratio is against, and what it cannot run. Imports no torch until something
is made ready.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.errors import BadInput
from core.metrics.latency import EAGER, FLOAT32, INT8, signature
from core.registry import Registry

if TYPE_CHECKING:
    import onnxruntime

    from core.weights import Compressed

RUNTIMES: Registry[Timed] = Registry("runtime")
_FILES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # module → signature of its graph → the .onnx file; batches and threads share it


@dataclass(frozen=True)
class Timed:
    """One runtime. `reference` is the runtime of the baseline that the ratio is against; `package` the one whose version decides the speed.

    `ready(subject, threads, batch)` gives a forward pass to be timed and the bytes of the file that runs it (None without a file); `refusal(subject, batch)`
    the sentence that says why it cannot, or None. `on_grids` says that the graph depends on which weights and activations have grids.
    """

    name: str
    title: str
    package: str
    reference: str
    ready: Callable[[Compressed, int, int], tuple[Callable[[], object], int | None]]
    refusal: Callable[[Compressed, int], str | None] = lambda subject, batch: None
    on_grids: bool = False
    profiled: bool = False  # by `core.operators`

    def check(self, subject: Compressed, batch: int) -> None:
        """Raises `BadInput` where the subject cannot run in it."""
        refused = self.refusal(subject, batch)
        if refused:
            raise BadInput(refused)


def _eager(subject: Compressed, threads: int, batch: int):
    from core.runtimes.pytorch import forward_pass

    return forward_pass(subject.module, subject.architecture.input_size, threads, batch), None


def _float32(subject: Compressed, threads: int, batch: int):
    return _session(subject, FLOAT32, threads, batch)


def _int8(subject: Compressed, threads: int, batch: int):
    return _session(subject, INT8, threads, batch)


def _no_int8(subject: Compressed, batch: int) -> str | None:
    from core.runtimes.onnx import int8_possible

    return int8_possible(subject)


def _session(subject: Compressed, runtime: str, threads: int, batch: int):
    from core.runtimes.onnx import LOGITS, session

    file = onnx_file(subject, runtime)
    running, feed = session(file, threads, batch, spinning=threads > 1), pictures(subject, batch)
    return lambda: running.run([LOGITS], feed), len(file)


def profiled_session(subject: Compressed, runtime: str, threads: int, batch: int, prefix: str) -> tuple[onnxruntime.InferenceSession, dict]:
    """The same session with ONNX Runtime's profiler on, which writes a file whose name begins with `prefix`, and what it is fed."""
    from core.runtimes.onnx import session

    return session(onnx_file(subject, runtime), threads, batch, spinning=threads > 1, profile=prefix), pictures(subject, batch)


def pictures(subject: Compressed, batch: int) -> dict[str, np.ndarray]:
    """Noise (batch, 3, S, S) float32: how long a graph takes does not depend on what it sees."""
    from core.runtimes.onnx import PICTURES

    size = subject.architecture.input_size
    return {PICTURES: np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)}


def onnx_file(subject: Compressed, runtime: str) -> bytes:
    """An .onnx file of a subject's graph, exported once as long as its module lives: an export takes as long as a measurement."""
    from core.runtimes.onnx import export_float32, export_int8

    files, graph = _FILES.setdefault(subject.module, {}), signature(subject, runtime)
    if graph not in files:
        files[graph] = export_int8(subject) if runtime == INT8 else export_float32(subject.module, subject.architecture.input_size)
    return files[graph]


RUNTIMES.add(FLOAT32, Timed(FLOAT32, "ONNX Runtime, float32", "onnxruntime", FLOAT32, _float32, profiled=True))
RUNTIMES.add(INT8, Timed(INT8, "ONNX Runtime, int8", "onnxruntime", FLOAT32, _int8, _no_int8, on_grids=True, profiled=True))
RUNTIMES.add(EAGER, Timed(EAGER, "PyTorch, eager", "torch", EAGER, _eager))
