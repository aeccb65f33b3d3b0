"""The command line: `python -m core --help`.

Exit status 0 when it worked; 2 and one sentence for bad input or something that is not here; 130 when stopped by
Ctrl-C; 1 and one sentence otherwise. Names that a sentence has no room for follow it, a line each. Never a
traceback: that of an unforeseen error goes to a file.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings

from core.commands.options import Parser
from core.commands.terminal import say
from core.errors import ParetoscopeError

INTERRUPTED = 130
# Files of core/commands and the commands that each adds, in the order of --help.
GROUPS = {
    "listing": ("models", "datasets", "steps"),
    "import_": ("import", "convert"),
    "train": ("train",),
    "measure": ("run", "evaluate"),
    "export": ("export",),
    "floor": ("floor",),
    "layers": ("layers",),
    "size": ("size",),
    "latency": ("latency",),
    "devices": ("devices",),
    "device": ("device",),
    "cluster": ("cluster",),
    "gallery": ("gallery",),
    "papers": ("papers",),
    "study_report": ("report",),
}


def parser(command: str | None = None) -> Parser:
    """The parser of one command; that of all where it names none. A list of models should not wait for what measures them to be imported."""
    top = Parser(
        prog="python -m core",
        description="Paretoscope: compress image classifiers and see what it costs in accuracy and gains in size and speed.",
        epilog="`python -m core COMMAND --help` explains one command. `make dashboard` opens the same engine in a browser.",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command", parser_class=Parser)
    for group in [group for group, names in GROUPS.items() if command in names] or GROUPS:
        importlib.import_module(f"core.commands.{group}").add(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say; returns the exit status."""
    sys.stdout.reconfigure(errors="replace")
    sys.stderr.reconfigure(errors="replace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' words to developers; a person gets sentences
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        given = parser(arguments[0] if arguments else None).parse_args(arguments)
        given.act(given)
        sys.stdout.flush()
    except ParetoscopeError as error:
        for line in (str(error), *error.names):
            say(line)
        return error.exit_status
    except KeyboardInterrupt:
        say("Cancelled.")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; a later flush of the interpreter must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        say(unforeseen(error))
        return 1
    return 0


def unforeseen(error: Exception) -> str:
    """The sentence for an error that nobody thought of; its traceback goes to a file below the home folder."""
    from core.home import folder, home

    said = f"Something went wrong that should not have ({type(error).__name__}: {' '.join(str(error).split())})"
    try:
        path = folder("logs") / "command-line.log"
        with path.open("a") as log:
            log.write("".join(traceback.format_exception(error)) + "\n")
    except (OSError, ParetoscopeError):  # a full disk, or a home that cannot be written
        return f"{said}; the details could not be written to {home()}."
    return f"{said}; the details are in {path}."


if __name__ == "__main__":
    sys.exit(main())
