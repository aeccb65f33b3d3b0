"""Export: a measured run as files for PyTorch, ONNX Runtime and LiteRT, each read back and measured before it is offered."""

from __future__ import annotations

from pages.ui.export import export
from pages.ui.page import page

page("Export", export, charts=False)
