"""TensorFlow Lite files, converted by litert-torch in a process of its own and run by LiteRT.

litert-torch brings jax and transformers, needs about a gigabyte and some twenty seconds, and cannot be interrupted. So `core.runtimes.converter`
does it in a process that is let run in turns like any batch, and killed when nobody wants the file any more. It reads the network from
the safetensors form (`core.exports.graphs`), so nothing is pickled.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from core.errors import BadInput
from core.exports.formats import FLOAT16, FLOAT32, INT8, Around, register
from core.runtimes import litert

CALIBRATION = 200  # pictures that LiteRT's own grids are set by
SLICE_SECONDS = 0.3  # of one turn


def write(subject, _around: Around) -> bytes:
    """The network that is converted: what accuracy is measured with."""
    from core.exports import graphs

    return graphs.write(graphs.plain(subject))


def write_int8(subject, _around: Around) -> bytes:
    """The recipe's weights alone, since LiteRT's quantizer sets its own grids; a recipe without 8-bit grids is refused."""
    from core.exports import graphs
    from core.runtimes.onnx import int8_possible

    refusal = int8_possible(subject)
    if refusal:
        raise BadInput(refusal)
    return graphs.write(graphs.flat(subject.module))


def converted(network: bytes, around: Around, numbers: str) -> bytes:
    """A network in safetensors form → a .tflite file. Raises `BadInput` with what the converter said."""
    with tempfile.TemporaryDirectory(prefix="paretoscope-convert-") as made:
        folder = Path(made)
        (folder / "network.safetensors").write_bytes(network)
        if numbers == INT8:
            with around.turn():
                _calibration(folder, around)
        with (folder / "words").open("w+b") as words:
            status = _run([sys.executable, "-m", "core.runtimes.converter", made, numbers, str(around.input_size), str(os.getpid())], words, around)
            words.seek(0)
            said = words.read().decode(errors="replace").strip().splitlines()
        if status == 0:
            return (folder / "model.tflite").read_bytes()
    if status < 0:
        raise BadInput(f"{around.work.model} could not be converted to TensorFlow Lite: the converter was ended, most likely for lack of memory.")
    reason = said[-1][:300].rstrip(". ") if said else "it did not say why"
    raise BadInput(f"{around.work.model} cannot be converted to TensorFlow Lite: {reason}; take ONNX instead.")


def _calibration(folder: Path, around: Around) -> None:
    import numpy as np

    from core.datasets import load

    pictures, _labels = next(load(around.work.dataset).batches("calibration", around.input_size, CALIBRATION, CALIBRATION))
    np.save(folder / "calibration.npy", pictures.contiguous().numpy())


def _run(command: list[str], words, around: Around) -> int:
    """The exit status of a command that computes only while this thread holds a turn, and not a moment longer than it is wanted."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    process = None
    try:
        while process is None or process.poll() is None:
            with around.turn():
                if process is None:
                    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words, env=environment)
                _go_on(process)
        return process.returncode
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise


def _go_on(process: subprocess.Popen) -> None:
    """Let it run for a moment; between two of them it is suspended."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(process.pid)
        child.resume()
        end = time.monotonic() + SLICE_SECONDS
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if process.poll() is None:
            child.suspend()


def load(data: bytes):
    opened = litert.interpreter(data)
    return lambda pictures: litert.logits(opened, pictures)


_SAME = {"suffix": ".tflite", "runtime": "LiteRT", "load": load, "version": litert.name, "missing": litert.missing, "script": "run_litert.py"}
register(
    name="tflite", title="TensorFlow Lite, float32", numbers=FLOAT32, held=True, write=write, finish=functools.partial(converted, numbers=FLOAT32),
    about="For LiteRT on phones and boards, one picture at a time.", **_SAME,
)  # fmt: skip
register(
    name="tflite-fp16", title="TensorFlow Lite, float16", numbers=FLOAT16, held=False, write=write, finish=functools.partial(converted, numbers=FLOAT16),
    about="Weights in float16, half the bytes; arithmetic in float16 where the processor has it.", **_SAME,
)  # fmt: skip
register(
    name="tflite-int8", title="TensorFlow Lite, int8", numbers=INT8, held=False, write=write_int8, finish=functools.partial(converted, numbers=INT8),
    about="LiteRT sets its own int8 grids from calibration pictures, so its accuracy is its own and not the recipe’s.", **_SAME,
)  # fmt: skip
