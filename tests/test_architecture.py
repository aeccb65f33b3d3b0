"""Who may import whom. The contracts of pyproject.toml, and what import-linter cannot see: pages, and torch at import time."""

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("dashboard.py"), *(ROOT / "pages").glob("*.py")])
CODE = sorted([*(ROOT / "core").rglob("*.py"), *(ROOT / "pages").rglob("*.py"), *ROOT.glob("*.py")])
LONGEST_FILE = 400

# The page process imports these; torch alone would cost it more than four seconds.
LIGHT = (
    "core", "core.errors", "core.recipe", "core.registry", "core.methods", "core.methods.apply", "core.pareto", "core.store", "core.charts", "core.cluster",
    "core.zoo", "core.datasets", "core.work", "core.engine", "core.studies.gallery", "core.studies.points", "core.jobs.turns", "core.home",
    "core.commands.listing", "core.commands.measure", "core.commands.train", "core.commands.report", "core.commands.floor", "core.floor", "core.__main__",
    "core.layers.sensitivity", "core.layers.facts", "core.layers.charts", "core.commands.layers",
    "core.lessons.students", "core.lessons.charts", "core.lessons.answers",
    "core.exports", "core.exports.chosen", "core.asked", "core.studies.known", "core.runtimes.litert", "core.commands.export",
    "core.targets.devices", "core.targets.roofline", "core.targets.calibration", "core.targets.graphs", "core.targets.estimates",
    "core.targets.measured_there", "core.targets.device_charts", "core.studies.axes",
    "core.commands.devices", "core.papers.classics", "core.papers.reproduced", "core.papers.figures", "core.commands.papers",
    "core.models.importing", "core.commands.import_",
    "core.timing.timings", "core.timing.timing_charts", "core.timing.operators", "core.runtimes.timed", "core.commands.latency",
    "core.packed.size_parts", "core.packed.size_charts", "core.commands.size", "core.studies.study", "core.studies.study_report", "core.commands.study_report",
)  # fmt: skip
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "torch_pruning", "streamlit")


def test_the_contracts_of_import_linter_hold(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(cache_dir=None) == EXIT_STATUS_SUCCESS, "`make lint` says which import breaks which contract"


@pytest.fixture(scope="module")
def refused() -> dict[str, str]:
    """Module → what its import stumbles over in an interpreter where the heavy packages cannot be imported; empty when nothing."""
    script = f"""
import importlib, json, sys
sys.modules |= dict.fromkeys({HEAVY!r})
found = {{}}
for name in {LIGHT!r}:
    try:
        importlib.import_module(name)
        found[name] = ""
    except ImportError as error:
        found[name] = str(error)
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_needs_neither_torch_nor_streamlit(module, refused):
    assert refused[module] == ""


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_imports_the_pages_toolbox_and_the_engine_but_no_other_page_and_no_torch(page):
    assert not roots(page) & {"torch", "torchvision", "dashboard", "distributed", "sqlalchemy"}
    assert all(name == "pages" or name.startswith("pages.ui") for name in imports(page) if name.startswith("pages"))


def test_only_pages_import_streamlit():
    assert [str(path.relative_to(ROOT)) for path in (ROOT / "core").rglob("*.py") if "streamlit" in roots(path)] == []


def uses(path: Path, *attributes: str) -> bool:
    """Whether the file reads `st.<attribute>` for one of them."""
    return any(
        isinstance(node, ast.Attribute) and node.attr in attributes and isinstance(node.value, ast.Name) and node.value.id == "st"
        for node in ast.walk(parsed(path))
    )


@pytest.mark.parametrize(
    ("attributes", "only_in"),
    [(("session_state", "query_params"), "pages/ui/state.py"), (("cache_data", "cache_resource"), "pages/ui/services.py")],
)
def test_state_and_caches_have_one_home(attributes, only_in):
    users = [str(path.relative_to(ROOT)) for path in [*PAGES, *(ROOT / "pages" / "ui").rglob("*.py")] if uses(path, *attributes)]
    assert set(users) <= {only_in}


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_lives_in_it_and_is_short(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    assert not text.strip() or ast.get_docstring(parsed(path))


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled(path):
    assert not {"pickle", "cloudpickle", "joblib"} & roots(path)
    loads = [line for line in path.read_text().splitlines() if "torch.load(" in line]
    assert not loads or path.name == "import_.py" and all("weights_only=True" in line for line in loads)  # a person's own file, by its owner


@pytest.mark.slow
def test_the_first_page_is_drawn_without_torch_or_pandas(home):
    """Streamlit imports it as soon as a list is given to a component, which would cost the first page a second."""
    script = """
import sys
from streamlit.testing.v1 import AppTest
page = AppTest.from_file("dashboard.py", default_timeout=60).run()
assert not page.exception and page.button
print([name for name in ("torch", "pandas", "pyarrow", "scipy", "sklearn") if name in sys.modules])
"""
    nobody = os.environ | {"PARETOSCOPE_SCHEDULER": "tcp://127.0.0.1:9"}  # no cluster is started
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=nobody, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
