"""One small registry for everything that has a name: steps, datasets, runtimes, devices.

A duplicate raises at import; an unknown name raises `UnknownName`, which lists the choices. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from core.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Name → entry, in the order of registration. `kind` is the word that error sentences use ("step")."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._finds: list[Callable[[], Mapping[str, T]]] = []

    def also(self, find: Callable[[], Mapping[str, T]]) -> None:
        """Entries that `find` looks for at every question, behind those that were registered: what a person brings, or fetches."""
        self._finds.append(find)

    def add(self, name: str, entry: T) -> T:
        """Register `entry`; raises `ValueError` when the name is taken."""
        if name in self._entries:
            raise ValueError(f"two {self.kind}s are named {name!r}")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """`add` as a decorator."""
        return lambda entry: self.add(name, entry)

    def get(self, name: object) -> T:
        """The entry of that name; raises `UnknownName` with the choices."""
        if isinstance(name, str) and name in self._entries:
            return self._entries[name]
        known = self._all()
        if not isinstance(name, str) or name not in known:
            raise UnknownName(self.kind, name, list(known))
        return known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def items(self) -> list[tuple[str, T]]:
        return list(self._all().items())

    def _all(self) -> dict[str, T]:
        found = dict(self._entries)
        for find in self._finds:
            found |= {name: entry for name, entry in find().items() if name not in found}
        return found
