"""Huffman's code: how many bits each symbol takes in the shortest prefix code (Huffman 1952, doi:10.1109/JRPROC.1952.273898).

What Deep Compression stores shared weights with (Han et al. 2016, arXiv:1510.00149, section 4). The packed file codes closer, by
`core.packed.coding`; these lengths are for the figure that papers give.
"""

from __future__ import annotations

import numpy as np


def lengths(counts: np.ndarray) -> np.ndarray:
    """counts (K,) of each symbol → bits of its code (K,) int64; 0 for a symbol that never occurs, 1 for the only one.

    The two lightest trees become one until one is left. Trees are made in the order of their weights, so two queues hold them in order.
    """
    found = np.zeros(len(counts), np.int64)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    if len(order) < 2:
        found[order] = 1
        return found
    leaves = len(order)
    weights = [int(counts[symbol]) for symbol in order]  # then those of the trees that are made
    parents = [0] * (2 * leaves - 1)
    leaf, tree = 0, leaves
    for made in range(leaves, 2 * leaves - 1):
        total = 0
        for _ in range(2):
            if leaf < leaves and (tree == made or weights[leaf] <= weights[tree]):
                light, leaf = leaf, leaf + 1
            else:
                light, tree = tree, tree + 1
            parents[light] = made
            total += weights[light]
        weights.append(total)
    depth = [0] * (2 * leaves - 1)
    for node in reversed(range(2 * leaves - 2)):
        depth[node] = depth[parents[node]] + 1
    found[order] = depth[:leaves]
    return found


def coded_bits(counts: np.ndarray) -> int:
    """Bits of a whole stream in which the symbols occur so often, without the code itself."""
    return int(np.dot(counts, lengths(counts)))
