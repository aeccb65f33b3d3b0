"""Size explained: where the bytes of the packed file went, by layer and by kind, and one layer's way from float32 to its bytes."""

from __future__ import annotations

from pages.ui.page import page
from pages.ui.size import size

page("Size", size)
