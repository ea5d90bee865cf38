"""The store itself: a folder of shards and their catalogue."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack

import pyarrow as pa

from forethought.store import catalogue, shards
from forethought.store.catalogue import Entry, Run, Where
from forethought.store.labels import Labels, Standing, thought_key
from forethought.store.schema import SCHEMA, to_traces, verdict_column
from forethought.store.writer import Writer
from forethought.types import Trace

Format = Literal["jsonl", "parquet"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a store holds."""

    path: Path
    runs: tuple[Run, ...]
    """The oldest first."""
    shards: int
    bytes: int
    damaged: tuple[str, ...]
    """What is wrong with which shard, in words."""


class Store:
    """Every trace ever sampled, in one folder; made by `open_store`. Threads and processes may share the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: tuple[str, ...] = ()
        """What `recover` last found wrong with which shard, in words."""
        self.labels = Labels(path)
        """What people said of the thoughts."""
        self._catalogue = path / "catalogue.sqlite"
        self._folder = path / "shards"

    def writer(self, run: str, *, rows: int = 4096, size: int = 64 << 20) -> Writer:
        """A pen for `run`, which may be a new one or one to go on with; a shard holds up to `rows` traces or about
        `size` bytes."""
        return Writer(self.path, run, rows, size)

    def entries(
        self, *, limit: int | None = None, after: tuple[int, int] | None = None, **where: Unpack[Where]
    ) -> Iterator[Entry]:
        """What the catalogue knows of the traces chosen, in the order they were written; no shard is opened.

        `after` is the (shard, row) of an entry: only those behind it.
        """
        for _, found in self._chosen(where, limit, after):
            yield from found

    def traces(self, *, limit: int | None = None, **where: Unpack[Where]) -> Iterator[Trace]:
        """The traces chosen, in the order they were written, as they were written and with what people have
        said of them since; memory holds 512 at a time.

        Raises:
            ValueError: a condition there is not, or a damaged shard, by name: nothing is skipped in silence.
        """
        for batch in self._batches(where, limit):
            yield from to_traces(batch)

    def show(self, id: str) -> Trace:
        """The trace of this id, or of the only one that begins so.

        Raises:
            ValueError: there is none, or more than one.
        """
        pattern = id.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        with catalogue.connected(self._catalogue) as connection:
            places = connection.execute(
                "SELECT traces.id, name, row FROM traces JOIN shards ON shards.id = shard"
                " WHERE traces.id LIKE ? ESCAPE '\\' GROUP BY traces.id LIMIT 2",
                (pattern,),
            ).fetchall()
        if len(places) != 1:
            problem = "more than one trace" if places else "no trace"
            raise ValueError(f"{problem} in {self.path} has an id that begins with {id!r}; `entries` lists them")
        _, name, row = places[0]
        (batch,) = shards.batches(self._folder / name, [row])
        return to_traces(self._judged(batch, self.labels.standing()))[0]

    def tree(self, id: str, *, run: str | None = None) -> list[Trace]:
        """The traces of one search: by its name, or by the id of one of its traces, or how that begins.

        Raises:
            ValueError: there is none, or the trace belongs to no search.
        """
        runs: Where = {} if run is None else {"run": run}
        if "/" in id:  # a tree's name is policy/problem/seed; a trace's id is hexadecimal
            name: str | None = id
            known = {(entry.policy, entry.problem_id) for entry in self.entries(**runs)}
            asked = [(policy, problem) for policy, problem in known if id.startswith(f"{policy}/{problem}/")]
        else:
            trace = self.show(id)
            name, asked = trace.tree, [(trace.policy, trace.problem_id)]
            if name is None:
                raise ValueError(f"trace {id} belongs to no tree; `forethought store show` prints it")
        places: list[Where] = [{**runs, "policy": policy, "problem": problem} for policy, problem in asked]
        kept = [trace for where in places for trace in self.traces(**where) if trace.tree == name]
        if not kept:
            of_run = "" if run is None else f" of run {run!r}"
            raise ValueError(
                f"no trace{of_run} in {self.path} belongs to the tree {name!r}; `store show` names a trace's"
            )
        return kept

    def summary(self) -> Summary:
        """Runs, sizes, and what was damaged when the store was opened; `check` looks again, at every byte."""
        with catalogue.connected(self._catalogue) as connection:
            runs, known = catalogue.runs(connection), catalogue.shards(connection)
        return Summary(self.path, tuple(runs), len(known), sum(shard.bytes for shard in known), self.damaged)

    def shards(self) -> list[Path]:
        """The catalogued files, oldest first: what `datasets.load_dataset("parquet", data_files=...)` takes."""
        with catalogue.connected(self._catalogue) as connection:
            return [self._folder / shard.name for shard in catalogue.shards(connection)]

    def check(self) -> tuple[str, ...]:
        """Read every shard whole and hold it against its sha256; what is wrong, in words."""
        wrong = list(self.recover())
        with catalogue.connected(self._catalogue) as connection:
            known = catalogue.shards(connection)
        for shard in known:
            path = self._folder / shard.name
            if path.exists() and path.stat().st_size == shard.bytes and shards.digest(path) != shard.sha256:
                wrong.append(f"{path} has changed since it was written: its sha256 is not {shard.sha256}")
        self.damaged = tuple(wrong)
        return self.damaged

    def export(
        self,
        path: str | Path,
        format: Format = "jsonl",
        *,
        limit: int | None = None,
        **where: Unpack[Where],
    ) -> int:
        """Write the traces chosen to one file and return how many; columns are those of the shards.

        The file appears whole or not at all. In JSON Lines `parts` is an object.

        Raises:
            ValueError: a format there is not, or a damaged shard.
        """
        target, count = Path(path), 0
        if format not in ("jsonl", "parquet"):
            raise ValueError(f"there is no format {format!r}; export to 'jsonl' or 'parquet'")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with shards.temporary(target) as written:
                if format == "parquet":
                    with shards.parquet_writer(written, SCHEMA) as writer:
                        for batch in self._batches(where, limit):
                            writer.write_batch(batch.replace_schema_metadata(SCHEMA.metadata))
                            count += batch.num_rows
                else:
                    with written.open("w", encoding="utf-8") as lines:
                        for batch in self._batches(where, limit):
                            lines.writelines(_line(row) for row in batch.to_pylist())
                            count += batch.num_rows
                shards.flush(written)
                shards.publish(written, target)
        except OSError as error:
            raise OSError(error.errno, f"cannot write {target}: {error.strerror or error}") from error
        return count

    def recover(self) -> tuple[str, ...]:
        """Enter shards that a killed writer left uncatalogued, drop its temporary files, and say what is damaged.

        `open_store` does this. A shard of a newer schema is refused.
        """
        now = time.time()
        for left in self._folder.glob(f"*{shards.TEMPORARY}"):
            with suppress(FileNotFoundError):
                if now - left.stat().st_mtime > shards.ABANDONED:
                    left.unlink()
        with catalogue.connected(self._catalogue) as connection:
            known = {shard.name for shard in catalogue.shards(connection)}
            wrong = self._damage()
            for path in sorted(self._folder.glob(f"*{shards.SUFFIX}")):
                if path.name in known:
                    continue
                try:
                    shard, rows = _read(path)
                except shards.NewerError:
                    raise
                except ValueError as error:
                    wrong.append(str(error))
                    continue
                with catalogue.committing(connection):
                    # The writer may only have been slow: it holds the lock from the rename to the commit.
                    if not connection.execute("SELECT 1 FROM shards WHERE name = ?", (path.name,)).fetchone():
                        catalogue.add(connection, shard, rows)
        self.damaged = tuple(wrong)
        return self.damaged

    def _damage(self) -> list[str]:
        """Catalogued shards whose file is not there, or not as long as it was."""
        wrong = []
        with catalogue.connected(self._catalogue) as connection:
            known = catalogue.shards(connection)
        for shard in known:
            path = self._folder / shard.name
            if not path.exists():
                wrong.append(f"{path} with {shard.rows} traces is missing")
            elif (size := path.stat().st_size) != shard.bytes:
                wrong.append(f"{path} is damaged: {size} bytes where {shard.bytes} were written")
        return wrong

    def _chosen(
        self, where: Where, limit: int | None, after: tuple[int, int] | None = None
    ) -> Iterator[tuple[Path, list[Entry]]]:
        """Shard by shard, so that neither memory nor a lock grows with the store."""
        if limit is not None and limit < 0:
            raise ValueError(f"limit is {limit}; it must be 0 or more, or None for all")
        catalogue.conditions(where)
        with catalogue.connected(self._catalogue) as connection:
            known = catalogue.shards(connection)
        if after is not None:
            at = next((index for index, shard in enumerate(known) if shard.id == after[0]), len(known))
            known = known[at:]
        for shard in known:
            if limit == 0:
                return
            with catalogue.connected(self._catalogue) as connection:
                found = catalogue.entries(connection, shard.id, where)
            if after is not None and shard.id == after[0]:
                found = [entry for entry in found if entry.row > after[1]]
            found = found[:limit]
            if found:
                yield self._folder / shard.name, found
            limit = None if limit is None else limit - len(found)

    def _batches(self, where: Where, limit: int | None) -> Iterator[pa.RecordBatch]:
        labelled = self.labels.standing()
        for path, found in self._chosen(where, limit):
            for batch in shards.batches(path, [entry.row for entry in found]):
                yield self._judged(batch, labelled)

    def _judged(self, batch: pa.RecordBatch, labelled: Standing) -> pa.RecordBatch:
        """The batch with people's verdicts; unchanged, at little cost, where nobody labelled a thought of it."""
        asked = (batch.column(name).to_pylist() for name in ("messages", "text"))
        if not labelled or not any(thought_key(*read) in labelled for read in zip(*asked, strict=True)):
            return batch
        column = verdict_column(list(self.labels.judged(to_traces(batch), labelled)))
        return batch.set_column(SCHEMA.get_field_index("verdicts"), SCHEMA.field("verdicts"), column)


def _line(row: dict[str, object]) -> str:
    verdicts = [{**verdict, "parts": json.loads(verdict["parts"])} for verdict in row["verdicts"]]  # type: ignore[attr-defined]
    return json.dumps({**row, "verdicts": verdicts}, ensure_ascii=False) + "\n"


def _read(path: Path) -> tuple[catalogue.Shard, list[tuple[str, str, str, float | None, int, str]]]:
    """A shard as the catalogue would know it; read whole, so that damage is found before it is entered."""
    file = shards.opened(path)
    try:
        run = shards.run_of(file, path)
    finally:
        file.close()
    rows = []
    for batch in shards.batches(path):
        columns = (
            batch.column(name).to_pylist() for name in ("id", "problem_id", "policy", "reward", "tokens", "stop")
        )
        rows += list(zip(*columns, strict=True))
    return catalogue.Shard(0, path.name, run, shards.digest(path), len(rows), path.stat().st_size), rows


def find_store(path: str | Path) -> Store:
    """The store in this folder, or that of the run here. Never makes one, as `open_store` would.

    Raises:
        ValueError: there is none.
    """
    for folder in (Path(path) / "store", Path(path)):
        if (folder / "shards").is_dir():
            return open_store(folder)
    raise ValueError(f"{path} holds no store; give the folder of a run, or its store")


def open_store(path: str | Path) -> Store:
    """The store in this folder, made where there is none.

    What a killed writer left is put in order; a missing catalogue is built again. A damaged shard is warned of by
    name, and whatever would read it raises; the rest stays readable.

    Raises:
        ValueError: the path is a file, or a newer forethought wrote this store.
        OSError: the folder cannot be made or written.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a store is a folder")
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make a store in {folder}: {error.strerror}") from error
    catalogue.create(folder / "catalogue.sqlite")
    store = Store(folder)
    for damage in store.recover():
        warnings.warn(
            f"{damage}. Bring it back from a copy; or give it up: move it away and delete {folder}/catalogue.sqlite*, "
            "which is built again from the other shards",
            stacklevel=2,
        )
    return store
