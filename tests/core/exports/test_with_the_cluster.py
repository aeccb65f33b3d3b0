"""Exports made by a real cluster: kept for whoever asks again, refused with the reason, cancelled, nothing left behind."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from core.errors import BadInput
from core.exports import Export
from core.recipe import Recipe
from core.runtimes import litert
from core.store import CANCELLED, COMPLETE, RUNNING
from core.work import Work
from tests.core.test_cluster import becomes, wait_for

pytestmark = pytest.mark.slow
MODEL, DATA = "shufflenet_v2_x0_5", "digits"
needs_litert = pytest.mark.skipif(litert.missing() is not None, reason="LiteRT is not here")


def asked(format: str, *steps: dict) -> Export:
    return Export(Work(MODEL, DATA, Recipe.from_json({"steps": list(steps)})), format)


def converters() -> list[psutil.Process]:
    """The converting processes that tests of this process started."""
    mine = os.environ["PARETOSCOPE_TEST_PROCESS"]
    found = []
    for process in psutil.process_iter():
        try:
            if "core.runtimes.converter" in process.cmdline() and process.environ().get("PARETOSCOPE_TEST_PROCESS") == mine:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_a_file_is_made_once_and_kept(cluster):
    export = asked("onnx", {"step": "magnitude_prune"})
    stages = [row["stage"] for row in cluster.follow(cluster.export(export)["identity"])]
    assert export.found().record.agreement >= 0.999 and stages
    assert cluster.export(export)["state"] == COMPLETE  # at once, without asking anybody


def test_what_cannot_be_is_refused_before_anybody_works(cluster):
    with pytest.raises(BadInput, match="8-bit grids"):
        cluster.export(asked("onnx-int8"))


@needs_litert
def test_a_conversion_is_cancelled_and_leaves_no_process(cluster):
    export = asked("tflite")
    becomes(cluster, cluster.export(export)["identity"], RUNNING)
    wait_for(converters)
    cluster.cancel(export.identity())
    becomes(cluster, export.identity(), CANCELLED)
    wait_for(lambda: not converters())


@needs_litert
def test_a_converter_ends_with_its_worker(cluster):
    export = asked("tflite", {"step": "magnitude_prune"})
    becomes(cluster, cluster.export(export)["identity"], RUNNING)
    (converter,) = wait_for(converters)
    os.kill(converter.ppid(), signal.SIGKILL)
    wait_for(lambda: not converter.is_running())
    cluster.cancel(export.identity())
    wait_for(lambda: not converters())
