"""For continuous integration: exit status 1 when an exported model misses a limit, and a line for each. Runs the model by MODEL.onnx.py beside it.

python MODEL.onnx.check.py PICTURES.npz --min-top1 90 --max-bytes 400000 --max-ms 2.5
PICTURES.npz has `images` (n, H, W) or (n, H, W, C) uint8 and `labels` (n,) whole numbers.
"""

import argparse, pathlib, runpy, sys, numpy as np

options = argparse.ArgumentParser(description="Fails when the exported model misses a limit.")
options.add_argument("pictures", nargs="?", help="an .npz file with images and labels; needed for --min-top1")
options.add_argument("--min-top1", type=float, metavar="PERCENT")
options.add_argument("--max-bytes", type=int, metavar="N")
options.add_argument("--max-ms", type=float, metavar="MILLISECONDS", help="of one picture on one thread, the median")
options.add_argument("--paretoscope", metavar="FOLDER", help="where Paretoscope is, which a packed file is read by")
given, missed = options.parse_args(), 0
if given.min_top1 is not None and given.pictures is None:
    options.error("--min-top1 wants pictures")
file = pathlib.Path(__file__).with_suffix("").with_suffix("")
model = runpy.run_path(f"{file}.py")
if given.min_top1 is not None:
    pictures, labels = (np.load(given.pictures)[name] for name in ("images", "labels"))
    parts = [slice(start, start + 250) for start in range(0, len(labels), 250)]
    right = np.concatenate([model["run"](model["prepare"](pictures[part])).argmax(1) == labels[part] for part in parts])
timed = lambda: ((told := model["timed"]())["ms_p50"], ", disturbed by other load three times over" * told["disturbed"])
figures = {"top-1 in %": lambda: (100 * right.mean(), ""), "bytes": lambda: (file.stat().st_size, ""), "ms": timed}
for (name, figure), limit, sign in zip(figures.items(), (given.min_top1, given.max_bytes, given.max_ms), (1, -1, -1)):
    if limit is not None:
        missed += (miss := sign * (found := figure())[0] < sign * limit)
        print(f"{'MISSED' if miss else 'kept'}: {name} {found[0]:,.7g}, {'at least' if sign > 0 else 'at most'} {limit:,.7g}{found[1]}")
sys.exit(int(missed > 0))
