"""What lies in which shard: a SQLite file that readers share and one writer at a time commits to.

It holds nothing that the shards do not: delete it and the next `open_store` builds it again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, TypedDict, get_args

from forethought.store.schema import VERSION
from forethought.types import Stop

WAIT = 120.0
"""Seconds to wait for another process to finish its commit."""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS runs (name TEXT PRIMARY KEY, created REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shards (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, run TEXT NOT NULL REFERENCES runs,
    sha256 TEXT NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS traces (
    id TEXT NOT NULL, run TEXT NOT NULL, problem_id TEXT NOT NULL, policy TEXT NOT NULL,
    reward REAL, tokens INTEGER NOT NULL, stop TEXT NOT NULL,
    shard INTEGER NOT NULL REFERENCES shards, row INTEGER NOT NULL,
    PRIMARY KEY (shard, row)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS once ON traces (id, run);
CREATE INDEX IF NOT EXISTS by_problem ON traces (problem_id);
CREATE INDEX IF NOT EXISTS by_run ON traces (run);
PRAGMA user_version = {VERSION};
"""


class Entry(NamedTuple):
    """What the catalogue knows of one trace."""

    id: str
    run: str
    problem_id: str
    policy: str
    reward: float | None
    tokens: int
    """Sampled tokens, as far as the engine told."""
    stop: Stop
    shard: int
    row: int


class Shard(NamedTuple):
    """What the catalogue knows of one shard."""

    id: int
    name: str
    run: str
    sha256: str
    rows: int
    bytes: int


class Run(NamedTuple):
    """One run's traces, added up."""

    name: str
    created: float
    """Seconds since 1970."""
    traces: int
    problems: int
    tokens: int
    judged: int
    """Traces whose reward is known."""
    reward: float | None
    """Mean over the judged; `None` where there are none."""


class Where(TypedDict, total=False):
    """Which traces; every condition given must hold."""

    run: str
    problem: str
    policy: str
    stop: Stop
    min_reward: float
    """Both ends are inclusive; a trace without a reward passes neither."""
    max_reward: float


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one short piece of work: no thread, process or fork ever shares one.

    Raises:
        OSError: the folder cannot be written or the disk is full.
        ValueError: the file is no catalogue, or a newer forethought wrote it.
    """
    try:
        with closing(sqlite3.connect(path, timeout=WAIT, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            yield connection
    except sqlite3.OperationalError as error:
        raise OSError(
            f"the store in {path.parent} cannot be used: {error} (is it writable, and the disk not full?)"
        ) from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is damaged: {error}; delete it, it is built again from the shards") from error


@contextmanager
def committing(connection: sqlite3.Connection) -> Iterator[None]:
    """The one committer: others wait until this block has ended, and it counts whole or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def create(path: Path) -> None:
    """Make the catalogue where there is none."""
    with connected(path) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise ValueError(
                f"{path} has schema {version}; this forethought reads up to {VERSION}: install a newer forethought"
            )
        if version < VERSION:
            _write_ahead(connection)
            connection.executescript(f"BEGIN IMMEDIATE;{_TABLES}COMMIT;")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Readers and the writer no longer block one another."""
    until = time.monotonic() + WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # Alone among statements, this one does not wait when another process is doing the same.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def shards(connection: sqlite3.Connection) -> list[Shard]:
    """Every shard, in the order of their names: of writing."""
    return [
        Shard(*row) for row in connection.execute("SELECT id, name, run, sha256, rows, bytes FROM shards ORDER BY name")
    ]


def known(connection: sqlite3.Connection, run: str, ids: Sequence[str]) -> set[str]:
    """Which of `ids` the run already has."""
    found: set[str] = set()
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        marks = ",".join("?" * len(some))
        found.update(
            row[0]
            for row in connection.execute(f"SELECT id FROM traces WHERE run = ? AND id IN ({marks})", (run, *some))
        )
    return found


def add(
    connection: sqlite3.Connection,
    shard: Shard,
    entries: Iterable[tuple[str, str, str, float | None, int, str]],
) -> None:
    """Enter a shard (its `id` is given here) and its rows: (id, problem_id, policy, reward, tokens, stop).

    A row whose id the run already has is not entered again, and so is never read.
    """
    connection.execute("INSERT OR IGNORE INTO runs VALUES (?, ?)", (shard.run, time.time()))
    number = connection.execute(
        "INSERT INTO shards (name, run, sha256, rows, bytes) VALUES (?, ?, ?, ?, ?)", shard[1:]
    ).lastrowid
    connection.executemany(
        "INSERT OR IGNORE INTO traces VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((entry[0], shard.run, *entry[1:], number, row) for row, entry in enumerate(entries)),
    )


def conditions(where: Where) -> tuple[str, list[object]]:
    """`where` as SQL and its values.

    Raises:
        ValueError: a condition or a stop that there is not.
    """
    tests = {
        "run": "run = ?",
        "problem": "problem_id = ?",
        "policy": "policy = ?",
        "stop": "stop = ?",
        "min_reward": "reward >= ?",
        "max_reward": "reward <= ?",
    }
    if unknown := where.keys() - tests.keys():
        raise ValueError(f"traces cannot be chosen by {sorted(unknown)[0]!r}; choose by {', '.join(tests)}")
    if "stop" in where and where["stop"] not in get_args(Stop):
        raise ValueError(f"no trace stops with {where['stop']!r}; the stops are {', '.join(get_args(Stop))}")
    return " AND ".join(["TRUE", *(tests[name] for name in where)]), list(where.values())


def entries(connection: sqlite3.Connection, shard: int, where: Where) -> list[Entry]:
    """The shard's traces, in the order of its rows."""
    tests, values = conditions(where)
    return [
        Entry(*row)
        for row in connection.execute(
            f"SELECT * FROM traces WHERE shard = ? AND {tests} ORDER BY row", (shard, *values)
        )
    ]


def runs(connection: sqlite3.Connection) -> list[Run]:
    """Every run, the oldest first."""
    rows = connection.execute(
        "SELECT runs.name, runs.created, count(id), count(DISTINCT problem_id), coalesce(sum(tokens), 0),"
        " count(reward), avg(reward) FROM runs LEFT JOIN traces ON traces.run = runs.name"
        " GROUP BY runs.name ORDER BY runs.created, runs.name"
    )
    return [Run(*row) for row in rows]
