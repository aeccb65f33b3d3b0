"""The front against brute force, hypervolume against counted cells, and what budgets answer."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import pareto

BOTH = {"top1": "max", "bytes": "min"}
THREE = {"top1": "max", "bytes": "min", "ratio": "min"}
FIGURE = st.one_of(st.none(), st.integers(0, 6))
ROWS = st.lists(st.fixed_dictionaries({"top1": FIGURE, "bytes": FIGURE, "ratio": FIGURE}), max_size=12)


def brute_front(rows, objectives):
    """The definition, word for word."""

    def no_worse(a, b, name):
        return a[name] >= b[name] if objectives[name] == "max" else a[name] <= b[name]

    def complete(row):
        return all(row[name] is not None for name in objectives)

    def beats(a, b):
        return all(no_worse(a, b, name) for name in objectives) and any(a[name] != b[name] for name in objectives)

    return [complete(row) and not any(complete(other) and beats(other, row) for other in rows) for row in rows]


@given(ROWS, st.sampled_from([BOTH, THREE]))
def test_front_is_the_definition(rows, objectives):
    assert pareto.front(rows, objectives).tolist() == brute_front(rows, objectives)


def test_equal_rows_are_both_on_the_front():
    row = {"top1": 90, "bytes": 10}
    assert pareto.front([row, row, {"top1": 89, "bytes": 10}], BOTH).tolist() == [True, True, False]


def test_nothing_gives_nothing():
    assert pareto.front([], BOTH).shape == (0,)
    assert pareto.hypervolume([], BOTH, {"top1": 0, "bytes": 1}) == 0


def test_a_direction_is_max_or_min():
    with pytest.raises(ValueError, match="'max' or 'min'"):
        pareto.front([{"top1": 1}], {"top1": "up"})


def cells(rows, objectives, reference):
    """Unit cells of the integer grid below `reference` that some row dominates: the hypervolume of integer rows."""
    names = list(objectives)
    sign = {name: -1 if objectives[name] == "max" else 1 for name in names}
    points = [[sign[n] * row[n] for n in names] for row in rows if all(row[n] is not None for n in names)]
    corner = [sign[n] * reference[n] for n in names]
    grid = itertools.product(*[range(min([p[i] for p in points] + [corner[i]]), corner[i]) for i in range(len(names))])
    return sum(any(all(p[i] <= cell[i] for i in range(len(names))) for p in points) for cell in grid)


@given(ROWS, st.sampled_from([BOTH, THREE]))
def test_hypervolume_counts_cells(rows, objectives):
    reference = {"top1": 1, "bytes": 5, "ratio": 4}
    assert pareto.hypervolume(rows, objectives, reference) == cells(rows, objectives, reference)


def test_knee_is_where_the_front_bends():
    rows = [{"top1": t, "bytes": b} for t, b in [(92.0, 1000), (91.8, 100), (91.7, 50), (75.0, 30), (40.0, 20)]]
    assert pareto.knee(rows, BOTH, log=["bytes"]) == 2
    assert pareto.knee(rows[:2], BOTH) is None
    straight = [{"top1": i, "bytes": i} for i in (1, 2, 3)]
    assert pareto.knee(straight, BOTH) is None


def test_a_tie_is_indistinct_from_all_that_dominate_it():
    rows = [{"top1": 90.0, "bytes": 10}, {"top1": 89.9, "bytes": 11}, {"top1": 80.0, "bytes": 12}]
    close = lambda i, j: abs(rows[i]["top1"] - rows[j]["top1"]) < 0.5
    assert pareto.ties(rows, BOTH, close).tolist() == [False, True, False]


def test_budgets_name_the_best_the_nearest_and_the_binding_limit():
    rows = [
        {"top1": 92.0, "bytes": 400},
        {"top1": 91.0, "bytes": 110},
        {"top1": 89.0, "bytes": 90},
        {"top1": 80.0, "bytes": 20},
    ]
    most = pareto.Limit("bytes", "min", 100)
    found = pareto.answer(rows, [most])
    assert found.fits.tolist() == [False, False, True, True]
    assert (found.best, found.nearest, found.binding) == (2, 1, most)

    least = pareto.Limit("top1", "max", 90)
    found = pareto.answer(rows, [least, most])
    assert not found.fits.any() and found.best is None
    assert found.nearest == 2  # 1.1 % short of the accuracy; the next one is 10 % too big
    assert found.binding is most  # lifting it admits 92 %


def test_a_row_without_the_figure_does_not_fit():
    limit = pareto.Limit("ratio", "min", 1.0)
    assert not limit.met_by({"top1": 90.0, "ratio": None})
    assert pareto.answer([{"top1": 90.0}], [limit]).nearest is None
    assert pareto.answer([], [limit]).best is None


def test_no_budget_leaves_everything():
    found = pareto.answer([{"top1": 90.0}, {"top1": 91.0}], [])
    assert found.fits.all() and found.best == 1 and found.nearest is None and found.binding is None


def test_imports_numpy_alone():
    code = "import sys, core.pareto; assert not {'torch', 'pandas', 'plotly', 'streamlit'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@given(ROWS)
def test_the_front_of_the_front_is_itself(rows):
    mask = pareto.front(rows, BOTH)
    members = [row for row, on in zip(rows, mask) if on]
    assert pareto.front(members, BOTH).all() or not members
    assert np.array_equal(mask, pareto.front(rows, BOTH))
