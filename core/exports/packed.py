"""The packed file: the smallest download, which Paretoscope alone reads. `core.artifact` writes and reads it."""

from __future__ import annotations

from importlib.metadata import version

from core.exports.formats import FLOAT32, Around, register
from core.packed import FORMAT


def write(subject, around: Around) -> bytes:
    from core import artifact
    from core.engine import about

    return artifact.write(subject, None, around.work.recipe, about(around.work)).data


def load(data: bytes):
    from core import artifact
    from core.engine import measurable
    from core.exports.graphs import answering

    return answering(measurable(artifact.read(data)))


register(
    name="artifact", title="Packed file", suffix=".psc", numbers=FLOAT32, runtime="Paretoscope", held=True, write=write, load=load,
    script="run_packed.py", version=lambda: f"format {FORMAT}, torch {version('torch')}",
    about="The smallest file. Reads back to bit-identical weights, in Paretoscope alone.",
)  # fmt: skip
