"""The objectives that accuracy is set against: the axes of the explorer's chart. Imports neither plotly nor torch."""

from __future__ import annotations

from dataclasses import dataclass

from core.points import bytes_words, count_words, ms_words, times_words

ON_DEVICE = "device_ms"  # of the device that a page chose; rows get it from `core.estimates`


@dataclass(frozen=True)
class Axis:
    """An objective that is better when smaller, drawn by its logarithm. `suffix` is its unit: B, ×, ms, or nothing for a count."""

    name: str
    title: str
    suffix: str
    help: str

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
        Axis("ratio_float32", "ONNX float32 ratio", "×", "The same in ONNX Runtime as float32, also for runs that have an int8 file."),
        Axis("ratio_int8", "ONNX int8 ratio", "×", "The same in ONNX Runtime as int8, for the runs whose grids allow it."),
        Axis("ratio_pytorch", "PyTorch ratio", "×", "The same in eager PyTorch."),
        Axis("ratio_litert", "LiteRT float32 ratio", "×", "The same in LiteRT as float32, for the runs that the page Latency has timed in it here."),
        Axis("ratio_litert_int8", "LiteRT int8 ratio", "×", "The same for LiteRT's int8 files, against the uncompressed model in float32."),
        Axis(ON_DEVICE, "On a device", "ms", "Latency for one picture on the device chosen on the page Devices: estimated, never measured here."),
    )
}
