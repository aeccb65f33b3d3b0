"""`report`: a study as one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path

from core.commands import options, terminal
from core.commands.measure import check_writable
from core.errors import BadInput
from core.home import write_whole
from core.store import Store
from core.studies import study, study_report
from core.studies.known import Shelf


def add(commands) -> None:
    command = commands.add_parser(
        "report", help="write what was measured of a model as one HTML file",
        description="Writes the measured runs of a model on a dataset as one HTML file: charts, the front, chosen runs with the commands that reproduce them,\n"
        "how it was measured, and the machine. The file asks the network for nothing.",
    )  # fmt: skip
    options.model_and_dataset(command)
    command.add_argument("--runs", nargs="+", default=[], metavar="KEY", help="recipe keys of runs to show in full, as the explorer's table of runs lists them")
    command.add_argument("--output", required=True, type=Path, metavar="FILE.html", help="write the file there")
    options.json_flag(command)
    command.set_defaults(act=write)


def write(given) -> None:
    path = given.output
    if path.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"The report cannot be written to {str(path)!r}; --output takes a name that ends in .html.")
    check_writable(path, "--output")
    store = Store()
    try:
        found = study.of(given.model, given.dataset, Shelf.of(store))
    finally:
        store.close()
    data = study_report.html(found, given.runs).encode()
    write_whole(path, data)
    facts = {"output": str(path), "bytes": len(data), "runs": len(found.rows), "front": [row["key"] for row in found.front()]}
    if given.json:
        terminal.print_json(facts)
    else:
        runs = f"{len(found.rows)} runs of {given.model} on {given.dataset}, {len(facts['front'])} on the front"
        print(f"Wrote {path} ({terminal.bytes_text(len(data))}): {runs}.")
