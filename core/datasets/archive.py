"""Unpacks a zip of class folders, trusting nothing of it: no links, no paths that lead out, no more bytes than it may have. Imports no torch."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from core.datasets.folder import SUFFIXES
from core.errors import BadInput, ParetoscopeError

MOST_FILES = 200_000
MOST_BYTES = 8 * 2**30  # of all pictures, unpacked
MOST_TIMES = 200  # larger than its packed bytes; pictures hardly shrink, so what does is no picture
PIECE = 1 << 20


def unpack(archive: Path, target: Path, check: Callable[[], None] = lambda: None) -> None:
    """Write the pictures of a zip below `target`, which is made. `check` is called all along and may raise `Cancelled`.

    Raises `BadInput` for what is no zip or a damaged one, and for one whose pictures would be too many, too large, or elsewhere.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir() and entry.filename.lower().endswith(SUFFIXES)]
            entries = [entry for entry in entries if not any(part.startswith((".", "__MACOSX")) and part != ".." for part in _parts(entry.filename))]
            _check(archive, opened.infolist(), entries)
            for entry in entries:
                _write(archive, opened, entry, target, check)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError) as error:
        if isinstance(error, NotImplementedError) or "encrypted" in str(error) or "password" in str(error):
            raise BadInput(f"{archive.name} is packed in a way that cannot be read here; it takes a plain zip without a password.") from None
        raise BadInput(f"{archive.name} is not a whole zip file; pack the folder of class folders again.") from None
    except OSError as error:
        raise ParetoscopeError(f"{archive.name} cannot be unpacked to {target} ({error.strerror}); free some space or set PARETOSCOPE_HOME.") from None


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _check(archive: Path, everything: list[zipfile.ZipInfo], entries: list[zipfile.ZipInfo]) -> None:
    for entry in everything:
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BadInput(f"{archive.name} holds the link {entry.filename!r}; it takes pictures in class folders, and no links.")
        parts = _parts(entry.filename)
        if ".." in parts or entry.filename.startswith(("/", "\\")) or ":" in (parts[0] if parts else ""):
            raise BadInput(f"{archive.name} holds {entry.filename!r}, a path that leads out of it; it takes pictures in class folders.")
    if len(entries) > MOST_FILES:
        raise BadInput(f"{archive.name} holds {len(entries):,} pictures; it takes at most {MOST_FILES:,}.")
    size = sum(entry.file_size for entry in entries)
    if size > MOST_BYTES or size > MOST_TIMES * max(PIECE, archive.stat().st_size):
        raise BadInput(f"{archive.name} would unpack to {size / 1e9:,.1f} GB from {archive.stat().st_size / 1e6:,.1f} MB; pictures do not shrink like that.")


def _write(archive: Path, opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, check: Callable[[], None]) -> None:
    place = target.joinpath(*_parts(entry.filename))
    place.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with opened.open(entry) as packed, place.open("wb") as file:
        while piece := packed.read(PIECE):
            check()
            left -= len(piece)
            if left < 0:  # the directory of the zip lies
                raise BadInput(f"{archive.name} holds more bytes in {entry.filename!r} than it says; pack the folder of class folders again.")
            file.write(piece)
