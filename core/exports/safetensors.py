"""Weights as safetensors with the network as a graph in the file's own metadata, so that torch alone runs it."""

from __future__ import annotations

from importlib.metadata import version

from core.exports.formats import FLOAT32, Around, register


def write(subject, _around: Around) -> bytes:
    from core.exports import graphs

    return graphs.write(graphs.plain(subject))


def load(data: bytes):
    from core.exports import graphs

    return graphs.answering(graphs.read(data))


register(
    name="safetensors", title="safetensors", suffix=".safetensors", numbers=FLOAT32, runtime="PyTorch", held=True, write=write, load=load,
    script="run_torch.py", version=lambda: f"torch {version('torch')}",
    about="float32 weights by name for PyTorch, and the network itself as a graph of torch’s own functions.",
)  # fmt: skip
