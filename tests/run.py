"""Runs every test: most of them on all cores at once, then those that want the machine for themselves, the browser's last.

.venv/bin/python tests/run.py [arguments for pytest]     called by `make test`

The unit tests alone, in less than three minutes on two cores:
.venv/bin/python -m pytest -m "not slow and not alone and not e2e and not benchmark" -n 2 --dist worksteal
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARTS = (
    ("-m", "not alone and not e2e and not benchmark", "--numprocesses", "logical", "--maxprocesses", "4", "--dist", "worksteal"),  # a process takes up to 3 GB
    ("-m", "alone or e2e"),
)
LATER = ("tests/core/test_cancelling.py", "tests/core/jobs/test_turns.py", "tests/e2e")  # where the second part is; importing all the others takes ten seconds
PASSED, FAILED, NONE_FOUND = 0, 1, 5  # pytest's exit statuses; any other ends the run


def main(arguments: list[str]) -> int:
    statuses = []
    everything = not any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    for part, places in zip(PARTS, ((), LATER if everything else ())):
        statuses.append(subprocess.run([sys.executable, "-m", "pytest", *part, *places, *arguments], check=False).returncode)
        if statuses[-1] not in (PASSED, FAILED, NONE_FOUND):
            return statuses[-1]
    if FAILED in statuses:
        return FAILED
    return PASSED if PASSED in statuses else NONE_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
