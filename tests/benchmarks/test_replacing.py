"""How long a run takes whose worker is killed in the middle of it: the worker is replaced, and the run done again. Wants a quiet machine."""

from __future__ import annotations

import os
import signal
import time

import pytest

from core.jobs.turns import Turns
from core.store import COMPLETE
from tests.core.test_cancelling import cluster, computing, state, until  # noqa: F401  (a fixture among them)

pytestmark = pytest.mark.benchmark
LIMIT = 15.0  # seconds


def test_a_killed_workers_run_is_done_again_in_time(cluster):  # noqa: F811
    client = cluster._connection.client
    identity = computing(cluster, Turns(), "evaluating")
    pids, busy = client.run(os.getpid), [address for address, tasks in client.processing().items() if tasks]
    killed = time.monotonic()
    os.kill(pids[busy[0]], signal.SIGKILL)
    until(lambda: state(cluster, identity) == COMPLETE)
    took = time.monotonic() - killed
    print(f"\na killed worker: its run was done again after {took:.1f} s")
    assert took < LIMIT
