"""Accuracy: intervals against scipy and against exact enumeration, top-k against scikit-learn, the one evaluation loop."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from core.datasets import load
from core.errors import BadField, Cancelled
from core.metrics.accuracy import Predictions, evaluate, paired_difference, summary, wilson


@given(st.integers(1, 100_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_the_wilson_interval_is_scipys(pair):
    right, count = pair
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


@pytest.mark.parametrize("count", [1, 64, 5_000])
def test_the_wilson_interval_stays_in_range_and_holds_the_share(count):
    for right in (0, count // 2, count):
        low, high = wilson(right, count)
        assert 0 <= low <= 100 * right / count <= high <= 100 and low < high


def interval_of(gained: int, lost: int, count: int) -> tuple[float, float]:
    """The paired interval, in points, of a run that gained and lost so many of `count` pictures."""
    both = np.ones(count, bool)
    right, baseline_right = both.copy(), both.copy()
    baseline_right[:gained] = False
    right[gained : gained + lost] = False
    difference = paired_difference(right, baseline_right)
    return difference["low"], difference["high"]


@pytest.mark.parametrize(("gain", "loss"), [(0.02, 0.02), (0.05, 0.05), (0.02, 0.1), (0.1, 0.02), (0.05, 0.3), (0.2, 0.2), (0.01, 0.06)])
@pytest.mark.parametrize("count", [64, 200])
def test_the_paired_interval_covers_the_true_difference(count, gain, loss):
    """Exact coverage by adding up the probability of every outcome (gained, lost) whose interval holds the truth."""
    true_difference = 100 * (gain - loss)
    outcomes = np.array([pair for pair in itertools.product(range(count + 1), repeat=2) if sum(pair) <= count])
    chance = multinomial.pmf(np.column_stack([outcomes, count - outcomes.sum(1)]), count, [gain, loss, 1 - gain - loss])
    likely = chance > 1e-7
    covered = 0.0
    for (gained, lost), probability in zip(outcomes[likely], chance[likely]):
        low, high = interval_of(int(gained), int(lost), count)
        covered += probability * (low <= true_difference <= high)
    assert 0.935 <= covered


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_the_paired_difference_is_the_difference_and_changes_sign_when_swapped(pairs):
    right, baseline_right = (np.array(column) for column in zip(*pairs))
    forward, backward = paired_difference(right, baseline_right), paired_difference(baseline_right, right)
    assert forward["top1"] == pytest.approx(100 * (right.mean() - baseline_right.mean()))
    assert forward["low"] <= forward["high"]
    assert (forward["low"], forward["high"]) == pytest.approx((-backward["high"], -backward["low"]))


def test_the_paired_interval_is_several_times_narrower_than_two_separate_ones():
    rng = np.random.default_rng(0)
    baseline_right = rng.random(5_000) < 0.92
    right = baseline_right ^ (rng.random(5_000) < 0.01)
    paired = paired_difference(right, baseline_right)
    low, high = wilson(int(right.sum()), 5_000)
    assert (high - low) / (paired["high"] - paired["low"]) > 2


def test_equal_answers_are_no_difference():
    right = np.array([True, False, True])
    difference = paired_difference(right, right)
    assert difference["top1"] == 0 and difference["low"] == pytest.approx(-difference["high"])


class Scores(torch.nn.Module):
    """Gives prepared scores, row by row, whatever the pictures; counts its batches."""

    def __init__(self, scores: np.ndarray):
        super().__init__()
        self.scores, self.at, self.batches = torch.from_numpy(scores), 0, 0

    def forward(self, x):
        self.batches += 1
        self.at += len(x)
        return self.scores[self.at - len(x) : self.at]


@pytest.fixture
def scores() -> np.ndarray:
    """(400, 10) float32: right more often than not on the digits' validation split."""
    rng = np.random.default_rng(3)
    labels = load("digits").split("validation").labels
    scores = rng.normal(size=(len(labels), 10)).astype(np.float32)
    scores[np.arange(len(labels)), labels] += 2
    return scores


@pytest.mark.parametrize("batch_size", [7, 250, 1_000])
def test_top1_and_top5_are_scikit_learns(scores, batch_size):
    labels = load("digits").split("validation").labels
    figures = summary(evaluate(Scores(scores), load("digits"), 32, batch_size=batch_size))
    assert figures["top1"] == pytest.approx(100 * accuracy_score(labels, scores.argmax(1)))
    assert figures["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=5, labels=range(10)))
    assert figures["images"] == 400 and (figures["top1_low"], figures["top1_high"]) == wilson(round(figures["top1"] * 4), 400)


def test_of_equal_logits_the_first_counts_as_behind_every_runtime(scores):
    rounded = np.maximum(np.round(scores), 0)  # a few whole numbers: most rows have more than one best
    predictions = evaluate(Scores(rounded), load("digits"), 32)
    assert np.array_equal(predictions.predicted, rounded.argmax(1)) and ((rounded == rounded.max(1, keepdims=True)).sum(1) > 1).mean() > 0.1


def test_the_first_pictures_of_the_whole_are_the_part(scores):
    whole = evaluate(Scores(scores), load("digits"), 32)
    part = evaluate(Scores(scores), load("digits"), 32, images=123)
    first = whole.first(123)
    assert len(part) == 123 and np.array_equal(part.predicted, first.predicted) and np.array_equal(part.in_top5, first.in_top5)
    assert whole.predicted.dtype == np.uint16


def test_more_pictures_than_there_are_means_all(scores):
    assert len(evaluate(Scores(scores), load("digits"), 32, images=10_000)) == 400


def test_of_fewer_than_five_classes_every_label_is_in_the_top_five():
    labels = load("digits").split("validation").labels
    predictions = evaluate(Scores(np.zeros((400, 3), np.float32)), load("digits"), 32, images=400)
    assert np.array_equal(predictions.in_top5, labels < 3)


def test_when_time_is_up_it_stops_after_enough_pictures(scores):
    model = Scores(scores)
    predictions = evaluate(model, load("digits"), 32, batch_size=20, seconds=0, at_least=64)
    assert len(predictions) == 80 and model.batches == 4


def test_every_batch_waits_for_its_turn_and_reports(scores):
    turns, fractions = [], []

    @contextlib.contextmanager
    def turn():
        turns.append("taken")
        yield
        turns.append("given back")

    evaluate(Scores(scores), load("digits"), 32, batch_size=100, turn=turn, report=fractions.append)
    assert turns == ["taken", "given back"] * 4 and fractions == [0.25, 0.5, 0.75, 1.0]


def test_a_turn_can_cancel(scores):
    def turn():
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        evaluate(Scores(scores), load("digits"), 32, turn=turn)


def test_an_unknown_split_is_refused(scores):
    with pytest.raises(BadField, match=r"^split cannot be 'tset'; it takes one of train, calibration, validation, test\.$"):
        evaluate(Scores(scores), load("digits"), 32, "tset")


def test_right_compares_label_by_label():
    predictions = Predictions(np.array([1, 2, 3], np.uint16), np.array([1, 0, 3]), np.array([True, False, True]))
    assert predictions.right.tolist() == [True, False, True] and len(predictions) == 3
