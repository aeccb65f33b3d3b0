"""Follows the recipe at hand: asks for previews while it moves, submits it when it rests, and says what can be shown now.

Everything that waits for the cluster waits here, and never longer than `PATIENCE`.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from core.errors import Cancelled, ParetoscopeError
from core.recipe import Recipe
from core.store import CANCELLED, COMPLETE, OPEN, SUPERSEDED
from core.studies.known import Known, seconds_a_picture
from core.studies.points import PREVIEW, int8, point, timed
from core.work import Work
from pages.ui import edits, state

DRAG_SECONDS, REST_SECONDS = 0.03, 0.25  # of evaluation in one preview
PATIENCE = {"drag": 0.3, "rest": 1.0}  # seconds that a run of the page waits for a preview before it draws without
IMPATIENCE = 0.12  # seconds after which it waits no longer when there is something newer to answer
SHORT_TRAINING = 30.0  # seconds of training that start by themselves
SOON, LATER, SELDOM = 0.05, 0.3, 1.0
PREVIEWS_KEPT = 64


@dataclass
class Look:
    """What can be shown of the recipe at hand. `stale` says that `here` is still the recipe before it.

    `estimate` is how many seconds the run will take, where its pictures are too large for a preview. `again` is when to look next, in seconds; None
    when nothing is under way.
    """

    here: dict | None = None
    run: dict | None = None
    before_recovery: bool = False
    stale: bool = False
    asks_seconds: float | None = None
    estimate: float | None = None
    problem: str = ""
    again: float | None = None

    @property
    def running(self) -> bool:
        return self.run is not None and self.run["state"] in OPEN


def follow(work: Work, phase: str, known: Known, stored: dict | None, cluster, session: dict[str, Any]) -> Look:
    """`stored` is the store's row of this very work, if any; `session` what this browser session keeps between looks."""
    row = known.find(f"{work.model}/{work.recipe.key()}")
    if row is not None and (stored is None or stored["state"] not in OPEN):
        session["last"] = row
        return Look(here=row)
    if stored is not None and stored["state"] == COMPLETE:  # it was completed since the shelf was looked at
        stored = session["promised"] = None
        if session.get("completed") != work.identity():
            session["completed"] = work.identity()
            return Look(here=last_seen(work, session), stale=True, again=SOON)
    look = Look(run=_submitted(work, stored, session))
    ended = look.run is not None and look.run["state"] not in OPEN
    if ended and (look.run["stage"] == SUPERSEDED or session.get("go") == work.identity()):
        look.run, ended = None, False  # a newer position took its place once, or a person asks for it again
    if ended:
        look.problem = look.run.get("message") or ("The run was cancelled." if look.run["state"] == CANCELLED else "The run failed.")
    _preview(work, phase, cluster, session, look, awaits=_awaits_latency(work, known, session, look.run))
    if phase == "rest" and not look.running and not ended:
        if look.again == SOON and look.here is not None and session.get("drawn") != work.identity():
            session["drawn"] = work.identity()  # the preview goes on screen first; the run would take the processor from it
        else:
            _submit(work, known, cluster, session, look)
    if look.running:
        so_far = look.run.get("preview") or {}
        if so_far.get("metrics"):  # everything but the latency is measured already
            look.here, look.before_recovery, look.stale = point(look.run | {"recipe": work.recipe.to_json()} | so_far), False, False
        elif so_far.get("latencies") and look.here is not None and not look.stale:
            look.here = timed(look.here, so_far["latencies"])
        look.again = look.again or LATER
    return look


def _submitted(work: Work, stored: dict | None, session: dict[str, Any]) -> dict | None:
    """The stored row, or the one that `submit` promised until the store has it."""
    promised = session.get("promised")
    if stored is None and promised is not None and promised["identity"] == work.identity():
        return promised
    return stored


def _submit(work: Work, known: Known, cluster, session: dict[str, Any], look: Look) -> None:
    """Submit, unless it would train longer than starts by itself and nobody has said go."""
    seconds = estimate_recipe(work.recipe, known)
    if seconds > SHORT_TRAINING and session.get("go") != work.identity():
        look.asks_seconds = seconds
        return
    look.run = session["promised"] = cluster.submit(work, lane=session["lane"])
    session["go"] = None
    look.again = LATER


def estimate_recipe(recipe: Recipe, known: Known) -> float:
    """Seconds of training that a recipe asks for; 0 when it trains nothing."""
    passed = edits.pictures(recipe)
    macs = known.baseline["macs"] if known.baseline else None
    return passed * seconds_a_picture([*known.rows, *known.others], macs) if passed else 0.0


def last_seen(work: Work, session: dict[str, Any]) -> dict | None:
    """What was shown last of this model and data, which is better than a point that vanishes."""
    last = session.get("last")
    return last if last and (last["model"], last["dataset"]) == (work.model, work.dataset) else None


def _awaits_latency(work: Work, known: Known, session: dict[str, Any], run: dict | None) -> bool:
    """Whether the run of new shapes is about to have its first look at latency, which a longer preview would hold up."""
    if not work.recipe.shaping() or int8(work.recipe):
        return False
    if run is None:
        return session.get("go") == work.identity() or estimate_recipe(work.recipe, known) <= SHORT_TRAINING
    return run["state"] in OPEN and not {"latencies", "metrics"} & set(run.get("preview") or ())


def _preview(work: Work, phase: str, cluster, session: dict[str, Any], look: Look, awaits: bool) -> None:
    """The best preview there is of this recipe; failing that, while one is under way, what was seen last. While it `awaits` latency, a short one is enough."""
    seen: OrderedDict[str, dict] = session.setdefault("previews", OrderedDict())
    identity = work.identity()
    wanted = REST_SECONDS if phase == "rest" and identity in seen and not awaits else DRAG_SECONDS  # a short look first, then the longer one
    if not look.problem:
        try:
            _ask(work, wanted, phase, cluster, session, seen)
        except Cancelled:
            pass  # another tab of this session, or a newer position, took its place
        except ParetoscopeError as error:
            look.problem = str(error)
    found = seen.get(identity)
    longer = phase == "rest" and found is not None and found["asked"] < REST_SECONDS and not look.problem
    if session.get("flight") or longer and not (awaits and session.get("drawn") == identity):
        look.again = SOON
    if found is not None and "estimate" in found:
        look.here, look.stale, look.estimate = last_seen(work, session), True, found["estimate"]
    elif found is not None:
        look.here, look.before_recovery = found["point"], found["before_recovery"]
        session["last"] = look.here
    elif phase == "drag" or session.get("flight"):
        last = last_seen(work, session)
        if last:
            # the preview of a place just passed needs no excuse while it moves on
            look.here, look.stale = last, phase == "rest" or last["state"] != PREVIEW


def _ask(work: Work, wanted: float, phase: str, cluster, session: dict[str, Any], seen) -> None:
    """While it moves: let the preview that is under way come in, ask for the newest position, and draw meanwhile.

    The cluster drops a lane's former preview when a newer one is asked for, so asking without waiting would show none.
    At rest the newest position matters alone.
    """
    identity, patience, landed = work.identity(), PATIENCE[phase], False
    flight = session.get("flight")
    if flight and (phase == "drag" or flight["identity"] == identity):
        patience = _land(session, seen, patience)
        landed = session.get("flight") is None
    if identity in seen and seen[identity]["asked"] >= wanted:
        return
    flight = session.get("flight")
    if flight and (phase == "drag" or (flight["identity"] == identity and flight["asked"] >= wanted)):
        return
    session["flight"] = {"identity": identity, "work": work, "asked": wanted, "look": cluster.preview(session["lane"], work, wanted)}
    if identity in seen:  # the short look of the drag can be drawn; the longer one takes its place when it comes
        return
    if not landed or phase == "rest":
        _land(session, seen, patience)


def _land(session: dict[str, Any], seen, patience: float) -> float:
    """Wait for the preview under way; keep it when it comes, and return the patience that is left."""
    flight, started = session["flight"], time.monotonic()
    while not flight["look"].wait(max(0.0, min(SOON, started + patience - time.monotonic()))):
        waited = time.monotonic() - started
        if waited >= patience or waited >= IMPATIENCE and state.overtaken():
            return 0.0
    session["flight"] = None
    result, work = flight["look"].result(0), flight["work"]
    row = {"model": work.model, "dataset": work.dataset, "recipe": work.recipe.to_json(), "split": work.split}
    if "estimate" in result:  # looking longer would not help
        seen[flight["identity"]] = {"estimate": result["estimate"], "asked": math.inf}
    else:
        seen[flight["identity"]] = {"point": point(row | result, state=PREVIEW), "before_recovery": result["before_recovery"], "asked": flight["asked"]}
        session["last"] = seen[flight["identity"]]["point"]
    seen.move_to_end(flight["identity"])
    while len(seen) > PREVIEWS_KEPT:
        seen.popitem(last=False)
    return patience - (time.monotonic() - started)
