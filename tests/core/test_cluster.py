"""The cluster as a page meets it: a real office with real workers, on an engine that only takes its time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from core.cluster import connect
from core.errors import BadInput, Cancelled, ClusterError, UnknownName
from core.jobs.connection import Connection, running_office, stop_office
from core.store import CANCELLED, COMPLETE, FAILED, OPEN, RUNNING, SUPERSEDED, WAITING, Store
from tests.core.slow_engine import Act, Work

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
LONG = 600.0  # seconds of work that no test waits for
SOON = 60.0  # seconds: on a quiet machine one, but other tests compute beside these; much less than LONG


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home and lock files of this module's own, and two cores whatever the machine has."""
    place = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETOSCOPE_HOME", str(place / "home"))
        patch.setenv("PARETOSCOPE_TURNS", str(place / "turns"))
        patch.setenv("PARETOSCOPE_ENGINE", "tests.core.slow_engine")
        patch.setenv("PARETOSCOPE_CORES", "2")
        yield place


@pytest.fixture(scope="module")
def cluster(settings):
    opened = connect()
    yield opened
    opened.close()
    with contextlib.suppress(ClusterError):  # it takes long; that it ends is tried below
        stop_office()


numbers = iter(range(10**6))


def work(**act) -> Work:
    """A work that nobody asked for before."""
    return Work(recipe=Act(number=next(numbers), **act), latency=act.pop("latency", False))


def wait_for(condition, seconds: float = 120.0):
    """The first true value of `condition()`; how long it took is `wait_for.seconds`."""
    started = time.monotonic()
    while not (value := condition()):
        assert time.monotonic() - started < seconds, "this did not happen in time"
        time.sleep(0.01)
    wait_for.seconds = time.monotonic() - started
    return value


def state_of(cluster, identity: str) -> str | None:
    row = cluster.store.find(identity)
    return row and row["state"]


def becomes(cluster, identity: str, *states: str, seconds: float = 120.0) -> dict:
    wait_for(lambda: state_of(cluster, identity) in states, seconds)
    return cluster.store.find(identity)


def submitted_running(cluster, wanted: Work, **options) -> str:
    identity = cluster.submit(wanted, **options)["identity"]
    becomes(cluster, identity, RUNNING)
    return identity


def worker_pids(cluster) -> dict[str, int]:
    """Worker name → process id."""
    client = cluster._connection.client
    pids = client.run(os.getpid)
    return {facts["name"]: pids[address] for address, facts in client.scheduler_info()["workers"].items() if address in pids}


def command_lines() -> list[list[str]]:
    """Of every process below the office that still lives."""
    found = []
    for process in psutil.Process(running_office()["pid"]).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.append(process.cmdline())
    return found


def test_a_run_from_request_to_row(cluster):
    wanted = work(sleep=3.0)
    row = cluster.submit(wanted)
    assert (row["state"], row["identity"], row["model"]) == (WAITING, wanted.identity(), "resnet18")
    seen = list(cluster.follow(row["identity"]))
    assert [row["state"] for row in seen][-1] == COMPLETE
    running = [row for row in seen if row["state"] == RUNNING]
    assert len(running) >= 2 and running[-1]["preview"]["metrics"]["top1"] >= 80 and running[-1]["curve"] and running[-1]["seconds_left"] == 1
    assert [row["fraction"] for row in running] == sorted(row["fraction"] for row in running)
    done = seen[-1]
    assert done["metrics"]["top1"] == 90.0 and done["difference"] == {"top1": -1.0} and done["recipe"] == wanted.recipe.to_json()
    assert done["curve"] and done["preview"] is None and done["machine"] == {"id": "test-machine"} and done["lease_until"] is None
    assert cluster.store.predicted(row["identity"]) == b"\x01\x00"
    assert row.keys() == done.keys()


def test_a_known_run_is_answered_at_once_and_without_a_cluster(cluster, monkeypatch):
    wanted = work()
    cluster.submit(wanted)
    becomes(cluster, wanted.identity(), COMPLETE)
    monkeypatch.setattr(Connection, "_connect", lambda self: None)  # there is nobody to wait for
    alone = connect(start=False, wait=0, store=cluster.store)
    assert alone.submit(wanted, lane="me")["state"] == COMPLETE
    alone.close()


def test_bad_input_is_refused_before_anything_is_sent(cluster):
    with pytest.raises(BadInput, match="no such model"):
        cluster.submit(Work(model="missing"))


def test_an_engine_error_is_its_sentence_and_may_be_tried_again(cluster):
    wanted = work(fail="The teacher has gone home.")
    row = list(cluster.follow(cluster.submit(wanted)["identity"]))[-1]
    assert (row["state"], row["message"]) == (FAILED, "The teacher has gone home.")
    blocking = [submitted_running(cluster, work(sleep=LONG)) for _ in range(2)]  # so that it does not fail before it is looked at
    assert cluster.submit(wanted)["state"] == WAITING
    assert cluster.find(wanted.identity())["state"] in OPEN  # and not the old failure
    following = cluster.follow(wanted.identity())
    assert next(following)["state"] in OPEN
    for identity in blocking:
        cluster.cancel(identity)
    again = list(following)
    assert again[-1]["state"] == FAILED
    assert again[-1]["updated"] > row["updated"] and again[-1]["created"] == row["created"]


def test_an_error_that_nobody_thought_of_is_a_sentence_and_a_traceback_in_the_log(cluster, settings):
    row = list(cluster.follow(cluster.submit(work(crash=True))["identity"]))[-1]
    assert row["state"] == FAILED and "Something went wrong inside the engine (ZeroDivisionError)" in row["message"]
    assert str(settings / "home" / "cluster.log") in row["message"]
    wait_for(lambda: "a division that nobody thought of" in (settings / "home" / "cluster.log").read_text())


def test_cancel_while_running_and_while_waiting(cluster):
    running = [submitted_running(cluster, work(sleep=LONG)) for _ in range(2)]
    waiting = cluster.submit(work(sleep=LONG))["identity"]
    becomes(cluster, waiting, WAITING)
    for identity in (waiting, *running):
        cluster.cancel(identity)
        becomes(cluster, identity, CANCELLED, seconds=SOON)
    after = cluster.submit(work())["identity"]
    becomes(cluster, after, COMPLETE, seconds=SOON)  # the workers have really stopped
    assert cluster.store.find(running[0])["message"] == "Cancelled."
    assert not cluster.busy() and cluster.state()["running"] == 0


def test_a_cancelled_run_may_be_asked_for_again(cluster):
    wanted = work(sleep=3.0)
    submitted_running(cluster, wanted)
    cluster.cancel(wanted.identity())
    becomes(cluster, wanted.identity(), CANCELLED)
    cluster.submit(wanted)
    becomes(cluster, wanted.identity(), COMPLETE)


def test_a_request_that_got_lost_is_sent_again(cluster, monkeypatch):
    """As when it came before the scribe had subscribed."""
    client, sent = cluster._connection.client, []

    def lost(_topic, text):
        monkeypatch.undo()
        sent.append(text)

    monkeypatch.setattr(client, "log_event", lost)
    cluster.submit(wanted := work())
    becomes(cluster, wanted.identity(), COMPLETE)
    assert wanted.identity() in sent[0]


def test_what_a_command_timed_while_the_cluster_lives_is_kept_by_it(cluster, settings):
    from core.commands.attached import keep_latencies

    row = {"runtime": "onnxruntime-float32", "ratio": 0.5}
    graph = {"signature": "mine", "baseline_signature": "theirs", "machine_id": "m", "runtime": row["runtime"], "threads": 1, "batch": 1}
    keep_latencies(cluster.store, [graph | {"row": row, "measured_at": 1.0}])
    assert wait_for(lambda: cluster.store.latency(*graph.values())) == row


def test_in_a_lane_the_newest_run_stands(cluster):
    first, second, third = work(sleep=LONG), work(sleep=LONG), work(sleep=0.1)
    submitted_running(cluster, first, lane="me")
    cluster.submit(second, lane="me")
    cluster.submit(third, lane="me")
    becomes(cluster, third.identity(), COMPLETE)
    for dropped in (first, second):
        row = cluster.store.find(dropped.identity())
        assert (row["state"], row["stage"], row["message"]) == (CANCELLED, SUPERSEDED, "A newer slider position replaced it.")


def test_a_lane_keeps_what_trains_and_what_others_wait_for(cluster):
    trained, shared, swept, last = work(sleep=2.0, trains=True), work(sleep=1.5), work(sleep=1.5), work()
    cluster.submit(trained, lane="me")
    cluster.submit(shared, lane="you")
    for wanted in (shared, swept):
        cluster.submit(wanted, lane="me")
    cluster.submit(swept)
    cluster.submit(last, lane="me")
    for wanted in (trained, shared, swept, last):
        becomes(cluster, wanted.identity(), COMPLETE)


def test_a_known_run_in_the_lane_drops_the_former_one_too(cluster):
    known, former = work(), work(sleep=LONG)
    cluster.submit(known)
    becomes(cluster, known.identity(), COMPLETE)
    submitted_running(cluster, former, lane="me")
    cluster.submit(known, lane="me")
    assert becomes(cluster, former.identity(), CANCELLED, seconds=SOON)["stage"] == SUPERSEDED


def test_a_sliders_run_does_not_wait_behind_trainings(cluster):
    trainings = [submitted_running(cluster, work(sleep=LONG, trains=True)) for _ in range(2)]
    cluster.submit(quick := work(sleep=0.1), lane="me")
    becomes(cluster, quick.identity(), COMPLETE, seconds=SOON)
    for identity in trainings:
        cluster.cancel(identity)
        becomes(cluster, identity, CANCELLED)


def test_the_sooner_of_two_priorities_goes_first(cluster):
    blocking = [submitted_running(cluster, work(sleep=LONG)) for _ in range(2)]
    late, soon, many = work(sleep=0.1), work(sleep=0.1), [work(sleep=0.1) for _ in range(4)]
    cluster.submit(late, priority=-10)
    cluster.submit_all(many)
    cluster.submit(soon, priority=10)
    becomes(cluster, soon.identity(), WAITING)
    cluster.cancel(blocking[0])  # one after another, on one worker: of two nobody knows which is quicker
    order = {wanted.identity(): becomes(cluster, wanted.identity(), COMPLETE)["metrics"]["begun"] for wanted in (late, soon, *many)}
    cluster.cancel(blocking[1])
    assert sorted(order, key=order.get)[-1] == late.identity()
    assert sorted(order, key=order.get)[0] == soon.identity()


def test_the_newest_preview_wins(cluster):
    looks = [cluster.preview("me", work(sleep=LONG)) for _ in range(5)]
    time.sleep(0.3)
    newest = cluster.preview("me", work(sleep=0.05))
    assert newest.result(SOON)["metrics"]["top1"] == 50.0 + newest.work.recipe.number
    for look in looks:
        assert look.done() and look.cancelled
        with pytest.raises(Cancelled):
            look.result(0)
    others = [cluster.preview(lane, work()) for lane in ("a", "b")]
    assert all(look.result(SOON)["images"] == 1 for look in others)
    assert not cluster.busy()


def test_a_preview_says_what_went_wrong(cluster):
    with pytest.raises(BadInput, match="not like this"):
        cluster.preview("me", work(fail="It is not like this.")).result(SOON)
    with pytest.raises(Exception, match="Something went wrong inside the engine"):
        cluster.preview("me", work(crash=True)).result(SOON)
    look = cluster.preview("me", work(sleep=LONG))
    with pytest.raises(TimeoutError):
        look.result(0.05)
    cluster.leave("me")
    assert look.cancelled


def test_a_preview_overtakes_what_computes(cluster):
    running = [submitted_running(cluster, work(sleep=LONG)) for _ in range(2)]
    for _ in range(5):
        assert cluster.preview("me", work()).result(SOON)["images"] == 1
    for identity in running:
        cluster.cancel(identity)
        becomes(cluster, identity, CANCELLED)


def test_latencies_are_measured_once_and_kept(cluster):
    first = Work(recipe=Act(number=next(numbers)), latency=True)
    second = Work(recipe=Act(number=next(numbers), sleep=0.1), latency=True)
    measured = []
    for wanted in (first, second):
        cluster.submit(wanted)
        measured.append(becomes(cluster, wanted.identity(), COMPLETE)["metrics"]["latencies"])
    assert measured[0] == measured[1]
    wait_for(lambda: cluster.store.latency("graph", "base", "test-machine", "test-runtime"))


def test_a_shipped_run_is_timed_here_and_keeps_its_figures(cluster):
    wanted = work()
    shipped = {"identity": wanted.identity(), "model": wanted.model, "dataset": wanted.dataset, "split": "validation", "machine": {"id": "far"}}
    Store().import_gallery([shipped | {"metrics": {"top1": 1.0}, "recipe": {}, "predicted": b""}])
    assert cluster.submit(wanted)["origin"] == "gallery"
    job = cluster.measure(wanted)
    assert job["kind"] == "latency" and job["identity"] != wanted.identity()
    becomes(cluster, job["identity"], COMPLETE)
    assert ("graph", "base", "test-runtime") in cluster.store.latencies("test-machine")
    row = cluster.store.find(wanted.identity())
    assert (row["origin"], row["machine"]["id"], row["metrics"]) == ("gallery", "far", {"top1": 1.0})


def test_a_run_without_latency_gets_one(cluster):
    wanted = work()
    cluster.submit(wanted)
    assert becomes(cluster, wanted.identity(), COMPLETE)["metrics"]["latencies"] == []
    becomes(cluster, cluster.measure(wanted)["identity"], COMPLETE)
    metrics = cluster.store.find(wanted.identity())["metrics"]
    assert metrics["latencies"][0]["runtime"] == "test-runtime" and metrics["top1"] == 90.0


def test_a_download_is_a_job_that_can_be_cancelled(cluster):
    row = list(cluster.follow(cluster.fetch("digits")["identity"]))[-1]  # it is here already
    assert (row["kind"], row["state"], row["dataset"]) == ("fetch", COMPLETE, "digits")
    identity = cluster.fetch("mnist")["identity"]
    becomes(cluster, identity, RUNNING)
    cluster.cancel(identity)
    becomes(cluster, identity, CANCELLED, seconds=SOON)
    wait_for(lambda: not any("--fetch" in line for line in command_lines()))
    with pytest.raises(UnknownName):
        cluster.fetch("letters")


def test_a_hundred_runs_of_a_sweep(cluster, monkeypatch):
    works, sent, send = [work() for _ in range(100)], [], cluster._connection.send
    monkeypatch.setattr(cluster._connection, "send", lambda *requests: sent.append(len(requests)) or send(*requests))
    assert {row["state"] for row in cluster.submit_all(works)} == {WAITING}
    assert sent == [100]  # at the price of one
    wait_for(lambda: sum(row["state"] == COMPLETE for row in cluster.store.find_all(w.identity() for w in works).values()) == 100)


def test_everything_listens_on_the_loopback_alone(cluster):
    office = psutil.Process(running_office()["pid"])
    listening = [c.laddr.ip for process in (office, *office.children(recursive=True)) for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening and set(listening) == {"127.0.0.1"}


def test_the_office_is_on_its_own_and_alone(cluster, settings):
    office = psutil.Process(running_office()["pid"])
    assert os.getsid(office.pid) == office.pid != os.getsid(0)
    second = subprocess.run([sys.executable, "-m", "core.jobs.office"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 0 and "already" in second.stderr
    assert running_office()["pid"] == office.pid


def test_workers_keep_memory_for_the_next_tensor_and_one_thread_a_library(cluster):
    client = cluster._connection.client
    client.wait_for_workers(1)
    settings = client.run(lambda: [os.environ.get(name) for name in ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")])
    assert set(map(tuple, settings.values())) == {(os.environ.get("MALLOC_TRIM_THRESHOLD_"), "1")}


def test_a_killed_worker_is_replaced_and_its_run_done_again(cluster, tmp_path):
    cluster.submit(work(sleep=LONG))  # keeps one of the two busy, where the run must not end up
    wanted = work(killed_once=str(tmp_path / "killed"), sleep=0.1)
    cluster.submit(wanted)
    wait_for((tmp_path / "killed").exists)
    becomes(cluster, wanted.identity(), COMPLETE)
    for row in cluster.store.rows(states=OPEN):
        cluster.cancel(row["identity"])
        becomes(cluster, row["identity"], CANCELLED)


def test_a_killed_preview_worker_is_replaced(cluster, tmp_path):
    look = cluster.preview("me", work(killed_once=str(tmp_path / "killed")))
    assert look.result(2 * SOON)["images"] == 1


def test_a_run_that_kills_every_worker_fails_with_a_sentence(cluster, tmp_path):
    wanted = work(killed_once=str(tmp_path / "*"))
    cluster.submit(wanted)
    row = becomes(cluster, wanted.identity(), FAILED, seconds=240.0)
    assert "killed again and again" in row["message"]


def test_a_killed_office_is_replaced_and_its_work_taken_up(cluster):
    runs = [work(sleep=3.0), work(sleep=3.0), work(sleep=0.1)]
    for wanted in runs[:2]:
        submitted_running(cluster, wanted)
    cluster.submit(runs[2])
    becomes(cluster, runs[2].identity(), *OPEN, COMPLETE)  # it is written down
    pid = running_office()["pid"]
    left = [process.pid for process in psutil.Process(pid).children(recursive=True)]
    os.kill(pid, signal.SIGKILL)
    for wanted in runs:
        becomes(cluster, wanted.identity(), COMPLETE)
    assert running_office()["pid"] != pid
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in left))
    assert cluster.preview("me", work()).result(SOON)["images"] == 1


def test_a_request_sent_into_a_dying_office_is_not_lost(cluster):
    wanted = work()
    os.kill(running_office()["pid"], signal.SIGKILL)
    cluster.submit(wanted)
    look = cluster.preview("me", work())
    assert look.result(2 * SOON)["images"] == 1
    becomes(cluster, wanted.identity(), COMPLETE)


def test_stopped_on_purpose_it_stays_down_until_it_is_needed(cluster, settings):
    cluster.wait(60)
    assert stop_office(200)
    assert running_office() is None and not stop_office()
    wait_for(lambda: not cluster.state()["connected"])
    time.sleep(1.5)
    assert running_office() is None
    with pytest.raises(ClusterError, match="python -m core cluster"):
        connect(start=False, wait=60)
    cluster.submit(wanted := work())
    becomes(cluster, wanted.identity(), COMPLETE)


def test_it_ends_when_nobody_needs_it(settings):
    variables = os.environ | {"PARETOSCOPE_HOME": str(settings / "idle")}  # of that process alone: a client that is left of another test must not find it
    office = subprocess.Popen([sys.executable, "-m", "core.jobs.office", "--idle-timeout", "0.01"], cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        said = office.communicate(timeout=240)[1]
    finally:
        office.kill()
    assert office.returncode == 0 and "idle" in said
    assert not (settings / "idle" / "cluster.json").exists()


def test_an_office_that_cannot_start_says_why(settings, monkeypatch):
    home = settings / "broken"
    home.mkdir()
    store = Store(f"sqlite:///{home}/paretoscope.sqlite")
    monkeypatch.setenv("PARETOSCOPE_HOME", str(home))
    with store._begin() as connection:
        connection.exec_driver_sql("UPDATE facts SET value = 99 WHERE name = 'version'")
    with pytest.raises(ClusterError, match=r"could not be started: .* newer Paretoscope"):
        connect(store=store)


def test_any_dask_scheduler_will_do(settings, monkeypatch, tmp_path):
    """The same code on somebody else's scheduler, whose one worker offers no resources."""
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    file = ["--scheduler-file", str(tmp_path / "scheduler.json")]
    paths = os.environ | {"PYTHONPATH": str(ROOT), "PARETOSCOPE_HOME": str(tmp_path / "home")}
    started = [subprocess.Popen([*command, *file], env=paths, cwd=tmp_path, stderr=subprocess.DEVNULL)]
    try:
        address = wait_for(lambda: (tmp_path / "scheduler.json").exists() and (tmp_path / "scheduler.json").read_text())
        address = json.loads(address)["address"]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--no-nanny"]
        started.append(subprocess.Popen([*worker, "--preload", "core.jobs.tasks"], env=paths, cwd=tmp_path, stderr=subprocess.DEVNULL))
        monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("PARETOSCOPE_SCHEDULER", address)
        cluster = connect()
        try:
            cluster.submit(wanted := work(sleep=0.2))
            becomes(cluster, wanted.identity(), COMPLETE)
            assert cluster.preview("me", work()).result(SOON)["images"] == 1
            cluster.submit(dropped := work(sleep=LONG), lane="me")
            becomes(cluster, dropped.identity(), RUNNING)
            cluster.cancel(dropped.identity())
            becomes(cluster, dropped.identity(), CANCELLED, seconds=SOON)
            wait_for(lambda: cluster.state()["workers"] == 1)
        finally:
            cluster.close()
            with contextlib.suppress(ClusterError):
                stop_office()
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_the_client_imports_no_torch():
    command = "import sys, core.cluster, core.jobs.tasks, core.jobs.scribe, core.jobs.office; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False).returncode == 0
