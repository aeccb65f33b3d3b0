"""Every error that Paretoscope raises on purpose, as one tree.

    ParetoscopeError
    ├── BadInput            what a person gave cannot be used (exit status 2, a message box in a page)
    │   ├── UnknownName     a name that no registry holds
    │   ├── BadField        a field whose value is out of range or of the wrong type
    │   ├── BadRecipe       steps that cannot be parsed, or an order that cannot work
    │   ├── BadArtifact     a packed file that is damaged, lies, or fits another architecture
    │   └── BadCheckpoint   a checkpoint whose tensors are not those of the architecture
    ├── NotHere             a dataset, checkpoint or runtime that this machine does not have
    ├── StoreError          the database of runs cannot be used (newer version, no disk space)
    ├── ClusterError        no cluster could be reached or started
    └── Cancelled           the work was stopped by a person or superseded by a newer slider position

Every message is one sentence that names the offending value and what would be accepted. Imports nothing.
"""

from __future__ import annotations

from collections.abc import Iterable


class ParetoscopeError(Exception):
    """Root of the tree. `str(error)` is a sentence fit to be shown to a person."""

    exit_status = 1
    names: tuple[str, ...] = ()  # all of what the sentence names the first of


class BadInput(ParetoscopeError):
    exit_status = 2


class UnknownName(BadInput):
    """`kind` is what was looked up ("model"), `choices` the names that exist."""

    def __init__(self, kind: str, name: object, choices: list[str]):
        self.kind, self.name, self.choices = kind, name, choices
        super().__init__(f"There is no {kind} named {name!r}; {_offer(str(name), choices)}.")


class BadField(BadInput):
    """A field's value was refused; `accepted` completes the sentence "it takes …"."""

    def __init__(self, field: str, value: object, accepted: str):
        self.field, self.value, self.accepted = field, value, accepted
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "…"
        super().__init__(f"{field} cannot be {shown}; it takes {accepted}.")


class BadRecipe(BadInput):
    pass


class BadArtifact(BadInput):
    pass


class BadCheckpoint(BadInput):
    """`names` are all tensors that stand in the way, each behind what is wrong with it."""

    def __init__(self, sentence: str, names: Iterable[str]):
        self.names = tuple(names)
        super().__init__(sentence)


class NotHere(ParetoscopeError):
    """`action` is the one thing that gets what is missing."""

    exit_status = 2

    def __init__(self, what: str, reason: str, action: str):
        self.what, self.reason, self.action = what, reason, action
        super().__init__(f"{what} is not here: {reason}. {action}")


class StoreError(ParetoscopeError):
    pass


class ClusterError(ParetoscopeError):
    pass


class Cancelled(ParetoscopeError):
    exit_status = 130


def _offer(name: str, choices: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(close) if len(choices) > 12 else f"it takes one of {', '.join(choices)}"
    if len(choices) <= 12:
        return f"it takes one of {', '.join(choices)}"
    return f"there are {len(choices)}, for example {', '.join(choices[:3])}"
