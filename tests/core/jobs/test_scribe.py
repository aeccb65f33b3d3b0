"""The scribe without a cluster: what it writes, what it keeps when it cannot write, and what it takes up."""

from __future__ import annotations

import json
import time

import pytest

from core.errors import BadCheckpoint, StoreError
from core.jobs import tasks
from core.jobs.scribe import MOST_ATTEMPTS, MOST_CURVE_POINTS, Scribe
from core.store import CANCELLED, COMPLETE, FAILED, RUNNING, SUPERSEDED, WAITING, Store, blank_row


class Future:
    """A Dask future whose end is decided by the test."""

    def __init__(self, key, priority, resources):
        self.key, self.priority, self.resources = key, priority, resources
        self.status, self.answer, self.callbacks = "pending", None, []

    def add_done_callback(self, call):
        self.callbacks.append(call)

    def result(self, timeout):
        if self.answer is None:
            raise TimeoutError
        return self.answer

    def exception(self):
        return self.answer

    def end(self, answer, status="finished"):
        self.status, self.answer = status, answer
        for call in self.callbacks:
            call(self)


class Client:
    """As much of a Dask client as the scribe uses."""

    def __init__(self):
        self.handlers, self.futures, self.said = {}, [], {}

    def subscribe_topic(self, topic, handler):
        self.handlers[topic] = handler

    def submit(self, _task, _kind, identity, _request, _topic, *, key, pure, priority, resources):
        assert pure is False and identity in key
        self.futures.append(Future(key, priority, resources))
        return self.futures[-1]

    def cancel(self, futures, force):
        assert force
        for future in futures:
            future.status = "cancelled"

    def set_metadata(self, _keys, value):
        self.said = value


@pytest.fixture
def store(tmp_path):
    opened = Store(f"sqlite:///{tmp_path}/runs.sqlite")
    yield opened
    opened.close()


OFFERS = {"compute": 2, "quick": 1, "preview": 1}


@pytest.fixture
def scribe(store):
    made = Scribe(store, Client(), "here", lambda: OFFERS, lambda: 4)
    made.listen()
    return made


def request(scribe, *requests, **more):
    scribe.client.handlers[scribe.topics["requests"]]((0.0, json.dumps([wanted | more for wanted in requests])))
    scribe.step(0)


def submit(identity, **more):
    columns = {"kind": "run", "model": "resnet18", "dataset": "digits", "split": "validation", "recipe": {"steps": []}, "key": "k"}
    return {"op": "submit", "identity": identity, "request": {"work": identity}} | columns | more


def progress(scribe, future, **event):
    text = json.dumps({"identity": future.key.split("-")[1], "key": future.key, "event": event})
    scribe.client.handlers[scribe.topics["progress"]]((0.0, text))
    scribe.step(0)


def answer(identity, **values):
    result = {"identity": identity, "model": "resnet18", "dataset": "digits", "metrics": {"top1": 1.0}}
    return {"state": COMPLETE, "result": result, "predicted": b"\x01\x00"} | values


def test_notes_of_steps_are_kept_until_the_metrics_hold_them(scribe, store):
    request(scribe, submit("r"))
    (future,) = scribe.client.futures
    progress(scribe, future, started=True)
    for note in ("One.", "Two."):
        progress(scribe, future, fraction=0.1, notes=[note])
    assert store.find("r")["preview"] == {"notes": ["One.", "Two."], "latencies": []}
    progress(scribe, future, latencies=[{"ratio": 0.5}])  # a first look
    assert store.find("r")["preview"] == {"notes": ["One.", "Two."], "latencies": [{"ratio": 0.5}]}
    progress(scribe, future, fraction=0.9, metrics={"top1": 90.0})
    assert store.find("r")["preview"] == {"metrics": {"top1": 90.0}}


def test_as_many_tasks_as_workers_and_the_rest_waits(scribe, store):
    request(scribe, *(submit(f"r{number}") for number in range(5)), submit("lane", lane="me"))
    assert [future.key.split("-")[1] for future in scribe.client.futures] == ["r0", "r1", "lane"]
    assert [future.resources for future in scribe.client.futures] == [{"compute": 1}, {"compute": 1}, {"quick": 1}]
    assert store.counts() == {WAITING: 6}
    progress(scribe, scribe.client.futures[0], started=True)
    assert store.find("r0")["state"] == RUNNING
    scribe.client.futures[0].end(answer("r0"))
    scribe.step(0)
    assert store.find("r0")["state"] == COMPLETE and store.predicted("r0") == b"\x01\x00"
    assert scribe.client.futures[-1].key.split("-")[1] == "r2"
    assert scribe.client.said == {"offers": OFFERS, "workers": 4, "trouble": None}


def test_progress_becomes_a_row_and_a_curve_that_stays_short(scribe, store):
    request(scribe, submit("r"))
    future = scribe.client.futures[0]
    progress(scribe, future, started=True)
    for epoch in range(1000):
        point = {"epoch": epoch, "loss": 1.0, "seconds_left": 9} | ({"top1": 80.0} if epoch % 100 == 0 else {})
        text = json.dumps({"identity": "r", "key": future.key, "event": {"fraction": epoch / 1000, "stage": "train", "curve": point}})
        scribe.client.handlers[scribe.topics["progress"]]((0.0, text))
    scribe.step(0)
    row = store.find("r")
    assert row["fraction"] == 0.999 and row["stage"] == "train" and row["seconds_left"] == 9
    assert len(row["curve"]) <= MOST_CURVE_POINTS and row["curve"][-1]["epoch"] == 999
    assert [point["epoch"] for point in row["curve"] if "top1" in point] == list(range(0, 1000, 100))
    progress(scribe, future, started=True)  # the worker died, and the task began again elsewhere
    assert store.find("r")["curve"] is None and store.find("r")["fraction"] == 0


def test_a_complete_run_keeps_its_curve_to_the_last_point(scribe, store):
    request(scribe, submit("r"))
    future = scribe.client.futures[0]
    progress(scribe, future, started=True)
    text = json.dumps({"identity": "r", "key": future.key, "event": {"fraction": 0.5, "curve": {"epoch": 1, "loss": 1.0, "top1": 80.0}}})
    scribe.client.handlers[scribe.topics["progress"]]((0.0, text))
    future.end(answer("r"))  # before the point was written down
    scribe.step(0)
    assert store.find("r")["state"] == COMPLETE and store.find("r")["curve"] == [{"epoch": 1, "loss": 1.0, "top1": 80.0}]


def test_an_answer_of_another_run_is_kept_and_ends_the_one_that_was_asked_for(scribe, store):
    """Of a worker whose checkpoint, pictures or version are others: asked again, it would give that again."""
    request(scribe, submit("asked"))
    (future,) = scribe.client.futures
    future.end(answer("another"))
    scribe.step(0)
    assert store.find("another")["state"] == COMPLETE
    row = store.find("asked")
    assert row["state"] == FAILED and row["message"].startswith("The worker computed another run than the one asked for, because ")
    scribe.take_up()
    scribe.step(0)
    assert scribe.client.futures == [future]


def test_what_an_import_was_refused_for_is_kept_until_it_is_asked_for_again(scribe, store):
    def refuse():
        raise BadCheckpoint("It does not fit.", ["missing: a", "missing: b"])

    request(scribe, submit("an-import", kind="import"))
    scribe.client.futures[-1].end(tasks._answered(refuse))
    scribe.step(0.01)
    row = store.find("an-import")
    assert (row["state"], row["message"], row["stage"]) == (FAILED, "It does not fit.", "BadCheckpoint")
    assert row["metrics"] == {"names": ["missing: a", "missing: b"]}
    request(scribe, submit("an-import", kind="import"))
    assert store.find("an-import")["state"] != FAILED and store.find("an-import")["metrics"] is None


def test_what_a_command_computed_is_kept(scribe, store):
    result = answer("own")["result"]
    latency = {"signature": "s", "baseline_signature": "b", "machine_id": "m", "runtime": "r", "threads": 1, "batch": 1}
    latency |= {"row": {"ratio": 1.0}, "measured_at": 0.0}
    request(scribe, {"op": "keep", "result": result, "predicted": "AQA=", "latencies": [latency]})
    assert store.find("own")["origin"] == "here" and store.predicted("own") == b"\x01\x00"
    assert store.latencies("m") == {("s", "b", "r"): {"ratio": 1.0}}


def test_late_words_of_a_former_attempt_are_not_heard(scribe, store):
    request(scribe, submit("r"))
    former = scribe.client.futures[0]
    request(scribe, {"op": "cancel", "identity": "r"})
    assert former.status == "cancelled" and store.find("r")["state"] == CANCELLED
    request(scribe, submit("r"))
    progress(scribe, former, fraction=0.9)
    former.end(answer("r"))
    scribe.step(0)
    assert store.find("r")["state"] == WAITING and store.find("r")["fraction"] == 0


def test_what_cannot_be_written_is_kept_and_written_later(scribe, store, monkeypatch):
    request(scribe, submit("r0"), submit("r1"))
    real = {name: getattr(store, name) for name in ("claim", "write", "complete", "add_latencies")}

    def full(*_arguments, **_values):
        raise StoreError("The disk is full.")

    for name in real:
        monkeypatch.setattr(store, name, full)
    first, second = scribe.client.futures
    names = {"signature": "s", "baseline_signature": "b", "machine_id": "m", "runtime": "r", "threads": 1, "batch": 1}
    progress(scribe, second, latency=names | {"row": {}, "measured_at": 0.0})
    progress(scribe, second, started=True)
    first.end(answer("r0"))
    request(scribe, submit("r2"))
    scribe.step(0)
    assert scribe.client.said["trouble"] == "The disk is full." and not scribe.is_idle
    scribe.take_up()  # what is only unwritten is not begun again
    assert len(scribe.client.futures) == 2
    assert store.find("r0")["state"] == WAITING
    for name, method in real.items():
        monkeypatch.setattr(store, name, method)
    time.sleep(1.05)  # RETRY_SECONDS
    scribe.step(0)
    scribe.step(0)
    assert store.find("r0")["state"] == COMPLETE and store.find("r1")["state"] == RUNNING and store.find("r2")["state"] == WAITING
    assert store.latency("s", "b", "m", "r") == {}
    assert scribe.client.said["trouble"] is None


def test_work_of_a_former_process_is_taken_up_in_order(store):
    for identity, priority in (("late", -10), ("soon", 10), ("worn", 0), ("unknown", 0)):
        row = blank_row(identity, model="m", dataset="d", owner="here", lease_until=time.time() + 30, priority=priority)
        row["request"] = None if identity == "unknown" else submit(identity, priority=priority)
        row["attempts"] = MOST_ATTEMPTS if identity == "worn" else 1
        assert store.claim(row)
        store.write({identity: {"state": RUNNING}})
    assert store.claim(blank_row("theirs", owner="there", lease_until=time.time() + 30, request=submit("theirs")))
    scribe = Scribe(store, Client(), "here", lambda: {"compute": 1}, lambda: 1)
    scribe.listen()
    scribe.step(0)
    assert [future.key.split("-")[1] for future in scribe.client.futures] == ["soon"]
    assert store.find("soon")["state"] == WAITING and store.find("theirs")["owner"] == "there"
    assert "begun 10 times" in store.find("worn")["message"] and store.find("unknown")["state"] == FAILED
    scribe.client.futures[0].end(answer("soon"))
    scribe.step(0)
    scribe.step(0)
    assert [future.key.split("-")[1] for future in scribe.client.futures] == ["soon", "late"]


def test_two_scribes_of_one_database_do_not_do_the_same(store):
    scribes = [Scribe(store, Client(), owner, lambda: OFFERS, lambda: 4) for owner in ("here", "there")]
    for scribe in scribes:
        scribe.listen()
        request(scribe, submit("r"))
    assert [len(scribe.client.futures) for scribe in scribes] == [1, 0]
    store.renew(["r"], time.time() - 1)
    scribes[1].take_up()
    scribes[1].step(0)
    assert len(scribes[1].client.futures) == 1 and store.find("r")["owner"] == "there"


def test_lost_tasks_are_given_again_but_not_for_ever(scribe, store):
    request(scribe, submit("r"))
    for number in range(4):
        assert len(scribe.client.futures) == number + 1
        scribe.client.futures[-1].end(None, "lost")
        scribe.step(0)
    assert len(scribe.client.futures) == 4 and "lost this work 4 times" in store.find("r")["message"]


def test_an_answer_that_died_with_its_worker_is_waited_for(scribe, store):
    request(scribe, submit("r"))
    scribe.client.futures[0].end(None)
    scribe.step(0)
    assert store.find("r")["state"] == WAITING
    scribe.client.futures[0].answer = answer("r")
    scribe.step(0)
    scribe.step(0)
    assert store.find("r")["state"] == COMPLETE


def test_nonsense_does_not_end_it(scribe, store):
    for topic in ("requests", "progress"):
        for text in ("no JSON", "{}", "[1]", '[{"op": "dance"}]', '{"identity": 3}'):
            scribe.client.handlers[scribe.topics[topic]]((0.0, text))
    request(scribe, {"op": "dance"}, {"op": "cancel", "identity": "nobody"}, submit("r"))
    assert store.find("r")["state"] == WAITING


def test_superseded_runs_do_not_stay(scribe, store):
    request(scribe, submit("a", lane="me"), submit("b", lane="me"), {"op": "lane", "lane": "me", "identity": "known"})
    assert {identity: store.find(identity)["stage"] for identity in "ab"} == {"a": SUPERSEDED, "b": SUPERSEDED}
    Scribe(store, Client(), "here", lambda: OFFERS, lambda: 4).listen()
    assert store.rows() == []
