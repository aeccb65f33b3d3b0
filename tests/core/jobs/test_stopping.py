"""A cluster process that does not end when it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from core.home import folder
from core.jobs import connection
from core.jobs.connection import ADDRESS, LOG, running_office, stop_office

STUCK = """
import sys, time
from core.jobs import office
def stands_still(*_):
    print("standing", flush=True)
    while True:
        time.sleep(100)  # goes on after a signal
office._open = stands_still
sys.exit(office.main([]))
"""


@pytest.fixture
def stuck(home):
    with (folder() / LOG).open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", STUCK], cwd=connection.ROOT, stdout=log, stderr=log)
    end = time.monotonic() + 60
    while "standing" not in (folder() / LOG).read_text():  # which comes behind its lock, its old address and its handlers
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    (folder() / ADDRESS).write_text(json.dumps({"address": "tcp://127.0.0.1:1", "pid": process.pid}))
    yield process
    process.kill()
    process.wait()


def test_it_writes_where_it_stands_and_is_killed(stuck):
    assert running_office()["pid"] == stuck.pid
    started = time.monotonic()
    assert stop_office(0.5) and time.monotonic() - started < 0.5 + connection.STACKS_SECONDS + connection.KILLED_SECONDS
    assert stuck.wait(5) < 0 and running_office() is None and not stop_office()
    assert "in stands_still" in (folder() / LOG).read_text()
