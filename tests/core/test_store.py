"""The contract of the store on a SQLite file: what is kept, who owns what, and that nothing is lost when things go wrong."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from core import tables
from core.errors import StoreError
from core.store import CANCELLED, COMPLETE, FAILED, RUNNING, SUPERSEDED, WAITING, Store, _dumps, blank_row

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def store(path) -> Store:
    opened = Store(f"sqlite:///{path}")
    yield opened
    opened.close()


def result(identity: str = "a" * 16, **values) -> dict:
    return {
        "model": "resnet18", "dataset": "digits", "split": "validation", "recipe": {"seed": 0, "steps": []}, "key": "k" * 16, "identity": identity,
        "machine": {"id": "m1"}, "baseline": {"top1": 91.0}, "metrics": {"top1": 90.0, "latencies": [{"ratio": 1.0}]},
        "difference": {"top1": -1.0}, "seconds": {"total": 2.0}, "date": "2026-01-01T00:00:00+00:00",
    } | values  # fmt: skip


def claimed(store: Store, identity: str = "a" * 16, owner: str = "me", lease: float = 30, **values) -> bool:
    return store.claim(blank_row(identity, owner=owner, lease_until=time.time() + lease, **values))


def test_the_life_of_a_run(store):
    assert store.find("a" * 16) is None
    assert claimed(store, model="resnet18", dataset="digits", request={"work": {"model": "resnet18"}})
    row = store.find("a" * 16)
    assert (row["state"], row["fraction"], row["request"]) == (WAITING, 0.0, {"work": {"model": "resnet18"}})
    store.write({"a" * 16: {"state": RUNNING, "fraction": 0.5, "preview": {"top1": 88.0}, "curve": [{"epoch": 1, "loss": 0.3}]}})
    assert store.find("a" * 16)["preview"] == {"top1": 88.0}
    store.complete("a" * 16, result(), b"\x01\x00\x02\x00")
    row = store.find("a" * 16)
    assert row["state"] == COMPLETE and row["fraction"] == 1.0 and row["preview"] is None and row["lease_until"] is None
    assert row["metrics"] == result()["metrics"] and row["curve"] == [{"epoch": 1, "loss": 0.3}]
    assert row["created"] <= row["updated"] and "predicted" not in row
    assert store.predicted("a" * 16) == b"\x01\x00\x02\x00"
    assert store.counts() == {COMPLETE: 1}


def test_a_row_has_the_same_columns_before_and_after_it_is_stored(store):
    before = blank_row("b" * 16, model="resnet18", owner="me", lease_until=time.time() + 30)
    store.claim(before)
    assert store.find("b" * 16).keys() == before.keys()


def test_rows_are_chosen_and_come_oldest_first(store):
    for number, (model, dataset) in enumerate([("resnet18", "digits"), ("resnet18", "mnist"), ("vgg11", "digits")]):
        store.complete(f"{number:016}", result(model=model, dataset=dataset))
    claimed(store, "f" * 16, model="resnet18", dataset="digits", split="validation")
    claimed(store, "t" * 16, model="resnet18", dataset="digits", kind="training")
    assert [row["identity"][-1] for row in store.rows("resnet18", "digits")] == ["0", "f"]
    assert [row["identity"][-1] for row in store.rows("resnet18", kind=None)] == ["0", "1", "f", "t"]
    assert [row["identity"][-1] for row in store.rows(states=[WAITING])] == ["f"]
    assert [row["identity"][-1] for row in store.rows(split="validation", limit=2)] == ["0", "1"]
    assert store.find_all(["0" * 16, "x" * 16]).keys() == {"0" * 16}


def test_the_revision_tells_what_changed(store):
    claimed(store, "a" * 16)
    seen = store.revision()
    assert store.rows(since=seen) == []
    store.renew(["a" * 16], time.time() + 60)
    assert store.revision() == seen
    store.add_latencies([])  # pages draw latencies at the runs whose graphs they are of
    assert store.revision() > seen and store.rows(since=seen) == []
    seen = store.revision()
    claimed(store, "b" * 16)
    store.write({"b" * 16: {"fraction": 0.1}})
    assert store.revision() > seen
    assert [row["identity"] for row in store.rows(since=seen)] == ["b" * 16]


def test_a_claim_is_refused_where_the_run_is_known_or_in_other_hands(store):
    assert claimed(store, owner="me") and claimed(store, owner="me")
    assert not claimed(store, owner="other")
    store.renew(["a" * 16], time.time() - 1)
    assert claimed(store, owner="other")
    store.complete("a" * 16, result())
    assert not claimed(store, owner="other")
    assert store.find("a" * 16)["state"] == COMPLETE


@pytest.mark.parametrize("state", [FAILED, CANCELLED])
def test_what_failed_or_was_cancelled_may_be_tried_again_from_nothing(store, state):
    claimed(store)
    store.write({"a" * 16: {"state": state, "message": "It did not work.", "curve": [{"epoch": 1}], "fraction": 0.4}})
    created = store.find("a" * 16)["created"]
    assert claimed(store)
    row = store.find("a" * 16)
    assert (row["state"], row["message"], row["curve"], row["fraction"], row["created"]) == (WAITING, None, None, 0.0, created)


def test_a_training_may_be_done_again(store):
    claimed(store, kind="training")
    store.write({"a" * 16: {"state": COMPLETE}})
    assert claimed(store, kind="training")


def test_unfinished_work_is_that_of_a_former_process_or_of_a_lease_run_out(store):
    claimed(store, "1" * 16, owner="me")
    claimed(store, "2" * 16, owner="other")
    claimed(store, "3" * 16, owner="other", lease=-1)
    claimed(store, "4" * 16, owner="me", priority=5)
    store.write({"1" * 16: {"state": RUNNING}})
    store.complete("5" * 16, result())
    assert [row["identity"][0] for row in store.unfinished("me")] == ["4", "1", "3"]


def test_superseded_runs_are_forgotten_and_cancelled_ones_are_not(store):
    for identity, stage in (("a" * 16, SUPERSEDED), ("b" * 16, None)):
        claimed(store, identity)
        store.write({identity: {"state": CANCELLED, "stage": stage}})
    store.forget_superseded()
    assert [row["identity"] for row in store.rows()] == ["b" * 16]


def test_the_gallery_comes_in_once_and_never_over_what_was_measured_here(store):
    here = result("1" * 16)
    store.complete("1" * 16, here, b"\x07\x00")
    claimed(store, "2" * 16)
    shipped = [result(digit * 16, machine={"id": "far"}) | {"predicted": b"\x01\x00"} for digit in "123"]
    assert store.import_gallery(shipped) == 1
    seen = store.revision()
    assert store.import_gallery(shipped) == 0 and store.revision() == seen
    assert store.find("1" * 16)["machine"] == {"id": "m1"} and store.predicted("1" * 16) == b"\x07\x00"
    assert store.find("2" * 16)["state"] == WAITING
    row = store.find("3" * 16)
    assert (row["origin"], row["state"], row["machine"]) == ("gallery", COMPLETE, {"id": "far"})
    assert store.import_gallery([result("3" * 16, date="2027-01-01T00:00:00+00:00")]) == 1
    store.complete("3" * 16, result("3" * 16), origin="here")
    assert store.find("3" * 16)["machine"] == {"id": "m1"}


def test_latencies_are_kept_by_graph_and_machine(store):
    row = {"runtime": "onnxruntime-float32", "threads": 1, "batch": 1, "ms_p50": 2.0, "ratio": 0.5}
    entry = {"signature": "s", "baseline_signature": "b", "machine_id": "m", "runtime": "onnxruntime-float32", "threads": 1, "batch": 1, "measured_at": 1.0}
    store.add_latencies([entry | {"row": row}])
    store.add_latencies([entry | {"row": row | {"ratio": 0.6}}])
    assert store.latency("s", "b", "m", "onnxruntime-float32")["ratio"] == 0.6
    assert store.latency("s", "b", "elsewhere", "onnxruntime-float32") is None
    assert store.latency("s", "b", "m", "onnxruntime-float32", threads=2) is None


@given(st.lists(st.floats(), min_size=1))
def test_figures_come_back_as_they_were_and_what_is_no_number_as_nothing(figures):
    again = json.loads(_dumps({"figures": figures}))["figures"]
    assert again == [figure if math.isfinite(figure) else None for figure in figures]


def contents(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())


def test_a_database_from_a_newer_version_is_not_touched(path, store):
    store.complete("a" * 16, result())
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE facts SET value = 99 WHERE name = 'version'")
        connection.execute("ALTER TABLE runs ADD COLUMN mood TEXT")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer Paretoscope \(its format is 99, this one knows 1\)"):
        Store(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_an_older_database_is_brought_to_this_version(path, store, monkeypatch):
    store.complete("a" * 16, result())
    store.close()
    monkeypatch.setattr(tables, "VERSION", 3)
    monkeypatch.setitem(tables.MIGRATIONS, 1, lambda connection: connection.execute(text("CREATE TABLE moods (name TEXT)")))
    monkeypatch.setitem(tables.MIGRATIONS, 2, lambda connection: connection.execute(text("INSERT INTO moods VALUES ('calm')")))
    reopened = Store(f"sqlite:///{path}")
    assert reopened.find("a" * 16)["state"] == COMPLETE
    assert "INSERT INTO \"moods\" VALUES('calm');" in contents(path)
    assert Store(f"sqlite:///{path}").revision() == reopened.revision()


def test_a_migration_that_fails_leaves_the_old_database(path, store, monkeypatch):
    store.complete("a" * 16, result())
    store.close()
    before = contents(path)
    monkeypatch.setattr(tables, "VERSION", 3)
    monkeypatch.setitem(tables.MIGRATIONS, 1, lambda connection: connection.execute(text("CREATE TABLE moods (name TEXT)")))
    monkeypatch.setitem(tables.MIGRATIONS, 2, lambda connection: connection.execute(text("SELECT nothing FROM nowhere")))
    with pytest.raises(StoreError):
        Store(f"sqlite:///{path}")
    assert contents(path) == before


def test_a_full_disk_is_a_sentence_and_loses_nothing(store):
    store.complete("a" * 16, result(), b"\x01\x00")
    with store.engine.connect() as connection:  # the one pooled connection, as SQLite keeps the limit per connection
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"disk is full.*still there"):
        store.complete("b" * 16, result("b" * 16), bytes(10**6))
    with pytest.raises(StoreError, match="disk is full"):
        store.write({"a" * 16: {"message": "x" * 10**6}})
    assert store.find("a" * 16)["metrics"] == result()["metrics"] and store.predicted("a" * 16) == b"\x01\x00"
    assert store.find("b" * 16) is None
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    store.complete("b" * 16, result("b" * 16), bytes(10**6))
    assert store.find("b" * 16)["state"] == COMPLETE


def test_a_database_held_by_another_program_is_a_sentence(path, store, monkeypatch):
    store.complete("a" * 16, result())
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="held by another program"):
        store.write({"a" * 16: {"fraction": 0.3}})
    assert store.find("a" * 16)["state"] == COMPLETE  # readers do not wait
    holder.execute("ROLLBACK")
    store.write({"a" * 16: {"fraction": 0.3}})
    assert store.find("a" * 16)["fraction"] == 0.3


@pytest.mark.parametrize("bytes_there", [b"the words of a poem, not a database\n" * 200, b"SQLite format 3\x00" + b"\xff" * 4096], ids=["text", "damaged"])
def test_a_file_that_is_no_database_is_a_sentence(path, bytes_there):
    path.write_bytes(bytes_there)
    with pytest.raises(StoreError, match=r"not a database|damaged"):
        Store(f"sqlite:///{path}")
    assert path.read_bytes() == bytes_there


def test_a_database_of_something_else_is_left_alone(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (cake TEXT)")
    before = contents(path)
    with pytest.raises(StoreError, match="something else"):
        Store(f"sqlite:///{path}")
    assert contents(path) == before


def test_addresses_that_cannot_be_opened_are_sentences(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path}/nowhere/at/all.sqlite")
    monkeypatch.setenv("PARETOSCOPE_DATABASE", "not an address")
    with pytest.raises(StoreError, match=r"postgresql\+psycopg://"):
        Store()
    monkeypatch.setenv("PARETOSCOPE_DATABASE", "postgresql+psycopg://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(StoreError) as told:
        Store()
    assert "secret" not in str(told.value)


def test_the_usual_place_is_the_home_folder(home):
    Store()
    assert (home / "paretoscope.sqlite").exists()


READER = """
import sys
from core.store import Store
store, last, count = Store(f"sqlite:///{sys.argv[1]}"), -1, 0
print("ready", flush=True)
while True:
    revision = store.revision()
    assert revision >= last, (revision, last)
    last, count = revision, count + 1
    row = store.find("a" * 16)
    if row:
        # fraction and curve are written together, so no reader may see one without the other
        assert round(row["fraction"] * 1000) == len(row["curve"] or []), row
        if row["state"] == "COMPLETE":
            break
print(count, flush=True)
"""


def test_two_readers_beside_a_writer_see_whole_rows(path, store):
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(path)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for reader in readers:
            assert reader.stdout.readline() == "ready\n"
        claimed(store)
        curve = []
        for _ in range(200):
            curve.append({"epoch": len(curve)})
            store.write({"a" * 16: {"state": RUNNING, "fraction": len(curve) / 1000, "curve": curve}})
        store.write({"a" * 16: {"state": COMPLETE}})
        for reader in readers:
            assert int(reader.stdout.readline()) > 0
            assert reader.wait(30) == 0
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


def test_two_processes_may_make_the_database_at_once(path):
    command = [sys.executable, "-c", "import sys; from core.store import Store; print(Store('sqlite:///' + sys.argv[1]).revision())", str(path)]
    makers = [subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [maker.communicate()[0] for maker in makers] == ["0\n"] * 4


def test_importing_the_store_imports_no_torch():
    command = "import sys, core.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode == 0
