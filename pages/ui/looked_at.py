"""What the Layers page shows besides model, data and recipe, and its form in the address bar. Knows nothing of Streamlit.

What is as usual is left out of the address.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.layers.sensitivity import IMAGES, measurable

PICTURES = (IMAGES, 500, 1000, None)
LONGEST = 100  # characters of one value
WORDS = {"method": "sensitivity", "layer": "layer", "pictures": "map-pictures"}  # as the address says it


@dataclass(frozen=True)
class LookedAt:
    """The step of the heat map, or "" for the recipe's own; the layer at hand, or "" for the first; pictures a cell, None for all."""

    method: str = ""
    layer: str = ""
    pictures: int | None = PICTURES[0]

    def replace(self, **changes) -> LookedAt:
        return dataclasses.replace(self, **changes)


def encode(shown: LookedAt) -> dict[str, list[str]]:
    usual = LookedAt()
    said = {name: getattr(shown, name) for name in WORDS if getattr(shown, name) != getattr(usual, name)}
    return {WORDS[name]: ["all" if value is None else str(value)] for name, value in said.items()}


def decode(query: Mapping[str, Sequence[str]], said: list[str]) -> LookedAt:
    """What a link asks for, and in `said` a sentence for what had to be replaced. A layer that the model lacks is left to the page."""
    given = {name: query[word][-1][:LONGEST] for name, word in WORDS.items() if query.get(word)}
    found = LookedAt(layer=given.get("layer", ""))
    if "method" in given:
        if given["method"] in measurable():
            found = found.replace(method=given["method"])
        else:
            said.append(f"There is no sensitivity to {given['method']!r}; it takes one of {', '.join(measurable())}.")
    if "pictures" in given:
        counts = {"all" if count is None else str(count): count for count in PICTURES}
        if given["pictures"] in counts:
            found = found.replace(pictures=counts[given["pictures"]])
        else:
            said.append(f"The heat map cannot be measured on {given['pictures']!r} pictures; it takes one of {', '.join(counts)}.")
    return found
