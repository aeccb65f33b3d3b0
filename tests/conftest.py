"""What every test stands on: thread counts, a state folder of its own, the order of the suites, nothing left running.

The variables are set while this file is imported, before anything can import torch.
"""

import contextlib
import gc
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

# One thread makes training repeatable to the bit, and two processes of two threads on two cores are ten times slower.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
for _variable in ("PARETOSCOPE_DATABASE", "PARETOSCOPE_SCHEDULER"):
    os.environ.pop(_variable, None)

# Every process that a test starts inherits this mark, however far it detaches itself. Each of the processes that share the tests has its own.
MARK = "PARETOSCOPE_TEST_PROCESS"
os.environ[MARK] = uuid.uuid4().hex
_HOME = Path(tempfile.mkdtemp(prefix="paretoscope-test-"))
os.environ["PARETOSCOPE_HOME"] = str(_HOME)
os.environ["PARETOSCOPE_TURNS"] = str(_HOME / "turns")  # the tests wait for each other, not for a dashboard that is open meanwhile

import psutil  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

_LAST = ("slow", "alone", "e2e", "benchmark")  # in this order, after all that carries none of these marks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives in tests/e2e and tests/benchmarks, and put quick tests before slow ones before the browser's."""
    for item in items:
        for folder, mark in (("e2e", "e2e"), ("benchmarks", "benchmark")):
            if Path(__file__).parent / folder in item.path.parents:
                item.add_marker(mark)
    items.sort(key=lambda item: max((place for place, mark in enumerate(_LAST, 1) if item.get_closest_marker(mark)), default=0))


def pytest_collection_finish() -> None:
    """Hide what was imported and collected from the garbage collector, which would go through 700,000 objects that stay each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """End what the tests started and left behind, and remove the session's state folder."""
    left = started_by(os.environ[MARK])
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _gone, stubborn = psutil.wait_procs(left, timeout=5)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(_HOME, ignore_errors=True)


def started_by(mark: str) -> list[psutil.Process]:
    """Every other living process that carries `mark` in its environment."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and _environment(process).get(MARK) == mark]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


@pytest.fixture(autouse=True)
def _no_latencies_of_other_tests(monkeypatch):
    """What one test pretended to have measured must not answer another."""
    if latency := sys.modules.get("core.metrics.latency"):
        monkeypatch.setattr(latency, "_MEMORY", latency.Memory())


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A PARETOSCOPE_HOME of this test's own."""
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
