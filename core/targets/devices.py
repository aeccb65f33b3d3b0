"""Devices: profiles of phones, boards, accelerators and microcontrollers, each figure with the published source that it comes from.

Shipped profiles are assets/devices/NAME.json, a person's own PARETOSCOPE_HOME/devices/NAME.json. Peak rates are of the whole device;
`rates` gives those of one thread, which is what an estimate is for. Imports no torch.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import BadField, BadInput
from core.home import ASSETS, folder, home, write_whole
from core.registry import Registry
from core.targets.roofline import Limit, Rates

SHIPPED = ASSETS / "devices"
KINDS = ("phone", "board", "accelerator", "microcontroller", "browser", "server")
TYPES = ("float32", "int8")  # what graphs compute in, and so what estimates take
PEAKS = ("float32", "float16", "int8")
RANGES = {  # figure → unit, least, most that a device of this century can have
    "clock": ("cycles/s", 1e6, 1e10), **dict.fromkeys(PEAKS, ("operations/s", 1e5, 1e16)),
    "bandwidth": ("bytes/s", 1e6, 1e13), "flash_bandwidth": ("bytes/s", 1e5, 1e12), "ram": ("bytes", 1e3, 1e14), "flash": ("bytes", 1e3, 1e15),
}  # fmt: skip
NEEDED = ("clock", "bandwidth", "ram", "flash")
KEYS = ("name", "title", "kind", "processor", "cores", "weights_in_flash", "figures", "sources")
MOST_CORES = 1024
MOST_A_CYCLE = 1e5  # operations of one core: beyond a whole accelerator's array
LONGEST = 200  # characters of a text
MOST_BYTES = 64_000  # of a profile's file


@dataclass(frozen=True)
class Figure:
    """A number, how it was derived, and the titles and addresses of its sources.

    `unconfirmed` says which part of it no source confirms, and is empty where all of it was read in one.
    """

    value: float
    how: str
    sources: tuple[tuple[str, str], ...]
    unconfirmed: str = ""


@dataclass(frozen=True)
class Device:
    """`weights_in_flash` says that weights are read where they are stored, and take no RAM. `own` says that a person added it."""

    name: str
    title: str
    kind: str
    processor: str
    cores: int
    weights_in_flash: bool
    figures: Mapping[str, Figure]
    own: bool = False

    def figure(self, name: str) -> float | None:
        return self.figures[name].value if name in self.figures else None

    @property
    def unconfirmed(self) -> list[str]:
        """The figures of which a part is not confirmed by a source."""
        return [name for name, figure in self.figures.items() if figure.unconfirmed]

    def rates(self) -> Rates:
        """The peaks of one thread: a core's part of the operations, and the whole bandwidth."""
        operations = {name: self.figure(name) / self.cores for name in TYPES if name in self.figures}
        slow = self.figure("flash_bandwidth") if self.weights_in_flash else None
        return Rates(self.title, operations, self.figure("bandwidth"), self.figure("clock"), slow)

    def limits(self, file_bytes: float, activation_bytes: float) -> list[Limit]:
        """What a model takes of flash (the file that the runtime loads) and of RAM (activations, and the weights where they must be loaded)."""
        resident = 0 if self.weights_in_flash else file_bytes
        return [Limit("flash", file_bytes, self.figure("flash")), Limit("RAM", activation_bytes + resident, self.figure("ram"))]


def devices() -> Registry[Device]:
    """Every profile, the shipped ones first. Raises `BadInput` for a person's file that is none."""
    found: Registry[Device] = Registry("device")
    for path in sorted(SHIPPED.glob("*.json")):
        found.add(path.stem, _shipped(path))
    for path in sorted((home() / "devices").glob("*.json")):
        try:
            device = read(path, own=True)
        except BadInput as error:
            raise BadInput(f"The file {str(path)!r} is no profile any more, so mend or remove it: {error}") from None
        if device.name not in found:
            found.add(device.name, device)
    return found


@functools.cache
def _shipped(path: Path) -> Device:
    return read(path)


def read(path: Path, own: bool = False) -> Device:
    """The profile in a file; raises `BadInput` for one that cannot be read or used."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"The profile {str(path)!r} cannot be read ({error.strerror}); it takes a JSON file.") from None
    if len(data) > MOST_BYTES:
        raise BadInput(f"The profile {str(path)!r} is longer than {MOST_BYTES:,} bytes, which is the most that is accepted.")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BadInput(f"The profile {str(path)!r} is not JSON; it takes an object with the keys {', '.join(KEYS)}.") from None
    return checked(value, own)


def add(value: Any) -> Device:
    """Keep a person's own profile; raises `BadInput` when it cannot be one, or a shipped one has its name."""
    device = checked(value, own=True)
    if (SHIPPED / f"{device.name}.json").exists():
        raise BadInput(f"There is a shipped device named {device.name!r}; it takes another name.")
    write_whole(folder("devices") / f"{device.name}.json", (json.dumps(to_json(device), indent=2, ensure_ascii=False) + "\n").encode())
    return device


def remove(name: str) -> None:
    """Let go of a person's own profile; raises `BadInput` for a shipped one, and `UnknownName`."""
    if not devices().get(name).own:
        raise BadInput(f"The device {name!r} is a shipped one; only a profile of your own can be removed.")
    for path in (home() / "devices").glob("*.json"):
        if read(path).name == name:
            path.unlink()


def checked(value: Any, own: bool = False) -> Device:
    """A profile from its JSON form; raises `BadField` or `BadInput`, one sentence that names the field, its value and what it takes."""
    if not isinstance(value, dict):
        raise BadInput(f"A device's profile is an object with the keys {', '.join(KEYS)}, not {_short(value)}.")
    unknown = [key for key in value if key not in KEYS]
    if unknown:
        raise BadInput(f"A device's profile has no field named {_short(unknown[0])}; it takes {', '.join(KEYS)}.")
    name = value.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,39}", name):
        raise BadField("name", name, "1 to 40 small letters, digits and underscores")
    title, processor = (_text(value.get(field), field) for field in ("title", "processor"))
    if value.get("kind") not in KINDS:
        raise BadField("kind", value.get("kind"), f"one of {', '.join(KINDS)}")
    cores = value.get("cores")
    if not isinstance(cores, int) or isinstance(cores, bool) or not 1 <= cores <= MOST_CORES:
        raise BadField("cores", cores, f"a whole number from 1 to {MOST_CORES:,}")
    in_flash = value.get("weights_in_flash", False)
    if not isinstance(in_flash, bool):
        raise BadField("weights_in_flash", in_flash, "true or false")
    figures = _figures(value.get("figures"), _sources(value.get("sources")))
    for kind in PEAKS:
        most = MOST_A_CYCLE * cores * figures["clock"].value
        if kind in figures and figures[kind].value > most:
            raise BadField(kind, figures[kind].value, f"at most {most:g} operations/s, which is {MOST_A_CYCLE:g} for each of {cores} cores and each cycle")
    return Device(name, title, value["kind"], processor, cores, in_flash, figures, own)


def to_json(device: Device) -> dict:
    """The form that `checked` takes."""
    sources = list(dict.fromkeys(source for figure in device.figures.values() for source in figure.sources))
    figures = {}
    for name, figure in device.figures.items():
        figures[name] = {"value": figure.value, "how": figure.how, "sources": [sources.index(each) for each in figure.sources]}
        if figure.unconfirmed:
            figures[name]["unconfirmed"] = figure.unconfirmed
    return {
        "name": device.name, "title": device.title, "kind": device.kind, "processor": device.processor, "cores": device.cores,
        "weights_in_flash": device.weights_in_flash, "figures": figures, "sources": [{"title": title, "address": at} for title, at in sources],
    }  # fmt: skip


def _figures(value: Any, sources: list[tuple[str, str]]) -> dict[str, Figure]:
    if not isinstance(value, dict):
        raise BadField("figures", value, f"an object with {', '.join(NEEDED)}, and float32 or int8 or both")
    for name in value:
        if name not in RANGES:
            raise BadInput(f"A device has no figure named {_short(name)}; it takes {', '.join(RANGES)}.")
    found = {name: _figure(name, given, sources) for name, given in value.items()}
    missing = next((name for name in NEEDED if name not in found), None)
    if missing:
        unit, low, high = RANGES[missing]
        raise BadInput(f"The figure {missing} is missing; it takes a number of {unit} from {low:g} to {high:g}.")
    if not any(name in found for name in TYPES):
        raise BadInput("A peak rate is missing; it takes operations/s as float32, as int8, or both.")
    return found


def _figure(name: str, given: Any, sources: list[tuple[str, str]]) -> Figure:
    unit, low, high = RANGES[name]
    if not isinstance(given, dict):
        raise BadField(name, given, f"an object with value ({unit}), how and sources")
    number = given.get("value")
    fine = isinstance(number, (int, float)) and not isinstance(number, bool) and low <= number <= high  # of what is no number neither holds
    if not fine:
        raise BadField(name, number, f"a number of {unit} from {low:g} to {high:g}")
    unconfirmed = _text(given["unconfirmed"], f"unconfirmed of {name}") if "unconfirmed" in given else ""
    places = given.get("sources")
    fine = isinstance(places, list) and all(isinstance(at, int) and not isinstance(at, bool) and 0 <= at < len(sources) for at in places)
    if not fine or not (places or unconfirmed):
        raise BadField(f"the sources of {name}", places, f"a list of places in the list of sources, from 0 to {len(sources) - 1}")
    return Figure(float(number), _text(given.get("how"), f"how of {name}"), tuple(sources[at] for at in places), unconfirmed)


def _sources(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        raise BadField("sources", value, "a list of objects with title and address, at least one")
    found = []
    for source in value:
        if not isinstance(source, dict):
            raise BadField("a source", source, "an object with title and address")
        address = _text(source.get("address"), "address", most=500)
        if not re.match(r"https?://", address):
            raise BadField("address", address, "an address that begins with https:// or http://")
        found.append((_text(source.get("title"), "title"), address))
    return found


def _text(value: Any, field: str, most: int = LONGEST) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > most:
        raise BadField(field, value, f"a text of 1 to {most} characters")
    return value.strip()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
