"""Turns between real processes: what the kernel gives back, who overtakes whom, and that nobody starves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from core.errors import Cancelled, ParetoscopeError
from core.jobs import locks
from core.jobs.turns import Turns

pytestmark = pytest.mark.alone
ROOT = Path(__file__).resolve().parents[3]
LONG = 20.0  # seconds that nothing here takes, and less than a HOLD holds
HOLD = """
import sys, time
from pathlib import Path
from core.jobs.turns import Turns
folder, cores, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with getattr(Turns(cores, folder), kind)():
    print("held", flush=True)
    time.sleep(60)
"""
LOOP = """
import sys, time
from pathlib import Path
from core.jobs.turns import Turns
folder, cores, kind, batch, seconds = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5])
turns = Turns(cores, folder, history=folder / "history")
print("ready", flush=True)
sys.stdin.readline()
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    with getattr(turns, kind)() as grant:
        time.sleep(batch)
        if kind == "urgent":
            grant.grow()
            time.sleep(batch)
    count += 1
print(count, flush=True)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "history").mkdir()
    return tmp_path


@pytest.fixture
def start():
    """Start a script in a process of its own; all are killed at the end."""
    started = []

    def begin(script: str, *arguments) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def loops(start, folder, cores, seconds, *kinds) -> list[int]:
    """How many turns each of several processes got that asked again at once, all together for some seconds."""
    processes = [start(LOOP, folder, cores, kind, batch, seconds) for kind, batch in kinds]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [int(process.stdout.readline()) for process in processes]


def intervals(folder) -> dict[str, list[tuple[float, float, int]]]:
    """Process → (start, end, token) of everything it held."""
    found = defaultdict(list)
    for file in (folder / "history").iterdir():
        for line in file.read_text().splitlines():
            token, taken, given = line.split()
            found[file.stem].append((float(taken), float(given), int(token)))
    return found


def most_at_once(spans: list[tuple[float, float]]) -> int:
    changes = sorted([(start, 1) for start, _end in spans] + [(end, -1) for _start, end in spans])
    held = most = 0
    for _moment, change in changes:
        held += change
        most = max(most, held)
    return most


def test_never_more_tokens_than_cores_and_no_token_twice(start, folder):
    counts = loops(start, folder, 2, 1.5, *[("compute", 0.004)] * 3, ("urgent", 0.004), ("exclusive", 0.004))
    assert all(counts)
    held = [span for spans in intervals(folder).values() for span in spans]
    assert most_at_once([(begin, end) for begin, end, _token in held]) == 2
    for token in (0, 1):
        mine = sorted((begin, end) for begin, end, number in held if number == token)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(mine))


def test_exclusive_is_alone(start, folder):
    exclusive = start(LOOP, folder, 2, "exclusive", 0.01, 1.0)
    others = [start(LOOP, folder, 2, kind, 0.003, 1.0) for kind in ("compute", "compute", "exclusive", "urgent")]
    for process in (exclusive, *others):
        process.stdin.write("\n")
        process.stdin.flush()
    assert all(int(process.stdout.readline()) for process in (exclusive, *others))
    found = intervals(folder)
    mine = next(name for name in found if name.startswith(f"{exclusive.pid}-"))
    blocks = whole_blocks(found.pop(mine))
    assert blocks
    for spans in found.values():
        for begin, end, _token in spans:
            assert all(end <= first or begin >= last for first, last in blocks)


def whole_blocks(spans):
    """From when the second token was there until both were given back; one token alone was only collected."""
    blocks = defaultdict(list)
    for begin, end, _token in spans:
        blocks[end].append(begin)
    return [(max(begins), end) for end, begins in blocks.items() if len(begins) == 2]


@pytest.mark.parametrize("kinds", [["compute"] * 3, ["compute", "compute", "exclusive"], ["compute", "urgent", "exclusive"]], ids="-".join)
def test_nobody_starves_on_one_core(start, folder, kinds):
    counts = loops(start, folder, 1, 2.0, *[(kind, 0.005) for kind in kinds])
    assert min(counts) >= 0.1 * sum(counts), counts


@pytest.mark.parametrize("kind", ["compute", "urgent", "exclusive"])
def test_a_killed_process_gives_back_what_it_held(start, folder, kind):
    holder = start(HOLD, folder, 2, kind)
    turns = Turns(2, folder)
    assert turns.held() == {"compute": 1, "urgent": 2, "exclusive": 2}[kind]
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    before = time.monotonic()
    with turns.exclusive():
        assert turns.held() == 2
    assert time.monotonic() - before < LONG
    assert turns.held() == 0


def test_urgent_overtakes_those_who_wait_for_a_batch(start, folder):
    processes = [start(LOOP, folder, 2, "compute", 0.1, 3.0) for _ in range(5)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    turns, waits, holds = Turns(2, folder), [], []
    time.sleep(0.2)
    for _ in range(8):
        asked = time.monotonic()
        with turns.urgent() as grant:
            granted = time.monotonic()
            assert grant.threads >= 1
            while grant.grow() < 2:  # the other batch under way ends
                assert time.monotonic() - granted < LONG
                time.sleep(0.001)
            time.sleep(0.02)
            holds.append((granted, time.monotonic()))
        waits.append((asked, granted))
        time.sleep(0.02)
    assert all(int(process.stdout.readline()) for process in processes)
    begun = [begin for spans in intervals(folder).values() for begin, _end, _token in spans]
    assert sum(first < begin < last for begin in begun for first, last in holds) <= 2  # who looked at the gate just before it was closed
    # Whoever stands in line with five others sees some four batches begin; whoever overtakes them none, but where its own process was held up.
    assert sum(first < begin < last for begin in begun for first, last in waits) <= len(waits)


def test_a_measurement_pauses_for_a_preview_and_for_nothing_else(start, folder):
    turns, looks, blocks, paused = Turns(2, folder), [], [], []
    computing = start(LOOP, folder, 2, "compute", 0.01, 2.0)
    computing.stdin.write("\n")
    computing.stdin.flush()

    def look(waits: threading.Event):
        with turns.urgent(waits.set):
            looks.append(time.monotonic())

    with turns.exclusive() as pause:
        for block in range(20):
            begun = time.monotonic()
            assert turns.held() == 2
            if block % 5 == 4:
                waits = threading.Event()
                threading.Thread(target=look, args=(waits,)).start()
                assert waits.wait(LONG)
            time.sleep(0.03)
            blocks.append((begun, time.monotonic()))
            paused.append(pause())
            assert len(looks) == (block + 1) // 5  # it had its turn
    assert sum(paused) <= 6  # who looks whether the gate is free holds it for a microsecond, and may be taken for a preview
    assert int(computing.stdout.readline())
    for begin, end, _token in next(spans for name, spans in intervals(folder).items() if name.startswith(f"{computing.pid}-")):
        assert all(end <= first or begin >= last for first, last in blocks)


def test_urgent_takes_every_free_token_at_once(start, folder):
    turns = Turns(3, folder)
    start(HOLD, folder, 3, "compute")
    with turns.urgent() as grant:
        assert grant.threads == 2
        assert grant.grow() == 2
        with turns.compute():
            assert grant.threads == 2  # what this thread holds is used again
    assert turns.held() == 1


def test_waiting_notices_that_its_work_was_cancelled(start, folder):
    start(HOLD, folder, 1, "exclusive")
    turns, begun = Turns(1, folder), time.monotonic()

    def check():
        if time.monotonic() - begun > 0.2:
            raise Cancelled("no longer wanted")

    for ask in (turns.compute, turns.urgent, turns.exclusive):
        begun = time.monotonic()
        with pytest.raises(Cancelled), ask(check):
            pass
        assert time.monotonic() - begun < LONG
    assert turns._hand().queue.is_free() and turns._hand().gate.is_free()


def test_threads_of_one_process_compete_and_a_thread_may_nest(folder):
    turns, inside, most = Turns(2, folder), [], []
    count = threading.Lock()

    def work():
        for _ in range(20):
            with turns.compute(), turns.compute():
                with count:
                    inside.append(1)
                    most.append(len(inside))
                time.sleep(0.001)
                with count:
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert max(most) == 2
    with turns.exclusive(), turns.exclusive(), turns.compute():
        assert turns.held() == 2
    with turns.compute(), pytest.raises(RuntimeError, match="wait for itself"), turns.exclusive():
        pass
    assert turns.held() == 0


def test_an_error_inside_gives_everything_back(folder):
    turns = Turns(2, folder)
    for ask in (turns.compute, turns.urgent, turns.exclusive):
        with pytest.raises(KeyError), ask():
            raise KeyError
    assert turns.held() == 0


def test_an_uncontended_turn_waits_for_nothing_and_asks_the_kernel_six_times(folder, monkeypatch):
    """The queue, the gate and a token, each taken and given: about a microsecond each."""
    turns, calls = Turns(2, folder), []
    monkeypatch.setattr("core.jobs.turns.time.sleep", lambda seconds: pytest.fail("it waited"))
    for name in ("_take", "_give"):
        monkeypatch.setattr(locks, name, lambda descriptor, name=name, real=getattr(locks, name): calls.append(name) or real(descriptor))
    for _ in range(100):
        with turns.compute():
            pass
    assert len(calls) == 6 * 100


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ParetoscopeError, match="PARETOSCOPE_TURNS"):
        Turns(2, tmp_path / "file")
