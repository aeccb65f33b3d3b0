"""Layer by layer: how sensitive each is to a step, what the recipe at hand makes of it, and which of them a step is to touch."""

from __future__ import annotations

from pages.ui.layers import layers
from pages.ui.page import page

page("Layers", layers)
