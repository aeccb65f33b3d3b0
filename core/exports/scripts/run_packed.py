"""Runs MODEL.psc by Paretoscope: python MODEL.psc.py [--paretoscope FOLDER] [--time] PICTURES (image files, which Pillow reads, or .npy of uint8)."""

import argparse, importlib, json, pathlib, platform, sys, time

MODEL = pathlib.Path(__file__).with_suffix("")
(options := argparse.ArgumentParser(add_help=False)).add_argument("--paretoscope", metavar="FOLDER", type=lambda folder: sys.path.insert(0, folder))
names = options.parse_known_args()[1]
try:
    import numpy as np, torch, core.artifact, core.engine, core.errors

    SHEET, model = json.loads(pathlib.Path(f"{MODEL}.json").read_text(encoding="utf-8")), core.engine.measurable(core.artifact.read(MODEL))
except ImportError as error:
    sys.exit(f"Paretoscope runs this file ({error}): give its folder, by --paretoscope FOLDER or PYTHONPATH, to its own Python, FOLDER/.venv/bin/python.")
except core.errors.BadArtifact as error:
    sys.exit(str(error))
ABOUT = {"device": platform.node(), "run": SHEET["run"], "format": SHEET["format"], "runtime": "torch " + torch.__version__, "threads": 1, "batch": 1}
run, _ = torch.inference_mode()(lambda x: model(torch.from_numpy(x)).numpy()), torch.set_num_threads(1)  # (B, 3, S, S) float32 → logits (B, classes)
size, (mean, std, fit) = SHEET["picture"]["size"], (np.array(SHEET[name] or 1, np.float32) for name in ("mean", "std", "fit"))
sized = lambda x, f=(size, size, len(mean)): x if {x.shape, x.shape[1:]} & {f, f[: 2 + (f[2] > 1)]} else sys.exit(f"A picture is {f}, not {x.shape}.")
scaled = lambda x: ((sized(x).reshape(-1, size, size, len(mean)) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)  # of (B, H, W) or (B, H, W, C)
prepare = lambda x: np.repeat(fit @ scaled(x) @ fit.T if fit.ndim else scaled(x), 3 // len(mean), 1)  # (B, 3, S, S) float32
near = lambda p, r=SHEET["picture"]["resize"]: p.resize([max(r, int(r * side / min(p.size))) for side in p.size], 2)  # the shorter side becomes r
middle = lambda p: p.crop([round((side - size) / 2) + more for more in (0, size) for side in p.size])
opened = lambda name: importlib.import_module("PIL.Image").open(name).convert("L" if len(mean) == 1 else "RGB")
read = lambda name: np.load(name) if name.endswith(".npy") else np.asarray(middle(near(opened(name))))
ticks = lambda x=np.zeros((1, *SHEET["input"][1:]), "f"): np.diff([time.perf_counter() for _ in range(221) if run(x) is not None])[20:].reshape(10, 20)
calm = lambda tries=3: one if (one := (np.median(s := ticks(), 1).max() / np.median(s), tries, s))[0] <= 1.5 or tries == 1 else min(one, calm(tries - 1))
timed = lambda: (s := calm()) and ABOUT | {f"ms_p{p}": round(1e3 * float(np.percentile(s[2], p)), 4) for p in (10, 50, 90)} | {"disturbed": bool(s[0] > 1.5)}
for name in names if __name__ == "__main__" else ():
    print(json.dumps(timed()) if name == "--time" else ", ".join(SHEET["classes"][best] for best in run(prepare(read(name))).argmax(1)))
