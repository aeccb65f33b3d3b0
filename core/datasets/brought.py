"""Datasets that a person brought: decoded pictures below PARETOSCOPE_HOME/imports, which stand in the registry beside the shipped ones.

Written by `core.models.importing`. A name is never given to other pictures. Imports no torch.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import PurePath

from core.datasets import decoded
from core.datasets.base import DATASETS, Source
from core.datasets.folder import Listing
from core.datasets.preparation import Preparation
from core.errors import BadField
from core.home import folder, home

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def sources() -> dict[str, Source]:
    """name → source of everything that was brought to this home."""
    found = {}
    place = home() / "imports"
    for path in sorted(place.glob(f"*/{decoded.FACTS}")) if place.is_dir() else ():
        if not NAME.fullmatch(path.parent.name):  # one that is being written
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # half removed by its owner: it is not there
            found[path.parent.name] = decoded.source(path, f"{path.parent.name} (yours)", "your own pictures", own=True)
    return found


DATASETS.also(sources)


def check_name(name: str) -> str:
    """A name that can be given: raises `BadField` for one of wrong letters, or of a dataset that is not a person's own."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadField("name", name, "small letters, digits, - and _, at most 40")
    if name in DATASETS and not DATASETS.get(name).own:
        raise BadField("name", name, "a name that no dataset of Paretoscope's own has")
    return name


def name_of(place: PurePath) -> str:
    """A dataset's name from that of its folder or archive."""
    name = re.sub(r"[^a-z0-9_-]+", "_", place.stem.lower() if place.suffix == ".zip" else place.name.lower()).strip("_-")[:40]
    name = name or "pictures"
    return f"my_{name}"[:40] if name in DATASETS and not DATASETS.get(name).own else name


def keep(name: str, listing: Listing, preparation: Preparation, **how) -> dict:
    """Decode the pictures of a listing and keep them under a name, as `decoded.write` does; raises `BadField` for a name that cannot be given."""
    check_name(name)
    return decoded.write(folder("imports") / name, listing, preparation, **how)
