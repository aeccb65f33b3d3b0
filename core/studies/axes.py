"""The objectives that accuracy is set against: the axes of the explorer's chart. Imports neither plotly nor torch."""

from __future__ import annotations

from dataclasses import dataclass

from core.studies.points import bytes_words, count_words, ms_words, times_words

LITERT_TIMED = "for the graphs that the page Latency, or the command latency, has timed in it on this machine."
ON_DEVICE = "device_ms"  # of the device that a page chose; rows get it from `core.targets.estimates`


@dataclass(frozen=True)
class Axis:
    """An objective that is better when smaller, drawn by its logarithm. `suffix` is its unit: B, ×, ms, or nothing for a count."""

    name: str
    title: str
    suffix: str
    help: str
    here_alone: bool = False  # measured on this machine where it is there at all, wherever the run comes from

    def words(self, value: float | None) -> str:
        return {"B": bytes_words, "×": times_words, "ms": ms_words}.get(self.suffix, count_words)(value)

    @property
    def relative(self) -> bool:
        """Whether it is a ratio to the model's own baseline, measured on one machine."""
        return self.suffix == "×"


AXES = {
    axis.name: axis
    for axis in (
        Axis("artifact_bytes", "Download", "B", "Bytes of the packed file, entropy coded: what a person downloads."),
        Axis("deployed_bytes", "Runs as", "B", "Bytes of the file that the runtime loads (.onnx)."),
        Axis("paper_bytes", "On paper", "B", "Bytes that the encodings need in theory, as papers count them."),
        Axis(
            "activation_bytes", "Activations", "B", "Peak memory between the operators for one picture, counted on the graph; 1 byte a number in int8, else 4."
        ),
        Axis("macs", "MACs", "", "Multiply-accumulate operations for one picture. Zeros scattered among the weights do not lower them."),
        Axis("ratio", "Latency ratio", "×", "Median time for one picture, divided by the baseline's in the same session. Below 1 is faster."),
        Axis("ratio_float32", "ONNX float32 ratio", "×", "Latency in ONNX Runtime as float32, divided by the baseline's; of int8 runs too."),
        Axis("ratio_int8", "ONNX int8 ratio", "×", "Latency in ONNX Runtime as int8, divided by the float32 baseline's, for the runs whose grids allow it."),
        Axis("ratio_pytorch", "PyTorch ratio", "×", "Latency in eager PyTorch, divided by the baseline's."),
        Axis("ratio_litert", "LiteRT float32 ratio", "×", f"Latency in LiteRT as float32, divided by the baseline's, {LITERT_TIMED}", here_alone=True),
        Axis("ratio_litert_int8", "LiteRT int8 ratio", "×", f"Latency in LiteRT as int8, divided by the float32 baseline's, {LITERT_TIMED}", here_alone=True),
        Axis(
            ON_DEVICE,
            "On a device",
            "ms",
            "Latency for one picture on the device chosen on the page Devices: estimated, never measured here. "
            "A run that does not fit its flash and RAM says so, and is never on the front.",
        ),
    )
}
