"""Pictures decoded once into files, and read from there by mapping them into memory: what is too large to be held.

    FOLDER/dataset.json     classes, preparation, fingerprint, how many pictures each split has
           labels.npz       split → labels (N,) int64
           train.bin, …     split → pictures (N, 3, S, S) uint8 in the dataset's fixed order

Called by `core.datasets.brought` and `core.datasets.torchvision_pictures`. Imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from core.datasets.base import SPLITS, Arrays, Source
from core.datasets.folder import Listing
from core.datasets.preparation import Preparation
from core.errors import BadInput, NotHere, ParetoscopeError
from core.home import write_whole
from core.recipe import digest

FACTS = "dataset.json"
A_TURN = 4  # pictures that are decoded before somebody else may compute
MOST_BYTES = 64 * 2**30
LEFT_SECONDS = 24 * 3600
SHOWN = 5  # unreadable pictures that a sentence names


def source(path: Path, title: str, licence: str, **more) -> Source:
    """The dataset of a `dataset.json`, by the name of its folder; raises `OSError`, `ValueError`, `KeyError` or `TypeError` for what is none."""
    return _source(path, path.stat().st_mtime_ns, title, licence, **more)


@functools.lru_cache(maxsize=256)
def _source(path: Path, _modified: int, title: str, licence: str, **more) -> Source:
    facts, place = json.loads(path.read_text(encoding="utf-8")), path.parent
    size = facts["preparation"]["crop"]
    return Source(
        name=place.name, title=title, family=place.name, classes=tuple(facts["classes"]), channels=3, size=size, input_size=size,
        mean=tuple(facts["preparation"]["mean"]), std=tuple(facts["preparation"]["std"]), licence=licence, flip=facts["flip"],
        read=functools.partial(_read, place, size, facts["pictures"]), missing=functools.partial(_missing, place, title, size, facts["pictures"]),
        fingerprint=facts["fingerprint"], resize=facts["preparation"]["resize"], **more,
    )  # fmt: skip


def _missing(place: Path, title: str, size: int, counts: dict[str, int]) -> NotHere | None:
    for split in SPLITS:
        path = place / f"{split}.bin"
        if not path.exists() or path.stat().st_size != counts[split] * 3 * size * size:
            return NotHere(title, f"{path} is not whole any more", f"Remove the folder {place} and get the pictures again.")
    return None


def _read(place: Path, size: int, counts: dict[str, int]) -> dict[str, Arrays]:
    """The pictures as arrays that the operating system reads when they are looked at: memory stays bounded, whatever their number."""
    with np.load(place / "labels.npz", allow_pickle=False) as stored:
        labels = {split: stored[split].astype(np.int64) for split in SPLITS}
    shape = lambda split: (counts[split], 3, size, size)
    empty = lambda split: np.zeros(shape(split), np.uint8)
    return {split: (np.memmap(place / f"{split}.bin", np.uint8, "c", shape=shape(split)) if counts[split] else empty(split), labels[split]) for split in SPLITS}


def write(
    final: Path, listing: Listing, preparation: Preparation, *, flip: bool = True, skip_unreadable: bool = False, origin: str = "",
    turn=contextlib.nullcontext, report: Callable[[float], None] = lambda fraction: None,
) -> dict:  # fmt: skip
    """Decode the pictures of a listing into a folder of an existing one; returns what its `dataset.json` says.

    Raises `BadInput` when pictures cannot be read, unless they may be left out, and when the folder holds other pictures, or the same ones prepared
    otherwise. `turn` is entered around every few pictures and may raise `Cancelled`; then nothing is left behind.
    """
    forget_leftovers(final.parent)
    _check_room(final.parent, listing, preparation)
    part = final.parent / f".{final.name}-{uuid.uuid4().hex[:8]}"
    part.mkdir()
    try:
        counts, unreadable, hashed = _decode(part, listing, preparation, skip_unreadable, turn, report)
        made = {
            "classes": list(listing.classes), "preparation": preparation.to_json(), "flip": flip, "pictures": counts, "own_split": listing.own,
            "unreadable": unreadable, "folder": origin,
        }  # fmt: skip
        made["fingerprint"] = digest(json.dumps([hashed, made["classes"], preparation.to_json(), flip]))
        write_whole(part / FACTS, json.dumps(made, indent=1, ensure_ascii=False).encode())
        if final.exists():
            if not _is_whole(final, made):
                raise BadInput(f"There is a dataset named {final.name!r} already, of other pictures or another preparation; choose another name.")
            return json.loads((final / FACTS).read_text(encoding="utf-8"))
        part.rename(final)
        return made
    except OSError as error:
        raise ParetoscopeError(f"The pictures cannot be kept in {part.parent} ({error.strerror}); free some space or set PARETOSCOPE_HOME.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def forget_leftovers(place: Path) -> None:
    """Remove what work that was killed has left in a folder: its hidden folders, after a day."""
    for path in place.glob(".*/"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(path)


def _is_whole(final: Path, made: dict) -> bool:
    """Whether a folder holds the very pictures that were decoded now."""
    try:
        return source(final / FACTS, final.name, "").fingerprint == made["fingerprint"] and source(final / FACTS, final.name, "").missing() is None
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_room(place: Path, listing: Listing, preparation: Preparation) -> None:
    needed, room = len(listing) * 3 * preparation.crop**2, min(MOST_BYTES, shutil.disk_usage(place).free)
    if needed > room:
        raise BadInput(
            f"{len(listing):,} pictures of {preparation.crop}×{preparation.crop} take {needed / 1e9:,.1f} GB, and {room / 1e9:,.1f} GB can be had; "
            "bring fewer pictures or a smaller crop."
        )


def _decode(part: Path, listing: Listing, preparation: Preparation, skip: bool, turn, report) -> tuple[dict[str, int], list[str], str]:
    """Write every split's pictures and labels; the counts, the pictures that could not be read, and a hash over all of it."""
    counts, labels, unreadable, done, hashed = {}, {}, [], 0, hashlib.blake2b(digest_size=16)
    for split in SPLITS:
        pictures, kept = listing.splits[split], []
        with (part / f"{split}.bin").open("wb") as file:
            for start in range(0, len(pictures), A_TURN):
                with turn():
                    for path, label in pictures[start : start + A_TURN]:
                        square = preparation.square(path)
                        if square is None:
                            unreadable.append(str(path))
                            continue
                        data = square.tobytes()
                        hashed.update(data)
                        file.write(data)
                        kept.append(label)
                done += len(pictures[start : start + A_TURN])
                report(done / len(listing))
        labels[split] = np.array(kept, np.int64)
        counts[split] = len(kept)
        hashed.update(labels[split].tobytes())
    if unreadable and not skip:
        shown = ", ".join(unreadable[:SHOWN]) + (f" and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else "")
        raise BadInput(
            f"{len(unreadable)} of {len(listing):,} pictures cannot be read ({shown}); mend or remove them, or ask that what is unreadable be left out."
        )
    if not (counts["train"] and counts["validation"]):
        raise BadInput(f"No readable pictures are left to train or to measure on; {len(unreadable)} of {len(listing):,} cannot be read.")
    packed = io.BytesIO()
    np.savez(packed, **labels)
    write_whole(part / "labels.npz", packed.getvalue())
    return counts, unreadable, hashed.hexdigest()
