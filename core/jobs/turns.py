"""Who may compute now: one token a core, for every process of this user on this machine.

    compute     one token for one batch. Asked for between batches by training and evaluation
    urgent      a preview: one token as soon as any is free, more as they become free. Overtakes whoever waits
    exclusive   a latency measurement: every token, so nothing else computes anywhere

The tokens are file locks, so the kernel gives a killed process's tokens back. Three kinds of file:

    token-N     held while computing
    gate        held by an urgent holder from its wait to its end; while it is closed nobody else takes a token. Between
                two previews in a row it stays open for a moment, which lets one batch in
    queue       held by the one compute or exclusive request that is next; the others wait for the queue, so a loop that
                asks again at once stands behind whoever waited, and nobody starves

Waiting is polling, at most a tenth of the time waited so far and at most 5 ms (1 ms in the queue), because a wait must be able to notice
that its work was cancelled. Imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.errors import ParetoscopeError
from core.jobs.locks import FileLock

SHORTEST_WAIT, LONGEST_WAIT = 0.0003, 0.005  # seconds between two looks
URGENT = 0.001  # at most, of a preview
IN_QUEUE = 0.001  # and of who waits for the queue: looking much more seldom than who has just come, it would be overtaken again and again
Check = Callable[[], None]


def core_count() -> int:
    """The cores that this process may use; PARETOSCOPE_CORES overrides it."""
    given = os.environ.get("PARETOSCOPE_CORES", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_folder() -> Path:
    """Where the lock files are: one place a user, whatever the home folder; PARETOSCOPE_TURNS overrides it."""
    given = os.environ.get("PARETOSCOPE_TURNS")
    if given:
        return Path(given)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isdir(runtime):
        return Path(runtime) / "paretoscope-turns"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"paretoscope-turns-{user}"


def _nothing() -> None:
    """The check of a wait that nobody can cancel."""


class Turns:
    """The tokens of this machine. Threads of one process compete like processes do; a nested request of one thread
    uses what the thread already holds.

    `history` names a folder where every thread appends a line `token start end` (seconds, `time.monotonic`) for every
    token it gave back: what tests and benchmarks count cores with. PARETOSCOPE_TURNS_HISTORY sets it.
    """

    def __init__(self, cores: int | None = None, folder: Path | None = None, history: Path | None = None):
        self.cores = cores or core_count()
        self.folder = folder or default_folder()
        given = os.environ.get("PARETOSCOPE_TURNS_HISTORY")
        self.history = history or (Path(given) if given else None)
        self._threads = threading.local()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if hasattr(os, "getuid") and self.folder.stat().st_uid != os.getuid():
                raise PermissionError(errno.EPERM, "it belongs to another user")
            self._hand()
        except OSError as error:
            raise ParetoscopeError(f"The folder {self.folder} cannot be used for locks ({error.strerror}); set PARETOSCOPE_TURNS to one that can.") from None

    @contextlib.contextmanager
    def compute(self, check: Check = _nothing) -> Iterator[None]:
        """Hold one token: for one batch, on one thread. `check` is called while waiting and may raise `Cancelled`."""
        hand = self._hand()
        if hand.tokens:
            yield
            return
        _wait_for(hand.queue.take, check, longest=IN_QUEUE)
        try:
            _wait_for(lambda: hand.gate.is_free() and hand.take_free(1), check)
        finally:
            hand.queue.give()
        try:
            yield
        finally:
            hand.give_all()

    @contextlib.contextmanager
    def urgent(self, check: Check = _nothing) -> Iterator[Grant]:
        """Hold at least one token, having waited for at most one batch of others; `Grant.grow` takes what became free."""
        hand = self._hand()
        if hand.tokens:
            yield Grant(hand, self.cores)
            return
        hand.let_one_in()
        _wait_for(hand.gate.take, check, longest=URGENT)
        try:
            _wait_for(lambda: hand.take_free(self.cores), check, longest=URGENT)
            yield Grant(hand, self.cores)
        finally:
            hand.give_all()
            hand.gate.give()
            hand.gate_opened = time.monotonic()

    @contextlib.contextmanager
    def exclusive(self, check: Check = _nothing) -> Iterator[Callable[[], bool]]:
        """Hold every token. Yields `pause()`: called between two blocks of a measurement, it lets a waiting preview in, and says whether it did."""
        hand = self._hand()
        if len(hand.tokens) == self.cores:
            yield lambda: bool(check())
            return
        if hand.tokens:
            raise RuntimeError("exclusive() was asked for inside compute() or urgent(), where it would wait for itself")
        self._be_alone(hand, check)

        def pause() -> bool:
            check()
            if hand.gate.is_free():
                return False
            hand.give_all()
            self._be_alone(hand, check)
            return True

        try:
            yield pause
        finally:
            hand.give_all()

    def _be_alone(self, hand: Hand, check: Check) -> None:
        _wait_for(hand.queue.take, check, longest=IN_QUEUE)
        try:
            _wait_for(lambda: self._take_all(hand), check)
        except BaseException:
            hand.give_all()
            raise
        finally:
            hand.queue.give()

    def held(self) -> int:
        """How many tokens are held now by anybody, by looking at each."""
        return sum(not token.is_free() for token in self._hand().locks)

    def _take_all(self, hand: Hand) -> bool:
        """Collect tokens as they become free; what was collected is given back while an urgent holder is there."""
        if not hand.gate.is_free():
            hand.give_all()
            return False
        return hand.take_free(self.cores - len(hand.tokens)) == self.cores

    def _hand(self) -> Hand:
        hand = getattr(self._threads, "hand", None)
        if hand is None or hand.process != os.getpid():
            hand = self._threads.hand = Hand(self)
        return hand


class Hand:
    """One thread's view of the files, and the tokens it holds: token number → when it was taken."""

    def __init__(self, turns: Turns):
        self.process = os.getpid()
        self.queue, self.gate = FileLock(turns.folder / "queue"), FileLock(turns.folder / "gate")
        self.locks = [FileLock(turns.folder / f"token-{number}") for number in range(turns.cores)]
        self.tokens: dict[int, float] = {}
        self.gate_opened = 0.0
        self.history = turns.history / f"{self.process}-{threading.get_ident()}.txt" if turns.history else None

    def take_free(self, at_most: int) -> int:
        """Take up to `at_most` free tokens; the number held afterwards."""
        for number, lock in enumerate(self.locks):
            if at_most <= 0:
                break
            if not lock.held and lock.take():
                self.tokens[number] = time.monotonic()
                at_most -= 1
        return len(self.tokens)

    def let_one_in(self) -> None:
        """Between two previews in a row, leave the gate open until whoever is next has looked at it once."""
        open_for = time.monotonic() - self.gate_opened
        if open_for < 2 * LONGEST_WAIT and not self.queue.is_free():
            time.sleep(2 * LONGEST_WAIT - open_for)

    def give_all(self) -> None:
        now = time.monotonic()
        for number in self.tokens:
            self.locks[number].give()
        if self.history and self.tokens:
            with self.history.open("a") as file:
                file.writelines(f"{number} {taken:.6f} {now:.6f}\n" for number, taken in self.tokens.items())
        self.tokens.clear()


class Grant:
    """What an urgent holder was given."""

    def __init__(self, hand: Hand, cores: int):
        self._hand, self._cores = hand, cores

    @property
    def threads(self) -> int:
        """How many threads may compute now."""
        return len(self._hand.tokens)

    def grow(self) -> int:
        """Take the tokens that others gave back meanwhile; how many threads may compute from now on."""
        return self._hand.take_free(self._cores - self.threads)


def _wait_for(ready: Callable[[], object], check: Check, longest: float = LONGEST_WAIT) -> None:
    """Return once `ready()` is true, looking often at first and more seldom the longer it takes."""
    if ready():
        return
    started = time.monotonic()
    while True:
        check()
        time.sleep(min(longest, max(SHORTEST_WAIT, (time.monotonic() - started) / 10)))
        if ready():
            return
