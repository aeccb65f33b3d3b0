"""One small registry for everything that has a name: steps, datasets, runtimes, devices.

A duplicate raises at import; an unknown name raises `UnknownName`, which lists the choices. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from core.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Name → entry, in the order of registration. `kind` is the word that error sentences use ("step")."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

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
        if not isinstance(name, str) or name not in self._entries:
            raise UnknownName(self.kind, name, list(self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> list[tuple[str, T]]:
        return list(self._entries.items())
