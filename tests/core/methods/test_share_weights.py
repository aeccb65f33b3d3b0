"""Shared weights: k-means against the exact optimum, zeros, one codebook for all, training of the entries."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import ckwrap
import numpy as np
import pytest
import torch

from core import artifact, zoo
from core.arithmetic import clusters as module
from core.arithmetic import grids
from core.arithmetic.clusters import centres
from core.errors import Cancelled
from core.methods.apply import apply
from core.methods.finetune import Finetune
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.share_weights import ShareWeights
from core.models.architecture import Architecture
from core.weights import Compressed, trainable

SHAPES = {
    "normal": lambda generator: generator.normal(0, 0.02, 30_000),
    "laplace": lambda generator: generator.laplace(0, 0.02, 30_000),
    "pruned": lambda generator: np.array([number for number in generator.normal(0, 0.02, 40_000) if abs(number) > 0.02]),
}


def error(numbers: np.ndarray, found: np.ndarray) -> float:
    found = np.sort(found)
    return float(np.square(numbers - found[np.searchsorted((found[1:] + found[:-1]) / 2, numbers)]).sum())


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("clusters", [2, 4, 16, 64, 256])
def test_k_means_is_within_two_percent_of_the_optimum(shape, clusters):
    numbers = SHAPES[shape](np.random.default_rng(0)).astype(np.float32)
    best = error(numbers, np.asarray(ckwrap.ckmeans(numbers.astype(float), clusters).centers))
    found = centres(numbers, clusters, "exact", 0)
    assert len(found) == clusters and (np.diff(found) > 0).all()
    assert error(numbers, found.astype(float)) <= 1.02 * best


FEW = 15_000  # weights of a layer that the test of many clusters looks at, since the least error of more takes long to find


def least(numbers: np.ndarray, clusters: int) -> float:
    return error(numbers, np.asarray(ckwrap.ckmeans(numbers, clusters, method="loglinear").centers))


@pytest.fixture(scope="module")
def trained() -> Callable[[str], torch.nn.Module]:
    """The shipped checkpoints on Fashion-MNIST, each loaded once; not to be changed."""
    return functools.cache(lambda model: zoo.checkpoint(model, "fashion_mnist").load())


@pytest.mark.parametrize(
    ("layer", "bounds"),  # of the error, in times the least; 2 % are promised of "exact" alone
    [
        ("layer1.0.conv1", {"exact": 1.02, "density": 1.02, "kmeans++": 1.03, "linear": 1.1}),
        ("layer3.0.conv1", {"exact": 1.02, "density": 1.02, "kmeans++": 1.02, "linear": 1.02}),
        ("fc", {"exact": 1.02, "density": 1.2, "kmeans++": 1.2, "linear": 1.2}),
    ],
)
def test_a_trained_layer_in_16_clusters_is_near_the_optimum_from_every_start(layer, bounds, trained, context):
    whole = trained("resnet18")
    numbers = whole.get_submodule(layer).weight.detach().double().numpy().ravel()
    kept = numbers != 0  # what is 0 stays
    best = least(numbers[kept], 16)
    assert ShareWeights().clusters == 16 and ShareWeights().init == "exact"
    for init, bound in bounds.items():
        for seed in (0, 1, 2) if init == "kmeans++" else (0,):
            subject = Compressed.of(whole, Architecture("resnet18", 10, 32))
            apply(ShareWeights(init=init, layers=layer), subject, dataclasses.replace(context, seed=seed))
            shared = subject.value(f"{layer}.weight").double().numpy().ravel()
            assert len(np.unique(shared[kept])) == 16 and not shared[~kept].any()
            assert (1 - 1e-6) * best <= float(np.square(numbers - shared).sum()) <= bound * best, (init, seed)


@pytest.mark.parametrize("clusters", [16, 32, 128, pytest.param(256, marks=pytest.mark.slow)])
def test_layers_with_few_weights_far_out_are_within_two_percent_too(clusters, trained):
    """Of mobilenet_v3_small, where the largest weight of a layer may be 94 standard deviations out, and a thousand times the median."""
    ratios = []
    for parameter in trained("mobilenet_v3_small").parameters():
        row = parameter.detach().numpy().ravel()
        row = row[row != 0]
        if parameter.dim() > 1 and row.size <= FEW and len(np.unique(row)) > clusters:
            numbers = row.astype(float)
            best, found = least(numbers, clusters), error(numbers, centres(row, clusters, "exact", 0).astype(float))
            assert found <= 1.02 * best
            ratios.append(found / best)
    assert len(ratios) > 30


@pytest.mark.parametrize("clusters", [17, 32, 128, 256])
@pytest.mark.parametrize(
    "drawn",
    [
        lambda generator: generator.standard_cauchy(5000),
        lambda generator: generator.lognormal(0, 2, 5000),
        lambda generator: np.concatenate([generator.normal(0, 1e-3, 4000), generator.normal(5, 1, 15)]),
        lambda generator: generator.normal(0, 1, 5000).astype(np.float16),  # of which many are equal
        lambda generator: generator.standard_cauchy(300),
    ],
    ids=["cauchy", "lognormal", "far", "equal", "few"],
)
def test_many_clusters_are_near_the_optimum_however_far_the_numbers_lie_out(drawn, clusters):
    numbers = drawn(np.random.default_rng(0)).astype(np.float32).astype(float)
    assert error(numbers, centres(numbers, clusters, "exact", 0).astype(float)) <= 1.02 * least(numbers, clusters)


def plain_least_error(numbers: np.ndarray, clusters: int) -> float:
    """The least squared error of `clusters` ranges of the sorted numbers, by trying every end of the last of them."""
    row = np.sort(numbers.astype(float))
    apart = np.array(
        [[np.square(row[begin:end] - row[begin:end].mean()).sum() if end > begin else np.inf for begin in range(len(row))] for end in range(len(row) + 1)]
    )
    least = apart[:, 0]
    for _ in range(clusters - 1):
        least = np.array([min(least[:end] + apart[end, :end], default=np.inf) for end in range(len(row) + 1)])
    return float(least[-1])


@pytest.mark.parametrize("clusters", [2, 5, 12, 40])
def test_few_numbers_are_cut_as_plainly_trying_all_cuts_them(clusters):
    numbers = np.random.default_rng(4).laplace(0, 0.02, 160).astype(np.float32)
    found = centres(numbers, clusters, "exact", 0)
    assert error(numbers, found.astype(float)) == pytest.approx(plain_least_error(numbers, clusters), rel=1e-5)


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("clusters", [2, 4, 16, 64, 128])
def test_numbers_counted_in_buckets_have_centres_as_good(shape, clusters, monkeypatch):
    """Many numbers are told from each other by float16 alone; the optimum is that of the numbers themselves."""
    monkeypatch.setattr(module, "SORTED_BELOW", 0)
    monkeypatch.setattr(module, "BUCKETS_A_CLUSTER", 8)
    numbers = (1e-7 * SHAPES[shape](np.random.default_rng(3))).astype(np.float32)
    numbers[::7] = 0
    assert module._counted(numbers, clusters) is not None
    kept = numbers[numbers != 0].astype(float)
    found = centres(numbers, clusters, "exact", 0)
    assert len(found) == clusters and error(kept, found.astype(float)) <= 1.02 * error(kept, np.asarray(ckwrap.ckmeans(kept, clusters).centers))


@pytest.mark.parametrize("spread", ["even", "crowded"])
@pytest.mark.parametrize("count", [1, 2, 15, 255])
def test_the_nearest_entry_is_that_of_a_binary_search(count, spread):
    generator = np.random.default_rng(5)
    borders = np.linspace(-0.05, 0.04, count) if spread == "even" else np.sort(generator.normal(0, 1e-6, count))
    borders = borders.astype(np.float32)
    numbers = generator.normal(0, 0.03, 300_000).astype(np.float32)
    numbers[:count], numbers[-count:] = borders, np.nextafter(borders, np.float32(1))  # on a border, and just beyond it
    numbers[1000:1003] = 0, np.inf, -np.inf
    assert np.array_equal(grids._ranges(torch.from_numpy(numbers), torch.from_numpy(borders)).numpy(), np.searchsorted(borders, numbers))


def test_many_numbers_that_float16_cannot_tell_apart_are_sorted():
    generator = np.random.default_rng(0)
    close = (1 + 1e-5 * generator.normal(size=100_000)).astype(np.float32)
    found = centres(close, 16, "exact", 0)
    assert len(found) == 16 and error(close.astype(float), found.astype(float)) < 0.02 * float(np.square(close - close.mean(dtype=float)).sum())
    few = generator.choice(np.array([-0.3, 0.1, 0.7], np.float32), 100_000)
    assert np.array_equal(centres(few, 8, "exact", 0), np.unique(few))


@pytest.mark.parametrize("count", [15, 64, 200])
def test_numbers_of_which_many_are_equal_have_centres(count):
    generator = np.random.default_rng(6)
    eight_bits = np.round(generator.normal(0, 20, 30_000)).astype(np.float32)
    lumps = np.concatenate([np.repeat(np.float32([-1, 0.5, 2]), 5000), generator.normal(0, 1, 1000).astype(np.float32)])
    for numbers in (eight_bits, lumps):
        found = centres(numbers, count, "exact", 0)
        kept = numbers[numbers != 0]
        distinct = len(np.unique(kept))
        assert len(found) == min(count, distinct)
        best = error(kept, np.asarray(ckwrap.ckmeans(kept.astype(float), min(count, distinct)).centers))
        assert error(kept, found.astype(float)) <= 1.02 * best + 1e-6


@pytest.mark.parametrize("count", [16, 256])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e37])
def test_numbers_among_which_some_are_all_but_0_have_centres(count, size):
    numbers = (np.random.default_rng(0).normal(size=300) * size).astype(np.float32)
    numbers[:60] *= 1e-20 if size == 1 else 1
    numbers = numbers[np.isfinite(numbers) & (numbers != 0)]
    found = centres(numbers, count, "exact", 0)
    assert count * 0.8 <= len(found) <= count and (np.diff(found) > 0).all() and np.isfinite(found).all()
    kept = np.sort(numbers.astype(float) / size)
    assert error(kept, found.astype(float) / size) <= 1.02 * error(kept, np.asarray(ckwrap.ckmeans(kept, min(count, 235)).centers)) + 1e-12


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("layers", ["features.3", "all"])
def test_a_layer_or_model_without_a_weight_left_comes_back_from_its_file(scope, layers, subject, context):
    apply(MagnitudePrune(threshold=10.0, layers=layers), subject, context)
    apply(ShareWeights(scope=scope), subject, context)
    back = artifact.read(artifact.write(subject).data)
    assert all(torch.equal(weight.value(), back.weights[name].value()) for name, weight in subject.weights.items())
    assert not back.weights["features.3.weight"].value().any()


@pytest.mark.parametrize("start", ["linear", "density", "kmeans++"])
def test_other_starts_settle_where_no_centre_wants_to_move(start):
    numbers = SHAPES["normal"](np.random.default_rng(1)).astype(np.float32)
    found = centres(numbers, 16, start, 0).astype(float)
    nearest = np.abs(numbers[:, None] - found[None, :]).argmin(1)
    means = np.array([numbers[nearest == cluster].mean() for cluster in range(16)])
    np.testing.assert_allclose(found, means, atol=1e-3 * np.ptp(numbers))


def test_few_distinct_numbers_are_their_own_centres():
    numbers = np.repeat(np.array([-1, 0.5, 2], np.float32), 50)
    assert centres(numbers, 8, "linear", 0).tolist() == [-1, 0.5, 2]
    assert centres(np.zeros(0, np.float32), 4, "linear", 0).size == 0


def test_each_weight_takes_the_nearest_entry_and_pruned_ones_stay_zero(subject, context):
    apply(MagnitudePrune(sparsity=0.5), subject, context)
    before = {name: subject.value(name).clone() for name in subject.weights}
    apply(ShareWeights(clusters=8), subject, context)
    for name, weight in subject.weights.items():
        value, kept = weight.value(), before[name] != 0
        assert not value[~kept].any() and len(value[kept].unique()) <= 8
        entries = weight.grid.entries[1:]
        nearest = entries[(before[name][kept][:, None] - entries).abs().argmin(1)]
        torch.testing.assert_close((value[kept] - before[name][kept]).abs(), (nearest - before[name][kept]).abs())


def test_one_codebook_for_the_model_is_stored_once(subject, context, five_layer_checkpoint):
    each = Compressed.of(five_layer_checkpoint.load(), subject.architecture)
    apply(ShareWeights(clusters=16), each, context)
    apply(ShareWeights(clusters=16, scope="model"), subject, context)
    assert len({id(weight.grid.entries) for weight in subject.weights.values()}) == 1
    assert artifact.write(subject).parts["scales"] == 4 * 16 < artifact.write(each).parts["scales"]
    back = artifact.read(artifact.write(subject).data)
    assert all(torch.equal(subject.value(name), back.value(name)) for name in subject.weights)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_training_moves_the_entries_by_the_sum_of_their_weights_gradients(subject, context, scope):
    apply(MagnitudePrune(sparsity=0.3), subject, context)
    apply(ShareWeights(clusters=4, scope=scope), subject, context)
    grids = {name: weight.grid for name, weight in subject.weights.items()}
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = torch.autograd.grad(subject.module(x).square().sum(), [subject.module.get_parameter(name) for name in grids])
    slow: dict[int, torch.Tensor] = {}
    for (name, grid), gradient in zip(grids.items(), plain):
        sums = torch.stack([gradient[(grid.codes == code) & subject.weights[name].mask].sum() for code in range(1, len(grid.entries))])
        slow[id(grid.entries)] = slow.get(id(grid.entries), 0) + sums
    with trainable(subject) as module:
        module(x).square().sum().backward()
        found = {id(grids[name].entries): module.get_submodule(name.rpartition(".")[0]).parametrizations["weight"][0].rounding.learned.grad for name in grids}
    for book, gradient in found.items():
        torch.testing.assert_close(gradient, slow[book], rtol=1e-3, atol=1e-3)


def test_a_trained_codebook_stays_a_codebook(subject, context):
    apply(ShareWeights(clusters=4, scope="model"), subject, context)
    before = next(iter(subject.weights.values())).grid.entries.clone()
    apply(Finetune(epochs=1, images=200, learning_rate=0.01), subject, context)
    books = {id(weight.grid.entries): weight.grid.entries for weight in subject.weights.values()}
    (after,) = books.values()
    assert not torch.equal(before, after) and (after[1:].diff() > 0).all() and float(after[0]) == 0
    assert len(torch.cat([subject.value(name).flatten() for name in subject.weights]).unique()) <= 4


@pytest.mark.parametrize("spread", [1.0, 1e-5])
def test_numbers_that_are_looked_at_in_pieces_have_the_same_centres(spread, monkeypatch):
    """Counted in buckets, or, too close together for these, sorted; with pruned ones and equal ones between them."""
    generator = np.random.default_rng(5)
    numbers = (1 + spread * generator.normal(size=150_000)).astype(np.float32)
    numbers[::3], numbers[1::7] = 0, numbers[1]
    whole = [centres(numbers, 16, start, 0) for start in ("exact", "kmeans++")]
    monkeypatch.setattr(module, "PIECE", 10_007)
    assert (module._counted(numbers, 16) is None) == (spread == 1e-5)
    assert np.array_equal(module._sorted(numbers, contextlib.nullcontext), np.sort(numbers[numbers != 0]))
    assert all(np.array_equal(found, centres(numbers, 16, start, 0)) for found, start in zip(whole, ("exact", "kmeans++")))


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_a_codebook_gives_way_between_pieces_and_can_be_cancelled_there(scope, subject, context, five_layer_checkpoint, monkeypatch):
    """The same codes and entries as in one piece; `Cancelled` comes out of any of the turns, however deep."""
    for name, limit in (("SORTED_BELOW", 0), ("BUCKETS_A_CLUSTER", 1)):  # so that every layer is counted
        monkeypatch.setattr(module, name, limit)
    at_once = Compressed.of(five_layer_checkpoint.load(), subject.architecture)
    apply(ShareWeights(clusters=8, scope=scope), at_once, context)
    monkeypatch.setattr(module, "PIECE", 100)
    turns, most, inside = [0], [10**9], [0]

    @contextlib.contextmanager
    def turn():
        assert not inside[0], "a turn in a turn gives no way"
        turns[0] += 1
        if turns[0] > most[0]:
            raise Cancelled("The work was cancelled.")
        inside[0] = 1
        yield
        inside[0] = 0

    piecewise = dataclasses.replace(context, turn=turn)
    apply(ShareWeights(clusters=8, scope=scope), subject, piecewise)
    numbers = sum(subject.value(name).numel() for name in subject.weights)
    assert turns[0] > 3 * numbers / 100
    for name, weight in at_once.weights.items():
        found = subject.weights[name]
        assert torch.equal(found.grid.codes, weight.grid.codes) and torch.equal(found.grid.entries, weight.grid.entries)
    for most[0] in (1, turns[0] // 2, turns[0] - 1):
        turns[0] = 0
        with pytest.raises(Cancelled):
            apply(ShareWeights(clusters=8, scope=scope), Compressed.of(five_layer_checkpoint.load(), subject.architecture), piecewise)
