"""The runtimes that a latency can be measured in: a registry, which the latency page, the command line and the engine read.

A further runtime is one entry: how a model is made ready in it, what its ratio is against, and what it cannot run. Imports no torch until something
is made ready.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.errors import BadInput, NotHere
from core.keeping import kept
from core.metrics.latency import EAGER, FLOAT32, INT8, LITERT, LITERT_INT8, signature
from core.registry import Registry
from core.runtimes import litert

if TYPE_CHECKING:
    import onnxruntime

    from core.weights import Compressed

RUNTIMES: Registry[Timed] = Registry("runtime")
_FILES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # module → signature of its graph → the file; threads share it, and batches an .onnx file
NOISE = 4  # pictures, at least, that set what int8 ranges the grids leave open, in a file that is only timed


@dataclass(frozen=True)
class Timed:
    """One runtime. `reference` is the runtime of the baseline that the ratio is against; `package` the one whose version decides the speed.

    `ready(subject, threads, batch)` gives a forward pass to be timed and the bytes of the file that runs it (None without a file); `refusal(subject, batch)`
    the sentence that says why it cannot, or None; `ready` raises `BadInput` with what is only seen there.
    `on_grids` says that the graph depends on which weights and activations have grids.
    `prepare(subject, batch, turn)`, where a runtime has it, makes the file before that and takes turns by itself: a minute of work, so that such a
    runtime is measured only when it is asked for by name. No run comes with its latencies, so that its rows name the graph `beside` it, by which runs are
    found. `missing()` is None when the runtime is here.
    """

    name: str
    title: str
    package: str
    reference: str
    ready: Callable[[Compressed, int, int], tuple[Callable[[], object], int | None]]
    refusal: Callable[[Compressed, int], str | None] = lambda subject, batch: None
    on_grids: bool = False
    profiled: bool = False  # by `core.timing.operators`
    prepare: Callable[[Compressed, int, Callable], object] | None = None
    beside: str | None = None
    missing: Callable[[], NotHere | None] = lambda: None

    def check(self, subject: Compressed, batch: int) -> None:
        """Raises `NotHere` where it is not installed, `BadInput` where the subject cannot run in it."""
        absent = self.missing()
        if absent:
            raise absent
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
    from core.runtimes.onnx import LOGITS, refused, session

    file, feed = onnx_file(subject, runtime), pictures(subject, batch)
    with refused(f"ONNX Runtime cannot run {subject.architecture.model}"):
        running = session(file, threads, batch, spinning=threads > 1)
        running.run([LOGITS], feed)  # some graphs load, and fail only here
    return lambda: running.run([LOGITS], feed), len(file)


def profiled_session(subject: Compressed, runtime: str, threads: int, batch: int, prefix: str) -> tuple[onnxruntime.InferenceSession, dict]:
    """The same session with ONNX Runtime's profiler on, which writes a file whose name begins with `prefix`, and what it is fed.

    Its threads do not spin: those of one that is profiled beside it would take the cores from it.
    """
    from core.runtimes.onnx import session

    return session(onnx_file(subject, runtime), threads, batch, profile=prefix), pictures(subject, batch)


def pictures(subject: Compressed, batch: int) -> dict[str, np.ndarray]:
    """Noise (batch, 3, S, S) float32: how long a graph takes does not depend on what it sees."""
    from core.runtimes.onnx import PICTURES

    size = subject.architecture.input_size
    return {PICTURES: np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)}


def onnx_file(subject: Compressed, runtime: str) -> bytes:
    """An .onnx file of a subject's graph, exported once as long as its module lives: an export takes as long as a measurement.

    Raises `BadInput` with the operator that ONNX lacks.
    """
    from core.runtimes.onnx import export_float32, export_int8, refused

    files, graph = _FILES.setdefault(subject.module, {}), signature(subject, runtime)
    if graph not in files:
        with refused(f"{subject.architecture.model} cannot be written as ONNX"):
            files[graph] = export_int8(subject) if runtime == INT8 else export_float32(subject.module, subject.architecture.input_size)
    return files[graph]


def tflite_file(subject: Compressed, runtime: str, batch: int = 1, turn=contextlib.nullcontext) -> bytes:
    """A .tflite file of a subject's graph for so many pictures a pass, converted once and kept. How long it takes does not depend on the values of weights."""
    files, graph = _FILES.setdefault(subject.module, {}), signature(subject, runtime, batch=batch)
    if graph not in files:
        path = kept.get("litert", f"{graph}.tflite")
        files[graph] = path.read_bytes() if path else _converted(subject, runtime, batch, turn)
        if path is None:
            kept.put("litert", f"{graph}.tflite", files[graph])
    return files[graph]


def _converted(subject: Compressed, runtime: str, batch: int, turn) -> bytes:
    from core.exports import formats, graphs
    from core.runtimes import tflite

    architecture, noise = subject.architecture, None
    with turn():
        if runtime == LITERT_INT8:
            numbers, network, (noise,) = formats.INT8, tflite.integer_network(subject), pictures(subject, batch * -(-NOISE // batch)).values()
        else:
            numbers, network = formats.FLOAT32, graphs.write(graphs.flat(subject.module, subject.architecture.input_size))
    return tflite.converted(network, numbers, architecture.model, architecture.input_size, turn, noise, batch)


def _litert_pass(subject: Compressed, runtime: str, threads: int, batch: int):
    file = tflite_file(subject, runtime, batch)
    opened = litert.interpreter(file, threads)
    (given,), (noise,) = opened.get_input_details(), pictures(subject, batch).values()

    def call() -> None:
        opened.set_tensor(given["index"], noise)
        opened.invoke()

    return call, len(file)


RUNTIMES.add(FLOAT32, Timed(FLOAT32, "ONNX Runtime, float32", "onnxruntime", FLOAT32, _float32, profiled=True))
RUNTIMES.add(INT8, Timed(INT8, "ONNX Runtime, int8", "onnxruntime", FLOAT32, _int8, _no_int8, on_grids=True, profiled=True))
RUNTIMES.add(EAGER, Timed(EAGER, "PyTorch, eager", "torch", EAGER, _eager))
_LITERT = {"package": "ai-edge-litert", "reference": LITERT, "missing": litert.missing}
RUNTIMES.add(LITERT, Timed(
    LITERT, "LiteRT, float32", ready=lambda subject, threads, batch: _litert_pass(subject, LITERT, threads, batch),
    prepare=lambda subject, batch, turn: tflite_file(subject, LITERT, batch, turn), beside=FLOAT32, **_LITERT,
))  # fmt: skip
RUNTIMES.add(LITERT_INT8, Timed(
    LITERT_INT8, "LiteRT, int8", ready=lambda subject, threads, batch: _litert_pass(subject, LITERT_INT8, threads, batch), refusal=_no_int8, on_grids=True,
    prepare=lambda subject, batch, turn: tflite_file(subject, LITERT_INT8, batch, turn), beside=INT8, **_LITERT,
))  # fmt: skip
USUAL = tuple(name for name, entry in RUNTIMES.items() if entry.prepare is None)
