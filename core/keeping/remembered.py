"""What this process computed before and may be asked for again: kept in memory up to a limit, least recently used dropped first.

Files that may be dropped are `core.keeping.kept`'s. Values are shared: whoever gets one does not change it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """At most so many values, or, with `size`, as many as amount to `limit` together; one that is larger alone is not kept."""

    def __init__(self, limit: float, size: Callable[[Value], float] = lambda value: 1):
        self._limit, self._size = limit, size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of that key: `make()` unless it is remembered."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        made = self._values[key] = make()
        while sum(map(self._size, self._values.values())) > self._limit:
            self._values.popitem(last=False)
        return made

    def clear(self) -> None:
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)
