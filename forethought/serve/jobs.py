"""Stored responses and background jobs: one SQLite file, which survives the server."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.types import Messages

LIVE = ("queued", "in_progress")
"""Of a job that is not at its end."""
ATTEMPTS = 3
"""How often a job is begun: one that takes the server with it each time must not do so for ever."""

_TABLE = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, status TEXT NOT NULL,
    request TEXT NOT NULL, messages TEXT NOT NULL, response TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, spent INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0
)"""
_OLDEST = "CREATE INDEX IF NOT EXISTS responses_created ON responses (created)"
_ENDED = "status NOT IN ('queued','in_progress')"
_FEW = 16
"""Responses that make way at a time."""


@dataclass(frozen=True, slots=True)
class Job:
    """A stored response, and the request that it answers."""

    id: str
    owner: str
    """The caller's name: nobody else is shown it."""
    status: str
    request: dict[str, Any]
    messages: Messages
    """The conversation, the answer included once it is there. No thought is kept."""
    response: dict[str, Any]
    attempts: int
    lost: int
    """Tokens drawn by attempts that a restart has ended."""


class Jobs:
    """Every method is one short transaction (write-ahead log), made on the event loop.

    A response that has ended is kept for `days`, and the oldest make way where all together take more than `mib`; 0 is
    no limit. The file does not shrink: what has become free in it is used again.
    """

    def __init__(self, path: str | Path, *, days: float = 0, mib: int = 0) -> None:
        self._days, self._mib = days, mib
        try:
            Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(Path(path).expanduser(), isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # What was committed outlives the process, not the machine's power: waiting for the disk blocks everybody.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
            self._db.execute(_OLDEST)
        except (sqlite3.Error, OSError) as error:
            raise ValueError(f"{path} cannot be used to store responses: {error}") from None
        self._db.row_factory = sqlite3.Row

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, owner: str, request: dict[str, Any], messages: Messages, response: dict[str, Any]) -> None:
        """Keep a response, at whatever point it is; what is too old or too much goes."""
        self._db.execute(
            "INSERT INTO responses (id, owner, created, status, request, messages, response) VALUES (?,?,?,?,?,?,?)",
            (
                response["id"],
                owner,
                time.time(),
                response["status"],
                json.dumps(request),
                json.dumps(messages),
                json.dumps(response),
            ),
        )
        self._trim()

    def _trim(self) -> None:
        if self._days:
            past = time.time() - 86400 * self._days
            self._db.execute(f"DELETE FROM responses WHERE created<? AND {_ENDED}", (past,))
        while self._mib and self._taken() > self._mib << 20:
            oldest = f"SELECT id FROM responses WHERE {_ENDED} ORDER BY created LIMIT {_FEW}"
            if not self._db.execute(f"DELETE FROM responses WHERE id IN ({oldest})").rowcount:
                return

    def _taken(self) -> int:
        """Bytes of the file that hold something."""
        size, pages, free = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_size", "page_count", "freelist_count")
        )
        return size * (pages - free)

    def get(self, id_: str, owner: str) -> Job | None:
        """The response of this name, if it is this owner's."""
        row = self._db.execute("SELECT * FROM responses WHERE id=? AND owner=?", (id_, owner)).fetchone()
        return None if row is None else _job(row)

    def put(self, response: dict[str, Any], messages: Messages | None = None) -> bool:
        """The response as it stands now, unless it has come to an end before (a cancelled job stays so)."""
        told = json.dumps(response)
        done = self._db.execute(
            "UPDATE responses SET status=?, response=?, messages=COALESCE(?, messages) "
            "WHERE id=? AND status IN ('queued','in_progress')",
            (response["status"], told, None if messages is None else json.dumps(messages), response["id"]),
        )
        return done.rowcount == 1

    def begin(self, id_: str) -> int:
        """One more attempt; its number from 1."""
        self._db.execute("UPDATE responses SET attempts=attempts+1, spent=0 WHERE id=?", (id_,))
        row = self._db.execute("SELECT attempts FROM responses WHERE id=?", (id_,)).fetchone()
        return int(row["attempts"]) if row else 0

    def spend(self, id_: str, tokens: int) -> None:
        """So many tokens has this attempt drawn by now."""
        self._db.execute("UPDATE responses SET spent=? WHERE id=?", (tokens, id_))

    def delete(self, id_: str) -> None:
        """Forget it."""
        self._db.execute("DELETE FROM responses WHERE id=?", (id_,))

    def unfinished(self) -> list[Job]:
        """Jobs that the last server left behind, oldest first; what they had spent is counted as lost."""
        self._db.execute("UPDATE responses SET lost=lost+spent, spent=0 WHERE status IN ('queued','in_progress')")
        rows = self._db.execute("SELECT * FROM responses WHERE status IN ('queued','in_progress') ORDER BY created")
        return [_job(row) for row in rows]


def _job(row: sqlite3.Row) -> Job:
    messages: Messages = tuple(json.loads(row["messages"]))
    told = {name: row[name] for name in ("id", "owner", "status", "attempts", "lost")}
    return Job(**told, request=json.loads(row["request"]), messages=messages, response=json.loads(row["response"]))
