"""Makes TensorFlow Lite files: a compressed model as a network with its grids, and the process that litert-torch converts it in.

litert-torch brings jax and transformers, needs about a gigabyte and some twenty seconds, and cannot be interrupted. So `core.runtimes.converter`
does it in a process that is let run in turns like any batch, and killed when nobody wants the file any more. It reads the network from
the safetensors form (`core.exports.graphs`), so nothing is pickled. Called by `core.exports.tflite` and, for latencies, by `core.runtimes.timed`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

    from core.weights import Compressed

SLICE_SECONDS = 0.3  # of one turn


def network(subject: Compressed) -> bytes:
    """The network that accuracy is measured with, in safetensors form."""
    from core.exports import graphs

    return graphs.write(graphs.plain(subject))


def integer_network(subject: Compressed) -> bytes:
    """The network on the values of its integers, without rounding, and its grids beside it; raises `BadInput` for a recipe without 8-bit grids."""
    from core.exports import graphs
    from core.runtimes.onnx import on_integers

    folded, layers = on_integers(subject)
    module = graphs.flat(folded, subject.architecture.input_size)
    values = {
        module.meta["left_out"].get(name, name): [-grid.zero_point * grid.scale, (2**grid.bits - 1 - grid.zero_point) * grid.scale]
        for name, grid in subject.activations.items()
    }
    return graphs.write(module, {"values": values, "weights": {path: layer.scale.tolist() for path, layer in layers.items()}})


def converted(
    network: bytes, numbers: str, model: str, input_size: int, turn=contextlib.nullcontext, pictures: np.ndarray | None = None, batch: int = 1
) -> bytes:
    """A network in safetensors form → a .tflite file with these `numbers`, for `batch` pictures a pass. Raises `BadInput` with what the converter said.

    int8 takes the network of `integer_network` and calibration `pictures` (n, 3, S, S) float32, which set the ranges that the grids leave open.
    """
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="paretoscope-convert-") as made:
        folder = Path(made)
        (folder / "network.safetensors").write_bytes(network)
        if pictures is not None:
            np.save(folder / "calibration.npy", pictures)
        with (folder / "words").open("w+b") as words:
            status = _run([sys.executable, "-m", "core.runtimes.converter", made, numbers, str(input_size), str(batch), str(os.getpid())], words, turn)
            words.seek(0)
            said = words.read().decode(errors="replace").strip().splitlines()
        if status == 0:
            return (folder / "model.tflite").read_bytes()
    if status < 0:
        raise BadInput(f"{model} could not be converted to TensorFlow Lite: the converter was ended, most likely for lack of memory.")
    reason = said[-1][:300].rstrip(". ") if said else "it did not say why"
    raise BadInput(f"{model} cannot be converted to TensorFlow Lite: {reason}; take ONNX instead.")


def _run(command: list[str], words, turn) -> int:
    """The exit status of a command that computes only while this thread holds a turn, and not a moment longer than it is wanted."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    process = None
    try:
        while process is None or process.poll() is None:
            with turn():
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
