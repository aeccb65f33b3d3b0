"""Numbers coded by Pcodec, for streams that must be read fast, and for floats that are neither dense weights nor codes.

Pcodec (Loncaric et al. 2025, arXiv:2502.06112) sorts numbers into bins that it chooses by their histogram, codes each number's bin by asymmetric
numeral systems, and stores its place within the bin in plain bits. It reads a number in a tenth of the time that `core.packed.coding`'s own coder
takes, for up to 0.2 % more bytes. Its classic mode alone is used: another would find the zero bits of float16 numbers that were widened
to float32, which shipped checkpoints consist of and a person's own do not.

As with `core.packed.coding`, decoding trusts nothing: it returns an array of the wanted length or raises `BadArtifact`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec
from pcodec.wrapped import FileCompressor, FileDecompressor

from core.errors import BadArtifact

AT_ONCE = 1 << 24  # numbers: the most of one of Pcodec's chunks
DTYPES = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "f32": np.float32}  # by Pcodec's names
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_SETTINGS = ChunkConfig(
    compression_level=10,  # higher ones take more bytes for shorter streams
    mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op(), paging_spec=PagingSpec.equal_pages_up_to(AT_ONCE), enable_8_bit=True,
)  # fmt: skip


def write(numbers: np.ndarray) -> bytes:
    """The bytes of numbers (n,) of one of `DTYPES`; neither n nor the dtype is stored."""
    file = FileCompressor()
    parts = [file.write_header()]
    for start in range(0, numbers.size, AT_ONCE):
        chunk = file.chunk_compressor(np.ascontiguousarray(numbers[start : start + AT_ONCE]), _SETTINGS)
        parts += [chunk.write_meta(), chunk.write_page(0)]
    return b"".join(parts)


def read(data: bytes, dtype: type, count: int) -> np.ndarray:
    """The `count` numbers (n,) that `write` was given; raises `BadArtifact`."""
    numbers = np.empty(count, dtype)
    with damage_told(RuntimeError):
        file, at = FileDecompressor.new(data)
        for start in range(0, count, AT_ONCE):
            part = numbers[start : start + AT_ONCE]
            chunk, used = file.chunk_decompressor(data[at:], _NAMES[numbers.dtype])
            at += used
            progress, used = chunk.read_page_into(data[at:], part.size, part)
            at += used
            if progress.n_processed != part.size or not progress.finished:
                raise BadArtifact("The file is damaged: a stream is too short.")
    if at != len(data):
        raise BadArtifact("The file is damaged: a stream does not end where its numbers end.")
    return numbers


@contextlib.contextmanager
def damage_told(kind: type[Exception]) -> Iterator[None]:
    """Turns what a coder raises on damaged bytes into `BadArtifact`: errors of this kind, or a Rust panic, which is no `Exception`."""
    try:
        yield
    except BadArtifact:
        raise
    except BaseException as error:
        if isinstance(error, kind) or type(error).__name__ == "PanicException":
            raise BadArtifact("The file is damaged: a stream cannot be decoded.") from None
        raise
