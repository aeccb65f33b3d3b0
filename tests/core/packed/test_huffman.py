"""Huffman's code lengths against the usual heap, and against constriction's own trees; and what shared weights take on paper."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest
from constriction import symbol
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from core.methods.apply import apply
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.share_weights import ShareWeights
from core.metrics.size import dense_bytes, paper_bytes
from core.packed import huffman

histograms = st.lists(st.integers(0, 10**6), min_size=1, max_size=80).filter(any)


def by_heap(counts: list[int]) -> list[int]:
    """As in every textbook: a heap of trees, each the list of its symbols."""
    number = itertools.count()
    heap = [(count, next(number), [place]) for place, count in enumerate(counts) if count]
    heapq.heapify(heap)
    bits = [0] * len(counts)
    if len(heap) == 1:
        bits[heap[0][2][0]] = 1
    while len(heap) > 1:
        (one, _, left), (other, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for place in left + right:
            bits[place] += 1
        heapq.heappush(heap, (one + other, next(number), left + right))
    return bits


@given(histograms)
def test_the_stream_is_as_long_as_by_a_heap_and_the_code_is_complete(counts):
    bits, expected = huffman.lengths(np.array(counts)), by_heap(counts)
    assert huffman.coded_bits(np.array(counts)) == np.dot(counts, expected)  # ties may fall either way, the sum may not
    assert [length > 0 for length in bits] == [count > 0 for count in counts]
    if np.count_nonzero(counts) > 1:
        assert sum(0.5**length for length in bits if length) == 1  # Kraft


@pytest.mark.parametrize("seed", range(5))
def test_lengths_are_the_reference_s_where_no_two_trees_are_alike(seed):
    counts = np.random.default_rng(seed).integers(1, 10**9, 257)
    assert huffman.lengths(counts).tolist() == by_heap(counts.tolist())


@pytest.mark.parametrize("count", [2, 16, 256])
def test_lengths_are_those_of_constrictions_trees(count):
    counts = np.random.default_rng(count).integers(1, 10**9, count)
    tree = symbol.huffman.EncoderHuffmanTree((counts / counts.sum()).astype(np.float64))
    found = []
    for place in range(count):
        coder = symbol.QueueEncoder()
        coder.encode_symbol(place, tree)
        found.append(coder.get_compressed()[1])
    assert huffman.lengths(counts).tolist() == found


def test_textbook_lengths():
    assert huffman.lengths(np.array([45, 13, 12, 16, 9, 5])).tolist() == [1, 3, 3, 3, 4, 4]  # Cormen, Leiserson, Rivest and Stein, figure 16.3
    assert huffman.lengths(np.array([0, 7])).tolist() == [0, 1] and huffman.lengths(np.array([0, 0])).tolist() == [0, 0]


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_shared_weights_are_counted_by_huffmans_code_on_paper(subject, context, sparsity):
    if sparsity:
        apply(MagnitudePrune(sparsity=sparsity), subject, context)
    apply(ShareWeights(clusters=8), subject, context)
    total = dense_bytes(subject)
    for name, weight in subject.weights.items():
        value = subject.value(name).numpy()
        kept = value[value != 0] if sparsity else value
        counts = np.unique(kept, return_counts=True)[1]
        codes = min(3 * kept.size, int(np.dot(counts, by_heap(counts.tolist()))) + 8 * (len(weight.grid.entries) - 1))
        positions = value.size * float(entropy([kept.size, value.size - kept.size], base=2)) if sparsity else 0
        total += (codes + positions) / 8 + 4 * (len(weight.grid.entries) - 1) - 4 * value.size
    assert paper_bytes(subject) == pytest.approx(total, abs=1)
