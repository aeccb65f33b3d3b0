"""Fetches the part of plotly.js that draws charts in two dimensions, in the version that the installed plotly package has whole.

    .venv/bin/python .setup/charts.py

The whole of plotly.js is three times as large, and a browser needs two seconds longer before the first chart; the page
loads it only for a chart in three dimensions. Run this after a new version of plotly; a test says when.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
import urllib.request
from pathlib import Path

import plotly

NAME = "plotly.js-cartesian-dist-min"
FOLDER = Path(__file__).resolve().parent.parent / "assets" / "plotly"
WHOLE = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
FILES = {"package/plotly-cartesian.min.js": "plotly-cartesian.min.js", "package/LICENSE": "LICENSE.txt"}


def main() -> None:
    version = re.search(r"plotly\.js v([\d.]+)", WHOLE.read_text(encoding="utf-8")[:200])[1]
    with urllib.request.urlopen(f"https://registry.npmjs.org/{NAME}/{version}", timeout=60) as answer:
        said = json.load(answer)["dist"]
    with urllib.request.urlopen(said["tarball"], timeout=60) as answer:
        packed = answer.read()
    if base64.b64encode(hashlib.sha512(packed).digest()).decode() != said["integrity"].removeprefix("sha512-"):
        raise SystemExit(f"{said['tarball']} is not what the registry says it is; nothing was written.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for inside, name in FILES.items():
            (FOLDER / name).write_bytes(archive.extractfile(inside).read())
    print(f"plotly.js {version} in {FOLDER}")


if __name__ == "__main__":
    main()
