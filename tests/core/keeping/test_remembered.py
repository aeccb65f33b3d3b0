"""What is remembered: computed once, the least recently used dropped first, never more than the limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.keeping.remembered import Remembered


@given(st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_it_holds_the_keys_that_were_asked_for_last(keys, limit):
    made, memory = [], Remembered(limit)
    for number, key in enumerate(keys):
        last = list(dict.fromkeys(reversed(keys[:number])))[:limit]
        before = len(made)
        assert memory.get(key, lambda key=key: made.append(key) or -key) == -key
        assert (len(made) == before) == (key in last)
    assert len(memory) == min(limit, len(set(keys)))


def test_sizes_are_counted_together_and_what_is_too_large_alone_is_not_kept():
    memory = Remembered(10, len)
    for value in ("aaaa", "bbbb", "cccc"):
        memory.get(value[0], lambda value=value: value)
    assert len(memory) == 2 and memory.get("a", lambda: "new") == "new"
    assert memory.get("d", lambda: "d" * 11) == "d" * 11 and len(memory) == 0


def test_nothing_is_remembered_of_what_could_not_be_made():
    memory = Remembered(1)
    for _ in range(2):
        try:
            memory.get("key", lambda: 1 // 0)
        except ZeroDivisionError:
            continue
    assert memory.get("key", lambda: 3) == 3
