"""Files that may be kept and may be dropped: folders below PARETOSCOPE_HOME with a byte limit, least recently used first.

Keeps what training produced (prefixes), teachers' answers, baselines, packed files, exports, .tflite files that are timed, what was measured of
layers, and graphs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path

from core.errors import ParetoscopeError
from core.home import folder, write_whole

LIMIT_BYTES = {
    "prefixes": 2 * 2**30, "teachers": 512 * 2**20, "baselines": 64 * 2**20, "artifacts": 2**30, "layers": 256 * 2**20, "exports": 2 * 2**30,
    "fingerprints": 2**20, "graphs": 64 * 2**20, "litert": 2**30,
}  # fmt: skip


def path_of(shelf: str, name: str) -> Path:
    return folder("kept", shelf) / name


def get(shelf: str, name: str) -> Path | None:
    """The kept file, marked as used now; None when it is not there (any more)."""
    path = path_of(shelf, name)
    try:
        os.utime(path)
    except OSError:
        return None
    return path


def put(shelf: str, name: str, data: bytes) -> None:
    """Keep `data` under a name, then drop the least recently used files beyond the shelf's limit.

    Where nothing can be written, nothing is kept: work that is done is not lost for want of room for what spares it next time.
    """
    try:
        path = path_of(shelf, name)
        write_whole(path, data)
        _trim(path.parent, LIMIT_BYTES[shelf], spare=path)
    except (ParetoscopeError, OSError) as error:
        logging.getLogger("paretoscope").warning("not kept: %s", error)


def get_json(shelf: str, name: str) -> dict | None:
    """What was kept as JSON; None when it is not there, or damaged, which drops it."""
    path = get(shelf, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        drop(path)
        return None


def drop(path: Path) -> None:
    """Forget a kept file that turned out damaged."""
    with contextlib.suppress(OSError):
        path.unlink()


def _trim(shelf: Path, limit: int, spare: Path) -> None:
    files = []
    for path in shelf.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process trims too
            facts = path.stat()
            files.append((facts.st_mtime_ns, facts.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        if path != spare:
            path.unlink(missing_ok=True)
            total -= size
