"""The store: every run with its state and figures, and every measured latency, in one database.

SQLite in the home folder by default, or what PARETOSCOPE_DATABASE names (`postgresql+psycopg://…`). One process writes
(`core.jobs.scribe`, in the cluster process); pages and workers only read. Rows cross this border as plain dicts.
Imports no torch. Raises `StoreError`, one sentence, and never loses what was stored.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, delete, event, func, insert, inspect, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from core import tables
from core.errors import StoreError
from core.home import folder
from core.tables import facts, latencies, runs

WAITING, RUNNING, COMPLETE, FAILED, CANCELLED = "WAITING", "RUNNING", "COMPLETE", "FAILED", "CANCELLED"
OPEN = (WAITING, RUNNING)
SUPERSEDED = "superseded"  # the stage of a run that was cancelled because its slider moved on
BUSY_SECONDS = 5
RESULT_FIELDS = ("model", "dataset", "split", "recipe", "key", "machine", "baseline", "metrics", "difference", "seconds", "date")
_VISIBLE = [column for column in runs.c if column.name != "predicted"]
_EMPTY = {column.name: None for column in _VISIBLE}


def default_url() -> URL:
    """PARETOSCOPE_DATABASE, or a SQLite file in the home folder."""
    given = os.environ.get("PARETOSCOPE_DATABASE")
    if not given:
        return URL.create("sqlite", database=str(folder() / "paretoscope.sqlite"))
    try:
        return make_url(given)
    except ArgumentError:
        raise StoreError("PARETOSCOPE_DATABASE is not the address of a database; it takes the form postgresql+psycopg://user@host/name.") from None


def blank_row(identity: str, kind: str = "run", **values: Any) -> dict:
    """A WAITING run's row, every column there, before anything was written."""
    now = time.time()
    start = {
        "identity": identity, "kind": kind, "state": WAITING, "model": "", "dataset": "", "fraction": 0.0, "origin": "here",
        "priority": 0, "attempts": 0, "created": now, "updated": now, "changed": 0,
    }  # fmt: skip
    return _EMPTY | start | values


def result_values(result: dict) -> dict:
    """The columns that a result (`engine.Result.to_json()`) fills in."""
    values = {name: result.get(name) for name in RESULT_FIELDS}
    return values | {"state": COMPLETE, "fraction": 1.0, "stage": None, "seconds_left": None, "message": None, "preview": None, "lease_until": None}


class Store:
    """Opens the database, or makes it. Raises `StoreError` when it cannot be used, and then has touched nothing.

    `find` to `latency` read and are for everybody; `claim` to `forget_superseded` write and are for the one writing process.
    """

    def __init__(self, url: str | URL | None = None):
        self.url = make_url(url) if url is not None else default_url()
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        with self._told():
            self.engine = self._engine()
            self._prepare()

    def find(self, identity: str) -> dict | None:
        """The row of a run; None when it was never asked for."""
        found = self.find_all([identity])
        return found.get(identity)

    def find_all(self, identities: Iterable[str]) -> dict[str, dict]:
        """identity → row, for those that are known."""
        wanted, found = list(identities), {}
        with self._reading() as connection:
            for start in range(0, len(wanted), 500):  # databases bound the number of parameters
                part = select(*_VISIBLE).where(runs.c.identity.in_(wanted[start : start + 500]))
                found |= {row.identity: dict(row._mapping) for row in connection.execute(part)}
        return found

    def rows(
        self,
        model: str | None = None,
        dataset: str | None = None,
        split: str | None = None,
        *,
        kind: str | None = "run",
        states: Iterable[str] | None = None,
        since: int | None = None,
        limit: int | None = None,
    ) -> list[dict]:
        """The runs that fit, oldest first, without their labels; with `kind=None` trainings and downloads too.

        `since` is a `revision()`: only what changed after it.
        """
        query = select(*_VISIBLE).order_by(runs.c.created, runs.c.identity).limit(limit)
        for column, value in ((runs.c.model, model), (runs.c.dataset, dataset), (runs.c.split, split), (runs.c.kind, kind)):
            if value is not None:
                query = query.where(column == value)
        if states is not None:
            query = query.where(runs.c.state.in_(list(states)))
        if since is not None:
            query = query.where(runs.c.changed > since)
        with self._reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def predicted(self, identity: str) -> bytes | None:
        """The run's predicted labels, little-endian uint16, in the split's order."""
        with self._reading() as connection:
            return connection.execute(select(runs.c.predicted).where(runs.c.identity == identity)).scalar()

    def revision(self) -> int:
        """A number that grows with every change to a run; cheap enough to be asked five times a second."""
        with self._reading() as connection:
            return connection.execute(select(facts.c.value).where(facts.c.name == "revision")).scalar_one()

    def counts(self) -> dict[str, int]:
        """state → number of runs."""
        with self._reading() as connection:
            return dict(connection.execute(select(runs.c.state, func.count()).group_by(runs.c.state)).all())

    def latency(self, signature: str, baseline_signature: str, machine_id: str, runtime: str, threads: int = 1, batch: int = 1) -> dict | None:
        """The measured row of a graph beside its baseline's on a machine; None when it was not measured."""
        key = (signature, baseline_signature, machine_id, runtime, threads, batch)
        columns = list(latencies.primary_key.columns)
        with self._reading() as connection:
            return connection.execute(select(latencies.c.row).where(*(column == value for column, value in zip(columns, key)))).scalar()

    def latencies(self, machine_id: str, threads: int = 1, batch: int = 1, signatures: Iterable[str] | None = None) -> dict[tuple[str, str, str], dict]:
        """What was timed on a machine with so many threads and pictures a pass, of all graphs or of these: (signature, baseline_signature, runtime) → row."""
        with self._reading() as connection:
            columns = (latencies.c.signature, latencies.c.baseline_signature, latencies.c.runtime, latencies.c.row)
            query = select(*columns).where(latencies.c.machine_id == machine_id, latencies.c.threads == threads, latencies.c.batch == batch)
            if signatures is not None:
                query = query.where(latencies.c.signature.in_(list(signatures)))
            return {(found.signature, found.baseline_signature, found.runtime): found.row for found in connection.execute(query)}

    def claim(self, row: dict) -> bool:
        """Take a run in the name of `row["owner"]`: it is WAITING now, with this request and lease.

        False when it is COMPLETE already (a training or download may be done again), or in the hands of another owner
        whose lease has not run out.
        """
        with self._writing() as (connection, revision):
            known = connection.execute(select(runs.c.state, runs.c.kind, runs.c.owner, runs.c.lease_until).where(runs.c.identity == row["identity"])).first()
            if known is not None:
                if known.state == COMPLETE and known.kind == "run":
                    return False
                if known.state in OPEN and known.owner != row["owner"] and (known.lease_until or 0) > time.time():
                    return False
            _put(connection, revision, row | {"state": WAITING, "predicted": None}, known is not None)
            return True

    def write(self, changes: dict[str, dict]) -> None:
        """Change columns of several runs in one transaction: identity → column → value. Unknown identities are ignored."""
        if not changes:
            return
        now = time.time()
        with self._writing() as (connection, revision):
            for identity, values in changes.items():
                connection.execute(update(runs).where(runs.c.identity == identity).values(**values, updated=now, changed=revision))

    def complete(self, identity: str, result: dict, predicted: bytes | None = None, **values: Any) -> None:
        """Keep a result. A row that is not there yet is made."""
        row = result_values(result) | {"predicted": predicted} | values
        with self._writing() as (connection, revision):
            known = connection.execute(select(runs.c.identity).where(runs.c.identity == identity)).first()
            _put(connection, revision, row if known else blank_row(identity) | row, known is not None, identity)

    def renew(self, identities: Iterable[str], lease_until: float) -> None:
        """Say that these runs are still seen to. No change that a page would have to hear of, so the revision stays."""
        with self._told(), self._begin() as connection:
            connection.execute(update(runs).where(runs.c.identity.in_(list(identities))).values(lease_until=lease_until))

    def unfinished(self, owner: str) -> list[dict]:
        """The WAITING and RUNNING runs of a former process of this owner, and of any owner whose lease has run out."""
        left = (runs.c.owner == owner) | (runs.c.lease_until < time.time()) | runs.c.lease_until.is_(None)
        with self._reading() as connection:
            query = select(*_VISIBLE).where(runs.c.state.in_(OPEN), left).order_by(runs.c.priority.desc(), runs.c.created)
            return [dict(row._mapping) for row in connection.execute(query)]

    def import_gallery(self, shipped: Iterable[dict]) -> int:
        """Take in shipped runs (`Result.to_json()` with `predicted` as bytes); the number that was new or newer.

        What was measured here stays, and so does what is being measured.
        """
        count = 0
        shipped = list(shipped)
        known = self.find_all(row["identity"] for row in shipped)
        fresh = [row for row in shipped if _is_news(row, known.get(row["identity"]))]
        if not fresh:
            return 0
        with self._writing() as (connection, revision):
            for row in fresh:
                identity = row["identity"]
                values = blank_row(identity) | result_values(row) | {"predicted": row.get("predicted"), "origin": "gallery"}
                _put(connection, revision, values, identity in known)
                count += 1
        return count

    def add_latencies(self, measured: Iterable[dict]) -> None:
        """Keep measured latencies: dicts of the table's columns; a later measurement replaces an earlier one."""
        columns = list(latencies.primary_key.columns)
        with self._writing() as (connection, _revision):  # pages draw them at the runs whose graphs they are of
            for entry in measured:
                connection.execute(delete(latencies).where(*(column == entry[column.name] for column in columns)))
                connection.execute(insert(latencies).values(**entry))

    def forget_superseded(self) -> None:
        """Drop the runs that a newer slider position replaced before they were done."""
        with self._told(), self._begin() as connection:
            connection.execute(delete(runs).where(runs.c.state == CANCELLED, runs.c.stage == SUPERSEDED))

    def close(self) -> None:
        self.engine.dispose()

    def _engine(self) -> sqlalchemy.Engine:
        try:
            options = {"connect_args": {"timeout": BUSY_SECONDS}} if self.is_sqlite else {"pool_pre_ping": True}
            engine = sqlalchemy.create_engine(self.url, json_serializer=_dumps, **options)
        except (ModuleNotFoundError, sqlalchemy.exc.NoSuchModuleError):
            name = self.url.drivername
            raise StoreError(f"The database driver {name} is not installed here; for PostgreSQL run `pip install 'psycopg[binary]'`.") from None
        if self.is_sqlite:
            event.listen(engine, "connect", _on_connect)
            event.listen(engine, "begin", _on_begin)
        return engine

    def _prepare(self) -> None:
        """Make the tables, or check the version of those that are there before anything is changed."""
        with self.engine.connect() as connection:
            names = inspect(connection).get_table_names()
            version = self._version(connection, names)
        if version is not None and version > tables.VERSION:
            raise StoreError(
                f"The database {self._shown()} was made by a newer Paretoscope (its format is {version}, this one knows {tables.VERSION}); "
                "update Paretoscope, or set PARETOSCOPE_HOME to another folder."
            )
        if self.is_sqlite:
            self._use_wal()
        if version != tables.VERSION:
            with self._begin() as connection:
                self._migrate(connection)

    def _migrate(self, connection: Connection) -> None:
        """Bring the database to this version within one transaction. Another process may have done it meanwhile."""
        version = self._version(connection, inspect(connection).get_table_names())
        if version is None:
            tables.metadata.create_all(connection)
            connection.execute(insert(facts), [{"name": "version", "value": tables.VERSION}, {"name": "revision", "value": 0}])
            return
        for step in range(version, tables.VERSION):
            tables.MIGRATIONS[step](connection)
        connection.execute(update(facts).where(facts.c.name == "version").values(value=tables.VERSION))

    def _version(self, connection: Connection, names: list[str]) -> int | None:
        if "facts" in names:
            version = connection.execute(select(facts.c.value).where(facts.c.name == "version")).scalar()
            if version is not None:
                return version
        if self.is_sqlite and names:
            raise StoreError(f"{self._shown()} is a database of something else; set PARETOSCOPE_HOME or PARETOSCOPE_DATABASE to another place.")
        return None

    def _use_wal(self) -> None:
        """Readers do not wait for the writer. Kept in the file, so set once; where the disk cannot, SQLite stays as it was."""
        with contextlib.closing(self.engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA journal_mode=WAL")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._told(), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[Connection, int]]:
        """A transaction that changes runs, and the revision that it makes."""
        with self._told(), self._begin() as connection:
            connection.execute(update(facts).where(facts.c.name == "revision").values(value=facts.c.value + 1))
            yield connection, connection.execute(select(facts.c.value).where(facts.c.name == "revision")).scalar_one()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say what the database complains about in one sentence."""
        try:
            yield
        except IntegrityError:
            raise  # a row that cannot be is a fault of the program, and not the database's
        except DBAPIError as error:
            raise StoreError(self._sentence(str(error.orig))) from error

    def _sentence(self, complaint: str) -> str:
        for part, sentence in _COMPLAINTS.items():
            if part in complaint:
                return sentence.format(database=self._shown())
        return f"The database {self._shown()} cannot be used ({' '.join(complaint.split())}); set PARETOSCOPE_DATABASE or PARETOSCOPE_HOME to another place."

    def _shown(self) -> str:
        return self.url.database if self.is_sqlite else self.url.render_as_string(hide_password=True)


_COMPLAINTS = {
    "disk is full": "The disk is full, so {database} could not be written; free some space: what was stored is still there.",
    "disk I/O error": "The disk refused to write {database}; free some space or check the disk: what was stored is still there.",
    "is locked": "The database {database} is held by another program; close whatever has it open and try again.",
    "not a database": "{database} is not a database; move it away or set PARETOSCOPE_HOME to another folder.",
    "malformed": "The database {database} is damaged; move it away (its runs can then be measured again) or restore a copy.",
    "readonly": "The database {database} may not be written; change its permissions or set PARETOSCOPE_HOME to another folder.",
    "unable to open": "The database {database} cannot be opened; check that its folder exists and may be written.",
}


def _put(connection: Connection, revision: int, values: dict, known: bool, identity: str | None = None) -> None:
    identity = identity or values["identity"]
    stamped = {name: value for name, value in values.items() if name not in ("identity", "created")} | {"updated": time.time(), "changed": revision}
    if known:
        connection.execute(update(runs).where(runs.c.identity == identity).values(**stamped))
    else:
        connection.execute(insert(runs).values(identity=identity, created=values["created"], **stamped))


def _is_news(shipped: dict, known: dict | None) -> bool:
    if known is None or known["state"] in (FAILED, CANCELLED):
        return True
    return known["state"] == COMPLETE and known["origin"] == "gallery" and known["date"] != shipped.get("date")


def _dumps(value: Any) -> str:
    """JSON without NaN and infinities, which become null: a loss may diverge, and JSON has no word for that."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), separators=(",", ":"))


def _on_connect(connection, _record) -> None:
    connection.isolation_level = None  # SQLAlchemy's "begin" event begins, not the driver
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    # a transaction that reads before it writes must hold the write lock from the start, or it fails when another wrote between
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
