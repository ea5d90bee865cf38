"""Immutable Parquet files of traces: written whole and flushed before they have a name, read batch by batch."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from forethought.store.schema import SCHEMA, VERSION

SUFFIX = ".parquet"
TEMPORARY = ".tmp"
ABANDONED = 3600.0
"""Seconds after which a temporary file has no writer any more: a shard is written in one go, within seconds."""
ROWS_PER_GROUP = 512
"""What one read holds in memory."""

# Dictionaries help where values repeat; bytes of floats compress better column by column.
_DICTIONARY = ["run", "problem_id", "policy", "tree", "stop", "steps.list.element.stop", "steps.list.element.action"]
_SPLIT = {"steps.list.element.logprobs.list.element": "BYTE_STREAM_SPLIT"}


class NewerError(ValueError):
    """A newer forethought wrote this."""


def new_name() -> str:
    """A name no other writer will choose; names sort by time of writing."""
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}{SUFFIX}"


def parquet_writer(sink: object, schema: pa.Schema) -> pq.ParquetWriter:
    """zstd, with a checksum on every page, so that a flipped bit is found on reading."""
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=_DICTIONARY,
        column_encoding=_SPLIT,
        write_page_checksum=True,
    )


def encode(table: pa.Table, run: str) -> pa.Buffer:
    """The bytes of a shard."""
    sink = pa.BufferOutputStream()
    named = table.replace_schema_metadata({**SCHEMA.metadata, "forethought.run": run})
    with parquet_writer(sink, named.schema) as writer:
        writer.write_table(named, row_group_size=ROWS_PER_GROUP)
    return sink.getvalue()


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to before `publish`; gone at the end, whatever happened."""
    written = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        yield written
    finally:
        with suppress(OSError):
            written.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file's bytes, or a folder's names, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(written: Path, path: Path) -> None:
    """Give a flushed temporary file its name, at once and for good."""
    written.replace(path)
    flush(path.parent)


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(path: Path) -> pq.ParquetFile:
    """The shard, for reading.

    Raises:
        ValueError: it is damaged, is not a shard of ours, or was written by a newer forethought.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"shard {path} cannot be read: {error}") from error
    version = (file.schema_arrow.metadata or {}).get(b"forethought.schema")
    if version is None or not version.isdigit():
        raise ValueError(f"{path} is not a shard of this store: it has no forethought.schema; move it elsewhere")
    if int(version) > VERSION:
        raise NewerError(
            f"{path} has schema {int(version)}; this forethought reads up to {VERSION}: install a newer forethought"
        )
    return file


def run_of(file: pq.ParquetFile, path: Path) -> str:
    """The run that wrote an opened shard.

    Raises:
        ValueError: the file is an export, whose rows may be of many runs.
    """
    run = file.schema_arrow.metadata.get(b"forethought.run")
    if run is None:
        raise ValueError(f"{path} is an export, not a shard; move it elsewhere, and append its traces with a writer")
    return str(run, "utf-8")


def batches(
    path: Path, rows: Sequence[int] | None = None, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The shard's rows, those at the ascending indices `rows` only; row groups without any are not read.

    Raises:
        ValueError: the shard, named, is missing, damaged or newer than this reader.
    """
    file = opened(path)
    start = at = 0
    try:
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            wanted: list[int] = []
            while rows is not None and at < len(rows) and rows[at] < end:
                wanted.append(rows[at] - start)
                at += 1
            if rows is None or wanted:
                table = file.read_row_group(group, columns=columns).combine_chunks()
                yield from (table if rows is None else table.take(pa.array(wanted))).combine_chunks().to_batches()
            start = end
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"shard {path} is damaged: {error}") from error
    finally:
        file.close()
    if rows is not None and at < len(rows):
        raise ValueError(f"shard {path} is damaged: it ends at row {start}, the catalogue knows row {rows[at]}")
