"""An interpreter in which nothing but a few packages can be imported: no site, no environment, no checkout."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

NUMPY = ("numpy", "numpy.libs")
TORCH = (*NUMPY, "torch", "torchgen", "typing_extensions.py", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "nvidia")
READER = ("torchvision", "torchvision.libs", "PIL", "constriction", "pcodec", "safetensors", "platformdirs", "scipy", "scipy.libs")
PACKAGES = {  # what pip brings with each runtime, as far as importing it wants it
    "run_onnx.py": (*NUMPY, "onnxruntime"),
    "run_litert.py": (*NUMPY, "ai_edge_litert"),
    "run_torch.py": TORCH,
    "run_packed.py": (*TORCH, *READER),  # and Paretoscope's own folder
}
START = "import json, runpy, sys; folder, script, *given = sys.argv[1:]; sys.path.insert(0, folder); sys.argv = [script, *given]; "
REFUSED = ("core", "torchvision", "onnx", "safetensors", "scipy", "PIL", "streamlit")


def site(packages: tuple[str, ...], folder: Path) -> Path:
    """A folder of links to these packages alone, as they are installed here."""
    installed = Path(importlib.util.find_spec("numpy").origin).parents[1]
    folder.mkdir()
    for name in packages:
        if (installed / name).exists():
            (folder / name).symlink_to(installed / name)
    return folder


def run(folder: Path, script: Path, *given: str | Path) -> subprocess.CompletedProcess:
    """`python script given…` with the packages of `folder`, and a proof that no others were there."""
    refused = [name for name in REFUSED if not (folder / name).exists()]
    check = f"import importlib.util as u; assert not [name for name in {refused!r} if u.find_spec(name)]; "
    command = [sys.executable, "-I", "-S", "-c", f"{START}{check}runpy.run_path(script, run_name='__main__')", folder, script, *given]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd="/")


def last_json(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout.splitlines()[-1])
