"""The set-up: two commands on a fresh machine, quick when nothing changed, and one sentence for whatever is missing."""

import ast
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import environment
import pytest
from environment import Missing

from tests import browser, run

ROOT = Path(__file__).resolve().parents[2]
RUN, TEST, LITERT = ROOT / "requirements.txt", ROOT / "requirements-test.txt", ROOT / "requirements-litert.txt"
TARGETS = ("dashboard", "test", "benchmark", "lint", "clean")
# What is imported under another name than it is installed by.
INSTALLED_AS = {"sklearn": "scikit-learn", "torch_pruning": "torch-pruning", "importlinter": "import-linter", "PIL": "pillow"}
LOCAL = {"core", "pages", "tests", "environment", "dashboard"}
UNREACHABLE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """`make` in that folder, with nobody at the keyboard; make's own variables of the run around this one are left out."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PARETOSCOPE_VENV")}
    return subprocess.run(["make", *arguments], cwd=folder, env=kept | variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def pins(path: Path) -> dict[str, str]:
    """Name as it is written → version."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(re.fullmatch(r"([\w-]+)==([\w.]+)", line).groups() for line in lines)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_to_what_is_installed():
    for path in (RUN, TEST, LITERT):
        assert pins(path) == {name: importlib.metadata.version(name) for name in pins(path)}
    named = [{normal(name) for name in pins(path)} for path in (RUN, TEST, LITERT)]
    assert len(set.union(*named)) == sum(map(len, named)), "each in one file"


def test_known_holes_are_closed():
    chosen = {normal(name): tuple(int(part) for part in version.split(".")) for name, version in pins(RUN).items()}
    assert chosen["starlette"] >= (1, 1, 0) and chosen["python-multipart"] >= (0, 0, 22) and chosen["torch"] >= (2, 10)


def imported(*folders: str) -> set[str]:
    """The third-party packages that the code imports, by the names they are installed by."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py") if (ROOT / folder).is_dir() else [ROOT / folder])]
    found = set().union(*map(named_in, files))
    return {normal(INSTALLED_AS.get(name, name)) for name in found - LOCAL - set(sys.stdlib_module_names)}


@functools.cache
def named_in(path: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
        found |= {name.partition(".")[0] for name in names if name}
    return found


def test_everything_imported_is_a_pinned_direct_requirement():
    """dask comes with distributed, of which it is one half and whose version it shares."""
    run, test, litert = ({normal(name) for name in pins(path)} for path in (RUN, TEST, LITERT))
    assert imported("core", "pages", *(["dashboard.py"] if (ROOT / "dashboard.py").exists() else [])) - {"dask"} - litert <= run
    assert imported("tests") - {"dask"} - litert <= run | test


def test_help_is_the_default_and_names_every_target():
    for arguments in ((), ("help",)):
        shown = make(ROOT, *arguments)
        assert shown.returncode == 0 and [line.split()[1] for line in shown.stdout.splitlines()] == list(TARGETS)


def test_only_what_is_tested_wants_a_browser():
    wants = {target: make(ROOT, "--dry-run", target).stdout for target in TARGETS}
    assert {target for target, recipe in wants.items() if "tests/browser.py" in recipe} == {"test", "benchmark"}
    assert "streamlit run dashboard.py" in wants["dashboard"] and "--tests" not in wants["dashboard"]
    assert "playwright" in pins(TEST) and "playwright" not in pins(RUN)
    assert "playwright" not in imported("core", "pages", "dashboard.py", ".setup")


def test_an_old_python_is_one_sentence(tmp_path):
    for tool in ("make", "sh"):
        (tmp_path / tool).symlink_to(os.path.realpath(shutil.which(tool)))
    for python in ("python3", "python3.11", "python"):
        (tmp_path / python).write_text('#!/bin/sh\necho "Python 3.9.2"; exit 1\n')
        (tmp_path / python).chmod(0o755)
    done = make(ROOT, "dashboard", PATH=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "Makefile:37: *** Paretoscope needs Python 3.11 or newer and found none; install one and run make again.  Stop.\n"


@pytest.mark.parametrize(
    ("complaint", "sentence"),
    [
        ("WARNING: Retrying ... NewConnectionError('x')\nERROR: Could not find a version", "The package index could not be reached; "),
        ("ERROR: Could not find a version that satisfies the requirement torch==2.14.1 (from versions: none)", "The package index could not be reached; "),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full; "),
        (
            "ERROR: Could not find a version that satisfies the requirement torch==2.14.1 (from versions: 2.1)\nERROR: No matching distribution found",
            "The package index has no torch==2.14.1 for Python 3.",
        ),
        ("note\nERROR: Something else\n", "pip could not install the requirements: Something else"),
        ("", "pip could not install the requirements: it did not say why."),
    ],
)
def test_what_pip_complains_about_becomes_one_sentence(complaint, sentence):
    assert environment.why_not(complaint).startswith(sentence)


def test_without_a_venv_module_the_package_to_install_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"^Python 3\.\d+ has no venv module here; install it \(Debian: apt-get install python3\.\d+-venv\) and "):
        environment.create(tmp_path / "venv")


def test_a_full_disk_is_noticed_before_anything_is_downloaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 10**10, 10**6))
    with pytest.raises(Missing, match="has less than 7 GB free"):
        environment.make(tmp_path / ".venv", [RUN])
    assert "about 3.3 GB to download and 7 GB on disk" in capsys.readouterr().err
    assert not (tmp_path / ".venv").exists()


def test_a_link_follows_where_the_environment_is_kept_but_a_real_one_stays(tmp_path):
    link, kept = tmp_path / "checkout" / ".venv", tmp_path / "cache" / "venv-1"
    link.parent.mkdir()
    assert environment.place(link, None) == link and not link.is_symlink()
    assert environment.place(link, str(kept)) == kept and link.readlink() == kept
    assert environment.place(link, str(kept)) == kept
    other = tmp_path / "cache" / "venv-2"
    assert environment.place(link, str(other)) == other and link.readlink() == other
    assert environment.place(link, None) == link and not link.is_symlink(), "a link to nowhere is no place for an environment"
    link.mkdir()
    assert environment.place(link, str(kept)) == link and not link.is_symlink()


def test_an_environment_is_ready_only_for_the_requirements_it_was_made_of(tmp_path):
    requirements, venv = tmp_path / "requirements.txt", tmp_path / ".venv"
    requirements.write_text("six==1.16.0\n")
    assert not environment.ready(venv, [requirements])
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text("")
    assert not environment.ready(venv, [requirements])
    environment.stamp(venv, requirements).touch()
    assert environment.ready(venv, [requirements])
    requirements.write_text("six==1.17.0\n")
    assert not environment.ready(venv, [requirements])


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The set-up alone, with nothing to install."""
    (tmp_path / ".setup").mkdir()
    for name in ("Makefile", ".setup/environment.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    (tmp_path / "requirements-test.txt").write_text("# nothing\n")
    (tmp_path / "requirements-litert.txt").write_text("# nothing\n")
    return tmp_path


@pytest.mark.slow
def test_make_makes_the_environment_once_and_again_after_a_change(checkout):
    command = [sys.executable, ".setup/environment.py"]
    here = {name: value for name, value in os.environ.items() if name != "PARETOSCOPE_VENV"}
    at_once = [subprocess.Popen(command, cwd=checkout, env=here, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[1] for process in at_once)
    assert [process.returncode for process in at_once] == [0, 0] and said.count("is made once") == 1
    python = checkout / ".venv" / "bin" / "python"
    real = python.readlink()
    python.unlink()
    python.symlink_to(shutil.which("false"))
    again = make(checkout, "environment")
    assert (again.returncode, again.stderr) == (0, ""), "where nothing has changed, nothing of the environment is run"
    python.unlink()
    python.symlink_to(real)

    made = (checkout / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    (checkout / "requirements.txt").write_text("nothing-of-this-name-exists==1\n")
    refused = make(checkout, "environment", **UNREACHABLE)
    assert refused.returncode == 2 and refused.stderr.splitlines()[-2].startswith("The package index could not be reached; ")
    assert make(checkout, "environment", **UNREACHABLE).returncode == 2, "a half-made environment must not pass for a whole one"
    (checkout / "requirements.txt").write_text("pip\n")  # satisfied by what is there, so no index is asked
    assert make(checkout, "environment", **UNREACHABLE).returncode == 0
    assert (checkout / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == made, "a change completes the environment, it does not start anew"
    assert make(checkout, "clean").returncode == 0 and not (checkout / ".venv").exists()


@pytest.mark.slow
def test_a_broken_environment_is_made_anew_where_it_is_kept(checkout):
    kept = checkout / "kept" / "venv"
    (kept / "bin").mkdir(parents=True)
    (kept / "bin" / "python").symlink_to("/nowhere/python3")
    assert make(checkout, "test-environment", PARETOSCOPE_VENV=str(kept)).returncode == 0
    assert (checkout / ".venv").readlink() == kept and environment.ready(kept, [checkout / path.name for path in (RUN, TEST, LITERT)])
    answer = subprocess.run([checkout / ".venv" / "bin" / "python", "-m", "pip", "--version"], capture_output=True, check=False)
    assert answer.returncode == 0


def test_ci_runs_make_test_and_nothing_less():
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK) and re.search(r"^make test\b", script, re.MULTILINE)
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False).returncode == 0
    assert "tests/run.py" in make(ROOT, "--dry-run", "test").stdout
    everything, browser = (part[1] for part in run.PARTS)
    assert (everything, browser) == ("not alone and not e2e and not benchmark", "alone or e2e"), "every test but the benchmarks"


def test_the_second_part_is_told_where_its_tests_are(monkeypatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(run.subprocess, "run", lambda command, **_: commands.append(command) or subprocess.CompletedProcess((), 0))
    run.main(["-x"])
    run.main(["tests/core/test_setup.py::test_known_holes_are_closed"])
    marked = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if re.search(r"mark\.alone", path.read_text())}
    assert set(commands[1][commands[1].index("alone or e2e") + 1 : -1]) == {*marked, "tests/e2e"}
    assert not set(run.LATER) & set(commands[0] + commands[3]), "whoever names a place gets that place"


@pytest.mark.parametrize(("statuses", "whole"), [((0, 0), 0), ((1, 0), 1), ((0, 1), 1), ((5, 0), 0), ((0, 5), 0), ((5, 5), 5), ((2,), 2)])
def test_every_part_of_the_tests_is_run_and_none_of_their_failures_lost(monkeypatch, statuses, whole):
    left = list(statuses)
    monkeypatch.setattr(run.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess((), left.pop(0)))
    assert run.main([]) == whole and not left


def test_ci_ends_what_the_tests_left_behind(tmp_path):
    """The script itself, in a checkout whose tests leave a process of their own session behind."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text("test:\n\t@setsid sleep 300 & echo $$! > left\n\t@sleep 0.5; exit 3\n")
    for name in (RUN.name, TEST.name, LITERT.name):
        (tmp_path / name).write_text("")
    home = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(["bash", tmp_path / ".ci" / "run"], capture_output=True, text=True, check=False, timeout=240, env=home)
    assert done.returncode != 0
    left = int((tmp_path / "left").read_text())
    for _ in range(300):
        if not _lives(left):
            break
        time.sleep(0.1)
    assert not _lives(left)


def _lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_server_is_alone_with_its_person():
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert settings["server"]["address"] == "127.0.0.1" and settings["server"]["showEmailPrompt"] is False and settings["server"]["maxUploadSize"] <= 200
    assert "headless" not in settings["server"], "a browser is opened where there is a screen"
    assert settings["browser"]["gatherUsageStats"] is False and settings["client"]["showErrorDetails"] == "none"
    assert {"light", "dark"} <= set(settings["theme"])


def test_streamlit_knows_every_setting():
    shown = subprocess.run([sys.executable, "-m", "streamlit", "config", "show"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0 and "not a valid config option" not in shown.stdout + shown.stderr
    assert 'address = "127.0.0.1"' in shown.stdout


def test_a_browser_that_does_not_answer_is_not_taken(tmp_path, monkeypatch):
    for name, answer in (("chromium", "exit 1"), ("google-chrome", "echo Google Chrome 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(browser, "NAMES", (str(tmp_path / "nothing"), str(tmp_path / "chromium"), str(tmp_path / "google-chrome")))
    assert browser.find.__wrapped__() == str(tmp_path / "google-chrome")


@pytest.mark.slow
def test_no_browser_at_all_is_one_sentence(tmp_path):
    """Nothing on the path, no right to install, and playwright's own nowhere to be had."""
    script = (
        "import os, sys, runpy; os.geteuid = lambda: 1000; import playwright.sync_api; import shutil; shutil.which = lambda name: None; "
        "sys.argv = ['tests/browser.py']; runpy.run_path('tests/browser.py', run_name='__main__')"
    )
    variables = os.environ | {"PLAYWRIGHT_BROWSERS_PATH": str(tmp_path), "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == browser.NONE


@pytest.mark.parametrize(("root", "apt"), [(True, True), (True, False), (False, True)])
def test_debians_package_is_tried_before_playwrights_download(root, apt, tmp_path, monkeypatch, capsys):
    """Which commands are run, and that the download is spared where the package brought a browser."""
    ran: list[list[str]] = []
    monkeypatch.setattr(browser.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(browser.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(browser, "playwrights_own", lambda: None)
    found = browser.functools.cache(lambda: "/usr/bin/chromium" if apt and any("install" in command for command in ran) else None)
    monkeypatch.setattr(browser, "find", found)
    monkeypatch.setattr(browser, "quiet", ran.append)
    browser.install()
    by_apt = [["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]]
    download = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    assert ran == (by_apt if root else []) + (download if not (root and apt) else [])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == bool(root) + (not (root and apt)) and all(re.search(r"about \d+ MB", line) for line in said)


def test_the_flat_part_of_plotly_js_is_of_the_version_of_the_whole():
    """`.setup/charts.py` fetches it anew."""
    import plotly

    version = lambda path: re.search(r"plotly\.js (?:\(cartesian - minified\) )?v([\d.]+)", path.read_text(encoding="utf-8")[:200])[1]
    whole = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    assert version(ROOT / "assets" / "plotly" / "plotly-cartesian.min.js") == version(whole)
    assert "MIT" in (ROOT / "assets" / "plotly" / "LICENSE.txt").read_text()
