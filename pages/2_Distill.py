"""Distill: a teacher, a student, a temperature. What the teacher answers, both learning curves, and what each temperature is worth.

Reads what was set, asks `core` through `pages/ui`, and draws; computes nothing.
"""

from __future__ import annotations

from pages.ui.distill import distill
from pages.ui.page import page

page("Distill", distill, model_label="Teacher")
