"""The tables of the store, and how an older database is brought to this version. Used by `core.store` alone; imports no torch.

facts       two numbers: the version of this layout, and the revision, which grows with every change to `runs`
runs        one row a run, training or download: what was asked, how far it is, what came out
latencies   one row a measured graph: shared by every run with that graph on that machine
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import JSON, BigInteger, Column, Connection, Float, Index, Integer, LargeBinary, MetaData, Table, Text

VERSION = 1
metadata = MetaData()
_json = JSON(none_as_null=True)

facts = Table("facts", metadata, Column("name", Text, primary_key=True), Column("value", BigInteger, nullable=False))

runs = Table(
    "runs",
    metadata,
    Column("identity", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # run, training, latency, fetch, answers
    Column("state", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("split", Text),
    Column("recipe", _json),
    Column("key", Text),  # of the recipe
    Column("request", _json),  # what the worker is given; enough to begin again
    Column("fraction", Float, nullable=False),
    Column("stage", Text),
    Column("seconds_left", Float),
    Column("message", Text),  # the sentence, when FAILED or CANCELLED
    Column("preview", _json),  # {"metrics": …} or {"notes": […], "latencies": […]} so far, while RUNNING
    Column("curve", _json),  # list of {"epoch", "loss", "top1"}, while and after training
    Column("metrics", _json),
    Column("baseline", _json),
    Column("difference", _json),
    Column("seconds", _json),
    Column("machine", _json),
    Column("date", Text),
    Column("predicted", LargeBinary),  # labels, little-endian uint16, in the split's order
    Column("origin", Text, nullable=False),  # here, or gallery
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("owner", Text),  # the writing process that saw to it last
    Column("lease_until", Float),
    Column("created", Float, nullable=False),  # seconds since 1970, as `updated` and `lease_until`
    Column("updated", Float, nullable=False),
    Column("changed", BigInteger, nullable=False),  # the revision of the last change
    Index("runs_by_subject", "model", "dataset"),
    Index("runs_by_state", "state"),
    Index("runs_by_change", "changed"),
)

latencies = Table(
    "latencies",
    metadata,
    Column("signature", Text, primary_key=True),
    Column("baseline_signature", Text, primary_key=True),
    Column("machine_id", Text, primary_key=True),
    Column("runtime", Text, primary_key=True),
    Column("threads", Integer, primary_key=True),
    Column("batch", Integer, primary_key=True),
    Column("row", _json, nullable=False),
    Column("measured_at", Float, nullable=False),
)

# version → what brings a database of that version to the next one, within the caller's transaction
MIGRATIONS: dict[int, Callable[[Connection], None]] = {}
