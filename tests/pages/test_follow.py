"""What the page asks of the cluster while a slider moves and when it rests, and what it shows meanwhile."""

import pytest

from core.errors import BadInput
from core.recipe import Recipe
from core.store import blank_row
from core.work import Work
from pages.ui import edits, services
from pages.ui.follow import DRAG_SECONDS, REST_SECONDS, estimate_recipe, follow
from tests.pages.conftest import PRUNE, REPAIR, metrics


def work(sparsity=0.6, model="resnet18"):
    return Work(model, "fashion_mnist", Recipe.from_json({"steps": [PRUNE | {"sparsity": sparsity}, REPAIR]}))


@pytest.fixture
def session():
    return {"lane": "me"}


def look(notes, session, asked, phase, stored=None):
    return follow(asked, phase, services.shelf().known(asked.model, asked.dataset), stored, notes, session)


def rest(notes, session, asked, stored=None):
    """What is seen after the looks that the page's pulse makes by itself."""
    for _ in range(3):
        seen = look(notes, session, asked, "rest", stored)
        if seen.running:
            break
    return seen


def test_dragging_previews_and_submits_nothing(notes, session):
    seen = look(notes, session, work(), "drag")
    assert notes.asked == [("preview", work().recipe.key(), DRAG_SECONDS)]
    assert seen.here["state"] == "preview" and seen.here["images"] == 256 and not seen.running


def test_resting_previews_longer_and_submits(notes, session):
    seen = look(notes, session, work(), "rest")  # a short look is drawn before the run takes the processor
    assert notes.asked == [("preview", work().recipe.key(), DRAG_SECONDS)] and seen.again and not seen.running
    seen = look(notes, session, work(), "rest")
    assert notes.asked[1:] == [("preview", work().recipe.key(), REST_SECONDS), ("submit", work().recipe.key())]
    assert seen.running and seen.again


def test_where_shapes_change_the_longer_preview_waits_for_the_first_look_at_latency(notes, session):
    narrow = Work("resnet18", "fashion_mnist", Recipe.from_json({"steps": [{"step": "channel_prune", "sparsity": 0.4}]}))
    short, longer = (("preview", narrow.recipe.key(), seconds) for seconds in (DRAG_SECONDS, REST_SECONDS))
    seen = rest(notes, session, narrow)
    assert seen.running and notes.asked == [short, ("submit", narrow.recipe.key())]
    running = seen.run | {"state": "RUNNING"}
    look(notes, session, narrow, "rest", running | {"preview": {"notes": ["One layer stays whole."]}})
    assert notes.asked[-1] != longer
    brief = metrics(90.0, 2_000_000, ratio=0.4)["latencies"]
    assert look(notes, session, narrow, "rest", running | {"preview": {"notes": [], "latencies": brief}}).here["ratio"] == 0.4
    assert notes.asked[2:] == [longer]
    trained = Work("resnet18", "fashion_mnist", edits.add(narrow.recipe, "distill", epochs=50, images=60000))
    assert rest(notes, session, trained).asks_seconds > 30
    assert notes.asked[-1] == ("preview", trained.recipe.key(), REST_SECONDS)  # no run is coming


def test_a_known_run_asks_nothing(notes, session):
    seen = look(notes, session, work(0.8), "rest")
    assert notes.asked == [] and seen.here["state"] == "measured" and seen.again is None


def test_one_preview_is_under_way_at_a_time_while_dragging(notes, session):
    notes.answer = None  # takes longer than anybody waits
    assert look(notes, session, work(0.61), "drag").again
    assert look(notes, session, work(0.62), "drag").here is None
    assert notes.asked == [("preview", work(0.61).recipe.key(), DRAG_SECONDS)]
    look(notes, session, work(0.62), "rest")
    assert notes.asked[1][:2] == ("preview", work(0.62).recipe.key())  # at rest the newest place matters alone


def test_the_last_preview_stays_until_the_next_comes(notes, session):
    look(notes, session, work(0.61), "drag")
    notes.answer = None
    seen = look(notes, session, work(0.62), "drag")
    assert seen.here["key"] == work(0.61).recipe.key() and seen.here["state"] == "preview"
    other = look(notes, session, work(0.62, "squeezenet1_1"), "drag")
    assert other.here is None  # but never of another model


def test_a_measured_run_that_is_left_is_called_stale(notes, session):
    look(notes, session, work(0.8), "drag")
    notes.answer = None
    seen = look(notes, session, work(0.79), "drag")
    assert seen.here["key"] == work(0.8).recipe.key() and seen.stale


def test_a_promised_run_is_not_asked_for_twice(notes, session):
    seen = rest(notes, session, work())
    assert [entry[0] for entry in notes.asked] == ["preview", "preview", "submit"] and seen.running


def test_long_training_waits_for_a_word(notes, session):
    long = Work("resnet18", "fashion_mnist", edits.add(work().recipe, "distill", epochs=50, images=60000))
    seen = rest(notes, session, long)
    assert seen.asks_seconds > 30 and "submit" not in [entry[0] for entry in notes.asked]
    session["go"] = long.identity()
    assert rest(notes, session, long).running
    short = Work("resnet18", "fashion_mnist", edits.add(work().recipe, "distill", epochs=1, images=500))
    assert rest(notes, session, short).running


def test_measured_but_for_its_latency_is_shown_as_measured(notes, session):
    stored = blank_row(work().identity(), state="RUNNING", model="resnet18", dataset="fashion_mnist", split="validation", recipe=work().recipe.to_json())
    seen = look(notes, session, work(), "rest", stored)
    assert seen.here["state"] == "preview"
    whole = {"metrics": metrics(90.5, 2_000_000, ratio=None), "difference": {"top1": -1.5, "low": -1.8, "high": -1.2}}
    seen = look(notes, session, work(), "rest", stored | {"preview": whole, "fraction": 0.9, "stage": "latency"})
    assert seen.here["state"] == "measured" and seen.here["top1"] == 90.5 and seen.running


def test_a_preview_takes_the_latency_that_its_run_has_measured_first(notes, session):
    stored = blank_row(work().identity(), state="RUNNING", model="resnet18", dataset="fashion_mnist", split="validation", recipe=work().recipe.to_json())
    brief = metrics(90.0, 2_000_000, ratio=0.4)["latencies"][0] | {"brief": True}
    seen = look(notes, session, work(), "rest", stored | {"preview": {"notes": [], "latencies": [brief]}})
    assert seen.here["state"] == "preview" and (seen.here["ratio"], seen.here["ratio_float32"], seen.here["brief"]) == (0.4, 0.4, True)
    notes.answer = None  # of the next place nothing is known yet: the one before it keeps its own figures
    other = work(0.7)
    stored |= {"identity": other.identity(), "preview": {"notes": [], "latencies": [brief | {"ratio": 0.3}]}}
    assert look(notes, session, other, "rest", stored).here["ratio"] != 0.3


def test_a_failed_run_says_why_and_is_run_again_on_request(notes, session):
    stored = blank_row(work().identity(), state="FAILED", message="The disk is full.")
    seen = look(notes, session, work(), "rest", stored)
    assert seen.problem == "The disk is full." and not seen.running
    session["go"] = work().identity()
    assert rest(notes, session, work(), stored).running


def test_a_superseded_run_begins_anew(notes, session):
    stored = blank_row(work().identity(), state="CANCELLED", stage="superseded")
    assert rest(notes, session, work(), stored).running


def test_an_error_of_a_preview_is_a_sentence(notes, session):
    notes.answer = BadInput("That cannot be.")
    assert look(notes, session, work(), "drag").problem == "That cannot be."


def test_estimates_learn_from_what_trained_here(notes):
    known = services.shelf().known("resnet18", "fashion_mnist")
    recipe = edits.add(Recipe(), "distill", epochs=1, images=10_000)
    assert estimate_recipe(Recipe(), known) == 0
    guess = estimate_recipe(recipe, known)
    trained = {"pictures": 1000, "seconds": {"compress": 100.0}, "foreign": False}
    known.rows.append(known.rows[0] | trained)
    assert estimate_recipe(recipe, known) == pytest.approx(1000) and 1000 > guess
    known.rows[-1] |= {"macs": known.rows[0]["macs"] / 10}  # what a small model took is scaled to this one's arithmetic
    assert estimate_recipe(recipe, known) > 3000


def test_a_run_completed_between_two_looks_is_no_failure(notes, session):
    stored = blank_row(work().identity(), state="COMPLETE")
    seen = look(notes, session, work(), "rest", stored)
    assert not seen.problem and seen.again


def test_where_no_preview_can_be_had_an_estimate_stands_in_its_place(notes, session):
    notes.answer = {"estimate": 180.0, "seconds": {}}
    first = look(notes, session, work(0.61), "drag")
    assert first.estimate == 180.0 and first.here is None
    seen = rest(notes, session, work(0.61))
    assert seen.estimate == 180.0 and seen.running and [entry[0] for entry in notes.asked] == ["preview", "submit"]  # looking longer would not help
    look(notes, session, work(0.8), "rest")
    seen = look(notes, session, work(0.62), "drag")
    assert seen.estimate == 180.0 and seen.stale and seen.here["key"] == work(0.8).recipe.key()
