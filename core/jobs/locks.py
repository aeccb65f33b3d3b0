"""A lock on a file, which the operating system takes back when the process that holds it dies, however it dies.

Used by `core.jobs.turns` (who may compute) and by the cluster process (one a home). Imports only the standard library: between two batches
of 30 ms a turn tries several locks, and filelock's take and give cost some hundred times these.
"""

from __future__ import annotations

import os
from pathlib import Path

if os.name == "nt":
    import msvcrt

    def _take(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _give(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _take(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _give(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileLock:
    """One exclusive lock. Not re-entrant: a second `FileLock` on the same path competes with the first, even in one process."""

    def __init__(self, path: Path):
        self.path = path
        self.held = False
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self) -> bool:
        """Whether the lock is ours now; never waits. About a microsecond."""
        if not self.held:
            self.held = _take(self._descriptor)
        return self.held

    def give(self) -> None:
        if self.held:
            self.held = False
            _give(self._descriptor)

    def is_free(self) -> bool:
        """Whether nobody holds the lock; takes it for a moment to find out."""
        if self.held or not self.take():
            return False
        self.give()
        return True

    def __del__(self):
        descriptor, self._descriptor = getattr(self, "_descriptor", None), None
        if descriptor is not None:
            os.close(descriptor)
