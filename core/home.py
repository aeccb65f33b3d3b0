"""Where Paretoscope keeps its state (PARETOSCOPE_HOME) and where its shipped files are. Imports no torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import platformdirs

from core.errors import ParetoscopeError

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def home() -> Path:
    """The state folder: PARETOSCOPE_HOME, by default the user's data folder; never inside the checkout."""
    given = os.environ.get("PARETOSCOPE_HOME")
    return Path(given) if given else Path(platformdirs.user_data_dir("paretoscope"))


def folder(*names: str) -> Path:
    """A folder below `home()`, made if need be; one sentence when it cannot be made."""
    path = home().joinpath(*names)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParetoscopeError(f"The folder {path} cannot be made ({error.strerror}); set PARETOSCOPE_HOME to one that can be written.") from None
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one, never a part; one sentence when the disk is full."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ParetoscopeError(f"{path} cannot be written ({error.strerror}); free some space or choose another place.") from None
