"""The five-layer model with its checkpoint on scikit-learn's digits, a real one for engine tests. And a real cluster."""

from __future__ import annotations

import contextlib

import pytest


@pytest.fixture(scope="session")
def five_layer_checkpoint():
    """The checkpoint of the five-layer model on digits, in the session's home."""
    from tests import five_layers  # imports torch, which tests of the cluster do without

    return five_layers.checkpoint()


@pytest.fixture
def subject(five_layer_checkpoint):
    """A fresh state of that checkpoint, to change at will."""
    from core.models.architecture import Architecture
    from core.weights import Compressed

    architecture = Architecture(five_layer_checkpoint.model, five_layer_checkpoint.classes, five_layer_checkpoint.input_size)
    return Compressed.of(five_layer_checkpoint.load(), architecture)


@pytest.fixture
def context(five_layer_checkpoint):
    from core.datasets import load
    from core.methods.apply import Context

    return Context(five_layer_checkpoint, load("digits"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster on the real engine, with a home and lock files of the module's own, and two cores whatever the machine has."""
    from core.cluster import connect
    from core.errors import ClusterError
    from core.jobs.connection import stop_office

    place = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETOSCOPE_HOME", str(place / "home"))
        patch.setenv("PARETOSCOPE_TURNS", str(place / "turns"))
        patch.setenv("PARETOSCOPE_CORES", "2")
        opened = connect()
        yield opened
        opened.close()
        with contextlib.suppress(ClusterError):  # it takes long
            stop_office()
