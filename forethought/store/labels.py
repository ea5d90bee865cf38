"""What people said of thoughts, step by step: one SQLite file in the store's folder, durable label by label.

    PRM800K's labels (arXiv 2305.20050, section 2.4): 1 right, 0 neutral, -1 wrong

A label is of a text and a place in it, so it holds for every trace that asks and thinks the same to the letter, in
whatever run and however its thought was cut into steps. `Store.traces` puts what people said beside the verdicts of
other judges: `person:NAME` is one labeller's, `people` all of theirs together.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from forethought.store.catalogue import WAIT
from forethought.thought.marks import CLOSE, OPEN
from forethought.thought.steps import split
from forethought.types import Message, Step, Trace, Verdict

FILE = "labels.sqlite"
PERSON = "person:"
"""Before a labeller's name: what a judge of that name is called."""
PEOPLE = "people"
"""The judge that is all labellers together."""
VERSION = 1

_TABLE = f"""
CREATE TABLE IF NOT EXISTS labels (
    id INTEGER PRIMARY KEY, thought TEXT NOT NULL, labeller TEXT NOT NULL, place INTEGER NOT NULL,
    label INTEGER NOT NULL CHECK (label IN (-1, 0, 1)), time REAL NOT NULL, undone REAL
);
CREATE INDEX IF NOT EXISTS of_thought ON labels (thought);
CREATE INDEX IF NOT EXISTS of_labeller ON labels (labeller);
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True, slots=True)
class Move:
    """A piece of a thought as a person reads it."""

    start: int
    """Characters of the thought before it."""
    end: int
    """Characters up to its end; this is the place of its label."""
    text: str
    asked: bool
    """Is it labelled? Not what we wrote, blank lines and lone think marks."""


@dataclass(frozen=True, slots=True)
class Label:
    """What one person said of one move."""

    label: int
    """1 right, 0 neutral, -1 wrong."""
    time: float
    """Seconds since 1970."""


Told = Mapping[str, Mapping[int, Label]]
"""What stands of a thought: labeller, place, label."""
Standing = Mapping[str, Told]
"""What stands, by thought."""


def moves(trace: Trace) -> tuple[Move, ...]:
    """The thought in the pieces that are labelled: the lines of what was sampled, whatever its steps; what we wrote."""
    found: list[Move] = []
    for sampled, group in groupby(trace.steps, lambda step: step.sampled):
        text = "".join(step.text for step in group)
        for piece in split(Step(text), str) if sampled else (Step(text),):
            start = found[-1].end if found else 0
            asked = sampled and piece.text.strip() not in ("", OPEN, CLOSE)
            found.append(Move(start, start + len(piece.text), piece.text, asked))
    return tuple(found)


def thought_key(messages: Iterable[Mapping[str, str] | Message], text: str) -> str:
    """What labels know a thought by: 32 hex digits of the conversation and the whole text."""
    read = json.dumps([[[message["role"], message["content"]] for message in messages], text])
    return hashlib.blake2b(read.encode(), digest_size=16).hexdigest()


def _key(trace: Trace) -> str:
    return thought_key(trace.messages, trace.text)


def finished(trace: Trace, told: Mapping[int, Label]) -> bool:
    """Has this labeller said all there is to say? Up to the first wrong move, or to the end."""
    for move in moves(trace):
        if move.asked:
            if move.end not in told:
                return False
            if told[move.end].label < 0:
                return True
    return bool(told)


def labeller_name(name: str) -> str:
    """The name as it is kept. Raises ValueError for one that is empty, long, or has what cannot be seen in it."""
    bare = name.strip()
    if not bare or len(bare) > 64 or not bare.isprintable():
        raise ValueError(f"a labeller is called {name[:80]!r}; give a name of 1 to 64 visible characters")
    return bare


class Labels:
    """The labels of one store. The file is made with the first of them; nothing is ever removed from it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def put(self, trace: Trace, labeller: str, place: int, label: int) -> float:
        """Keep what `labeller` says of the move that ends at `place`; on disk when this returns the time it was said.

        A later label of the same move takes the earlier one's place, which stays in the file.

        Raises:
            ValueError: there is no such move, label or name.
            OSError: the file cannot be written.
        """
        if label not in (-1, 0, 1):
            raise ValueError(f"a label is {label}; it is 1 (right), 0 (neutral) or -1 (wrong)")
        if place not in {move.end for move in moves(trace) if move.asked}:
            raise ValueError(f"this thought has no move to label that ends at character {place}")
        row = (_key(trace), labeller_name(labeller), place, label, now := time.time())
        with self._opened() as connection:
            connection.execute("INSERT INTO labels (thought, labeller, place, label, time) VALUES (?, ?, ?, ?, ?)", row)
        return now

    def undo(self, labeller: str) -> tuple[str, int] | None:
        """Take back the labeller's last label that stands, so that what it replaced stands again; its thought's key
        and its place, or `None` where none is left."""
        with self._opened() as connection:
            found: tuple[str, int] | None = connection.execute(
                "UPDATE labels SET undone = ? WHERE id = (SELECT max(id) FROM labels WHERE labeller = ? AND undone IS"
                " NULL) RETURNING thought, place",
                (time.time(), labeller_name(labeller)),
            ).fetchone()
        return found

    def standing(self, thought: str | None = None) -> dict[str, dict[str, dict[int, Label]]]:
        """Every label that stands, by thought, labeller and place; or those of one thought."""
        found: dict[str, dict[str, dict[int, Label]]] = {}
        if not self.path.exists():
            return found
        where, values = ("", ()) if thought is None else (" AND thought = ?", (thought,))
        with self._opened() as connection:
            # SQLite takes the other columns of a group from the row that has its max(id): the last one said.
            rows = connection.execute(
                "SELECT thought, labeller, place, label, time, max(id) FROM labels WHERE undone IS NULL" + where + " "
                "GROUP BY thought, labeller, place ORDER BY max(id)",
                values,
            )
            for key, labeller, place, label, said, _ in rows:
                found.setdefault(key, {}).setdefault(labeller, {})[place] = Label(label, said)
        return found

    def judged(self, traces: Iterable[Trace], told: Standing | None = None) -> Iterator[Trace]:
        """The traces with people's verdicts along the steps that each has, beside those of other judges.

        A step is 1 where its moves are right, 0 where one is wrong, `None` where all are neutral or were not labelled,
        and the score is the worst of them; of `people`, the mean of what labellers say. Labellers who have not come to
        the first wrong move or the end are left out. The note says who, and when the last label was given. `told` is
        what stands, where the caller has it.
        """
        told = self.standing() if told is None else told
        for trace in traces:
            own = told.get(_key(trace)) if told else None
            yield replace(trace, verdicts={**trace.verdicts, **_verdicts(trace, own)}) if own else trace

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version > VERSION:
                    raise ValueError(f"{self.path} is of a newer forethought; install that")
                if version < VERSION:
                    connection.executescript(_TABLE)
                # A rollback journal, flushed at each commit: what was said is on disk before anybody is told so.
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path} cannot be used: {error} (is it writable, and the disk not full?)") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is damaged: {error}; bring it back from a copy") from error


def _verdicts(trace: Trace, told: Told) -> dict[str, Verdict]:
    whole = {labeller: own for labeller, own in told.items() if finished(trace, own)}
    rows = {labeller: _along(trace, own) for labeller, own in whole.items()}
    found = {
        f"{PERSON}{labeller}": Verdict(_worst(row), row, note=f"{labeller}, {_when(whole[labeller])}")
        for labeller, row in rows.items()
    }
    if rows:
        means = tuple(_mean(column) for column in zip(*rows.values(), strict=True))
        found[PEOPLE] = Verdict(_worst(means), means, note=", ".join(rows))
    return found


def _along(trace: Trace, told: Mapping[int, Label]) -> tuple[float | None, ...]:
    """Labels for the trace's own steps: each has those of the moves that end in it."""
    labels: list[float | None] = []
    start = 0
    for step in trace.steps:
        end = start + len(step.text)
        said = [one.label for place, one in told.items() if start < place <= end]
        labels.append(0.0 if -1 in said else 1.0 if 1 in said else None)
        start = end
    return tuple(labels)


def _worst(labels: Iterable[float | None]) -> float | None:
    return min((label for label in labels if label is not None), default=None)


def _mean(labels: Iterable[float | None]) -> float | None:
    known = [label for label in labels if label is not None]
    return sum(known) / len(known) if known else None


def _when(told: Mapping[int, Label]) -> str:
    last = max(one.time for one in told.values())
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last))
