"""One run's pen: gathers traces and writes them shard by shard."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from forethought.store import catalogue, shards
from forethought.store.schema import Row, sampled_tokens, to_row, to_table
from forethought.types import Trace


class Writer:
    """Appends traces to a store under the name of a run. Any number of writers, in any process; one per thread.

    Traces wait in memory until `rows` of them or `size` bytes are there, or until `flush`; leaving the `with` block
    flushes, after an error too. What was flushed is on disk and catalogued; what was not is lost when the process is
    killed, so flush where a run could not sample again.
    """

    def __init__(self, folder: Path, run: str, rows: int = 4096, size: int = 64 << 20) -> None:
        if not run:
            raise ValueError("a run needs a name; give one such as 'grpo-2026-01-31'")
        if rows < 1 or size < 1:
            raise ValueError(f"a shard of {rows} rows and {size} bytes holds nothing; give at least 1 of each")
        self.folder = folder
        self.run = run
        self.rows = rows
        self.size = size
        self.written = 0
        """Traces on disk by now."""
        self.duplicates = 0
        """Traces kept out, the run having them already."""
        self._waiting: dict[str, Row] = {}
        self._bytes = 0

    def append(self, trace: Trace) -> None:
        """Take one trace. One that the run already has is kept out and counted in `duplicates`.

        Raises:
            ValueError: the trace holds what a shard cannot.
            OSError: a shard was due and could not be written; nothing is lost, the next `flush` tries again.
        """
        row = to_row(trace)
        if row.id in self._waiting:
            self.duplicates += 1
            return
        self._waiting[row.id] = row
        self._bytes += len(row.tokens) + len(row.logprobs) + sum(len(step.text) for step in trace.steps)
        if len(self._waiting) >= self.rows or self._bytes >= self.size:
            self.flush()

    def extend(self, traces: Iterable[Trace]) -> None:
        """Take many."""
        for trace in traces:
            self.append(trace)

    def flush(self) -> None:
        """Write what waits as one shard, and commit it.

        Raises:
            OSError: the folder cannot be written or the disk is full; nothing is lost, the next `flush` tries again.
        """
        while self._waiting and not self._commit():
            pass

    def _commit(self) -> bool:
        """Write and enter one shard; False where another writer of this run came first with some of its traces."""
        with catalogue.connected(self.folder / "catalogue.sqlite") as connection:
            self._drop(catalogue.known(connection, self.run, list(self._waiting)))
            rows = list(self._waiting.values())
            if rows and not self._publish(connection, rows):
                return False
        self.written += len(rows)
        self._waiting.clear()
        self._bytes = 0
        return True

    def _publish(self, connection: sqlite3.Connection, rows: list[Row]) -> bool:
        data = shards.encode(to_table(rows, self.run), self.run)
        path = self.folder / "shards" / shards.new_name()
        shard = catalogue.Shard(0, path.name, self.run, hashlib.sha256(data).hexdigest(), len(rows), data.size)
        try:
            with shards.temporary(path) as written:
                written.write_bytes(data)
                shards.flush(written)
                with catalogue.committing(connection):
                    if late := catalogue.known(connection, self.run, list(self._waiting)):
                        self._drop(late)
                        return False
                    # Killed between this and the commit, the shard is found and entered by the next `open_store`.
                    shards.publish(written, path)
                    catalogue.add(connection, shard, map(_entry, rows))
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {len(rows)} traces to {path.parent}: {error.strerror or error}; they are kept in "
                "memory: make room or make the folder writable, then flush again",
            ) from error
        return True

    def _drop(self, ids: set[str]) -> None:
        self.duplicates += len(ids)
        for known in ids:
            del self._waiting[known]

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()


def _entry(row: Row) -> tuple[str, str, str, float | None, int, str]:
    trace = row.trace
    return row.id, trace.problem_id, trace.policy, trace.reward, sampled_tokens(trace), trace.stop
