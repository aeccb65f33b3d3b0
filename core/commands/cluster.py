"""`cluster`: the process that computes for pages and commands. It is started when needed; this looks after it by hand."""

from __future__ import annotations

import os
import sys
import time

from core.commands import options, terminal


def add(commands) -> None:
    cluster = commands.add_parser(
        "cluster", help="start, stop or look at the process that computes",
        description="Starts the process that computes for the dashboard and the command line. Both start it when they need it, and it ends by\n"
        "itself when nobody has needed it for a while; this command is for whoever wants to do so by hand.",
    )  # fmt: skip
    what = cluster.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="say whether it runs, and what it has to do")
    what.add_argument("--stop", action="store_true", help="end it; what was running is taken up again by the next one")
    what.add_argument("--foreground", action="store_true", help="serve in this terminal, with the log on standard error, until Ctrl-C")
    minutes = options.number("idle_timeout", 0, 525_600)
    cluster.add_argument("--idle-timeout", type=minutes, metavar="MINUTES", help="end after so long without work; the default is 20")
    cluster.add_argument("--dashboard", action="store_true", help="serve Dask's own dashboard as well; --status tells where")
    options.json_flag(cluster)
    cluster.set_defaults(act=look_after)


def look_after(given) -> None:
    if given.status:
        tell(status(), given.json)
    elif given.stop:
        stop(given.json)
    elif given.foreground:
        # In this process's place, so that signals and the exit status are the server's own.
        os.execv(sys.executable, [sys.executable, "-m", "core.jobs.office", *_options(given)])
    else:
        start(given)


def start(given) -> None:
    from core.jobs.connection import find_office, running_office

    there_before = running_office() is not None
    find_office(start=True, options=tuple(_options(given)))
    if there_before:
        terminal.say("The cluster was running already; its options are those that it was started with.")
    tell(status(), given.json)


def stop(as_json: bool) -> None:
    from core.jobs.connection import stop_office

    was_running = stop_office()
    if as_json:
        terminal.print_json(status())
    else:
        print("Stopped." if was_running else "No cluster was running.")


def status() -> dict:
    """`running`; if so its `address`, `pid`, `dashboard` and `seconds`; and how many runs of the store are open."""
    from core.jobs.connection import running_office
    from core.store import RUNNING, WAITING, Store

    store = Store()
    try:
        counts = store.counts()
    finally:
        store.close()
    found = running_office()
    facts = {"running": found is not None, "waiting_runs": counts.get(WAITING, 0), "running_runs": counts.get(RUNNING, 0)}
    if found is not None:
        facts |= {name: found[name] for name in ("address", "pid", "dashboard")} | {"seconds": time.time() - found["started"]}
    return facts


def tell(facts: dict, as_json: bool) -> None:
    if as_json:
        terminal.print_json(facts)
        return
    work = f"{facts['running_runs']} running, {facts['waiting_runs']} waiting"
    if not facts["running"]:
        print(f"No cluster is running; it starts when it is needed ({work}).")
        return
    print(f"The cluster has been serving at {facts['address']} for {terminal.seconds_text(facts['seconds'])} as process {facts['pid']} ({work}).")
    if facts["dashboard"]:
        print(f"Dask's dashboard: {facts['dashboard']}")


def _options(given) -> list[str]:
    chosen = [] if given.idle_timeout is None else ["--idle-timeout", f"{given.idle_timeout:g}"]
    return [*chosen, *(["--dashboard"] if given.dashboard else [])]
