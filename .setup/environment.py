"""Makes the Python environment in .venv when it is missing or requirements*.txt have changed; otherwise does nothing, quickly.

    python3 .setup/environment.py            what the dashboard and the command line run on
    python3 .setup/environment.py --tests    and what the tests need besides, the optional LiteRT among it

Called by the Makefile with any Python from 3.11 on; standard library only. Whatever is missing is said in one sentence.
With PARETOSCOPE_VENV=FOLDER the environment is made there, and .venv is a link to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
# Measured on x86-64 Linux, where PyTorch comes with the libraries of CUDA; they are most of both.
DOWNLOAD, ON_DISK, ON_DISK_BYTES = "about 3.3 GB", "7 GB", 7_000_000_000


class Missing(Exception):
    """`str(error)` is the sentence that says what is missing and what to do."""


def main(arguments: list[str]) -> None:
    files = [CHECKOUT / "requirements.txt"]
    if arguments == ["--tests"]:
        files += [CHECKOUT / "requirements-test.txt", CHECKOUT / "requirements-litert.txt"]
    elif arguments:
        raise Missing(f"environment.py takes --tests or nothing, not {' '.join(arguments)}.")
    venv = place(CHECKOUT / ".venv", os.environ.get("PARETOSCOPE_VENV"))
    if ready(venv, files):
        return
    with alone(venv.parent):
        if not ready(venv, files):  # another make may have made it meanwhile
            make(venv, files)


def place(link: Path, elsewhere: str | None) -> Path:
    """The environment's real folder. A real .venv is always used as it is; a link follows `elsewhere`."""
    if elsewhere is None or (link.is_dir() and not link.is_symlink()):
        if link.is_symlink() and not link.exists():
            link.unlink()
        return link.resolve()
    target = Path(elsewhere).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.readlink() != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return target


def ready(venv: Path, files: list[Path]) -> bool:
    """Whether these very requirements were installed here, to the end."""
    return (venv / "bin" / "python").exists() and all(stamp(venv, file).exists() for file in files)


def stamp(venv: Path, file: Path) -> Path:
    return venv / f".{file.name}.{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"


def make(venv: Path, files: list[Path]) -> None:
    """Make or complete the environment: create it if need be, install, and only then leave the stamps."""
    if not any(venv.glob("lib/python*/site-packages/torch")):
        say(f"Paretoscope's environment is made once: {DOWNLOAD} to download and {ON_DISK} on disk, most of it PyTorch with its CUDA libraries.")
        if shutil.disk_usage(venv.parent).free < ON_DISK_BYTES:
            raise Missing(f"The disk that holds {venv.parent} has less than {ON_DISK} free; free some space and run make again.")
    if not works(venv):
        create(venv)
    for file in files:
        for old in venv.glob(f".{file.name}.*"):
            old.unlink()
    install(venv, files)
    for file in files:
        stamp(venv, file).touch()


def works(venv: Path) -> bool:
    """Whether a Python with pip answers there; not so after an interrupted creation, or when its Python was removed."""
    try:
        return subprocess.run([venv / "bin" / "python", "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def create(venv: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if any(importlib.util.find_spec(module) is None for module in ("venv", "ensurepip")):
        raise Missing(f"Python {version} has no venv module here; install it (Debian: apt-get install python{version}-venv) and run make again.")
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"Python {version} could not make an environment in {venv}: {last_line(done.stderr or done.stdout)}")


def install(venv: Path, files: list[Path]) -> None:
    """`pip install`, with its progress on a terminal and in silence elsewhere."""
    command = [venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += [] if sys.stdout.isatty() else ["--quiet"]
    for file in files:
        command += ["--requirement", file]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Missing(why_not(done.stderr))


def why_not(complaint: str) -> str:
    """One sentence for what pip wrote to standard error."""
    if "No space left on device" in complaint:
        return f"The disk is full; {ON_DISK} are needed in all: free some space and run make again."
    if re.search(r"NewConnectionError|NameResolutionError|Connection (refused|reset)|timed out|ProxyError|from versions: none", complaint):
        return "The package index could not be reached; connect to a network (or set PIP_INDEX_URL to an index that is reached) and run make again."
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    unmet = re.search(r"requirement (\S+)", complaint)
    if unmet and "No matching distribution" in complaint:
        return f"The package index has no {unmet[1]} for {python} on this machine; Python 3.11 on x86-64 Linux is what the versions were chosen on."
    return f"pip could not install the requirements: {last_line(complaint)}"


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else "it did not say why."


@contextlib.contextmanager
def alone(folder: Path):
    """Let one make at a time work below `folder`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another make is preparing the environment; waiting for it.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Missing as missing:
        say(str(missing))
        sys.exit(1)
    except KeyboardInterrupt:
        say("Stopped; the same command goes on where it was.")
        sys.exit(130)
