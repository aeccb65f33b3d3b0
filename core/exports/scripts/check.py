"""For continuous integration: exit status 1 when an exported model misses a limit, and a sentence for each that it misses.

    python MODEL.onnx.check.py PICTURES.npz --min-top1 90 --max-bytes 400000 --max-ms 2.5

PICTURES.npz has `images` (n, H, W) or (n, H, W, C) uint8 and `labels` (n,) whole numbers. Reads MODEL.onnx.py beside it, which runs the model.
"""

import argparse
import runpy
import sys
from pathlib import Path

import numpy as np

MODEL = Path(__file__).with_suffix("").with_suffix("")


def main() -> int:
    options = argparse.ArgumentParser(description="Fails when the exported model misses a limit.")
    options.add_argument("pictures", nargs="?", help="an .npz file with images and labels; needed for --min-top1")
    options.add_argument("--min-top1", type=float, metavar="PERCENT")
    options.add_argument("--max-bytes", type=int, metavar="N")
    options.add_argument("--max-ms", type=float, metavar="MILLISECONDS", help="of one picture on one thread, the median")
    given = options.parse_args()
    if given.min_top1 is not None and given.pictures is None:
        options.error("--min-top1 wants pictures")
    model, missed = runpy.run_path(f"{MODEL}.py"), []
    if given.min_top1 is not None:
        pictures = np.load(given.pictures)
        batches = zip(*(np.array_split(pictures[name], -(-len(pictures["labels"]) // 250)) for name in ("images", "labels")))
        right = [model["run"](model["prepare"](images)).argmax(1) == labels for images, labels in batches]
        missed.append(limit("top-1", 100 * float(np.concatenate(right).mean()), given.min_top1, "%", least=True))
    if given.max_bytes is not None:
        missed.append(limit("size", MODEL.stat().st_size, given.max_bytes, "bytes"))
    if given.max_ms is not None:
        missed.append(limit("latency", model["timed"]()["ms_p50"], given.max_ms, "ms"))
    return int(any(missed))


def limit(name: str, value: float, bound: float, unit: str, least: bool = False) -> bool:
    """Say how a figure stands to its limit; whether it misses it."""
    missed = value < bound if least else value > bound
    print(f"{'MISSED' if missed else 'kept'}: {name} {value:,.7g} {unit}, {'at least' if least else 'at most'} {bound:,.7g}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
