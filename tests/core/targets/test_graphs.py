"""Graphs of runs: counted on real subjects, kept under what they say, shipped with every shipped run, asked of a worker."""

import dataclasses
import itertools

import pytest

from core import engine
from core.methods.quantize import Quantize
from core.methods.quantize import apply as quantize
from core.recipe import Recipe
from core.studies import gallery
from core.targets import graphs
from core.targets.graphs import Graph, Operators
from core.work import Work
from tests.five_layers import NAME


def test_a_plain_graph_comes_back_from_its_shelf(subject, home):
    figures = graphs.figures(subject)
    graph = graphs.of(subject)
    assert figures == {"graph": graph.key, "activation_bytes": 4 * graph.peak} and graph.type == "float32"
    assert graphs.find(graph.key) == graph and graphs.find("0" * 16) is None and graphs.find(None) is None
    assert Graph.from_json(graph.to_json()).key == graph.key
    assert graph.weight_bytes == 4 * sum(each.weights for each in graph.operators)


def test_int8_is_a_byte_a_number(subject, context):
    plain = graphs.of(subject)
    quantize(Quantize(weight_bits=8, activation_bits=8), subject, context)
    graph = graphs.of(subject)
    assert graph.type == "int8" and graph.activation_bytes == graph.peak == plain.peak and graph.key != plain.key and "bytes" not in graph.to_json()


def test_layers_without_a_grid_stay_float32_and_so_do_the_values_around_them(subject, context, home):
    plain = graphs.of(subject)
    quantize(Quantize(weight_bits=8, activation_bits=8, layers="inner"), subject, context)
    graph = graphs.of(subject)
    assert {each.layer for each in graph.operators if not each.int8} == {"features.0", "fc"}
    assert [each.macs for each in graph.operators] == [each.macs for each in plain.operators]
    picture, *between, features = 3 * 32**2, 8 * 16**2, 16 * 8**2, 16 * 4**2, 32 * 4**2, 32  # numbers that the chain's five layers and its pool read
    moments = [4 * picture + 4 * between[0], (4 + 1) * between[0], *(a + b for a, b in itertools.pairwise(between)), between[-1] + features]
    moments += [(1 + 4) * features, 4 * features + 4 * 10]  # what the last layer reads is widened, and its answers are float32
    assert graph.type == "int8" and graph.activation_bytes == max(moments) == 4 * graph.peak and graph.peak == plain.peak
    graphs.keep(graph)
    assert graphs.find(graph.key) == graph and graph.in_float32().key == plain.key


def test_a_kept_graph_of_both_types_that_does_not_say_its_bytes_is_counted_again(subject, context, home):
    quantize(Quantize(weight_bits=8, activation_bits=8, layers="inner"), subject, context)
    old = dataclasses.replace(graphs.of(subject), bytes=None)
    graphs.keep(old)
    assert not old.counted and graphs.find(old.key) is None


def test_a_run_names_its_graph_and_a_worker_finds_the_same(five_layer_checkpoint):
    recipe = Recipe.from_json({"steps": [{"step": "channel_prune", "sparsity": 0.5}, {"step": "finetune", "epochs": 1, "images": 100}]})
    work = Work(NAME, "digits", recipe, images=50, latency=False)
    result = engine.run(work)
    graph = graphs.find(result.metrics["graph"])
    assert result.metrics["activation_bytes"] == graph.activation_bytes <= result.baseline["activation_bytes"]
    assert result.metrics["provenance"]["activation_bytes"] == "measured"
    assert sum(each.macs for each in graph.operators) == result.metrics["macs"]
    told = graphs.measure(Operators(work))
    assert told["key"] == graph.key and Graph.from_json(told) == graph
    assert Operators(work).identity() == Operators(Work(NAME, "digits", recipe, "test")).identity() and Operators.from_json(Operators(work).to_json()).trains


@pytest.mark.parametrize("path", sorted(gallery.FOLDER.rglob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_run_has_a_shipped_graph(path):
    for row in gallery.read(path):
        for metrics in (row["metrics"], row["baseline"]):
            graph = Graph.from_json(graphs.shipped()[metrics["graph"]])
            assert graph.key == metrics["graph"] and metrics["activation_bytes"] == graph.activation_bytes
            assert sum(each.macs for each in graph.operators) == metrics["macs"]
