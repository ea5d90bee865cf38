"""The store when something goes wrong: whatever is killed, raced, cut off or in the way, nothing flushed is lost."""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_traces import FULL, fill, traces

from forethought.store import Store, catalogue, open_store, shards
from forethought.types import Step, Trace


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def test_the_catalogue_is_rebuilt_from_the_shards(store: Store) -> None:
    fill(store, traces(20), run="a", rows=8)
    fill(store, traces(5), run="b")
    entries, whole = list(store.entries()), list(store.traces())
    for file in store.path.glob("catalogue.sqlite*"):
        file.unlink()
    again = open_store(store.path)
    assert list(again.traces()) == whole
    assert [entry[:7] for entry in again.entries()] == [entry[:7] for entry in entries]
    assert [run[0:1] + run[2:] for run in again.summary().runs] == [run[0:1] + run[2:] for run in store.summary().runs]
    assert again.check() == ()


def test_a_writer_killed_between_rename_and_commit_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, traces(3))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("forethought.store.catalogue.add", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(store, traces(3, start=3))
    assert list(store.traces()) == traces(3)
    assert list(open_store(store.path).traces()) == traces(6)


def test_a_process_killed_while_it_writes_leaves_no_broken_shard(store: Store) -> None:
    code = (
        "import os, sys\nfrom forethought.store import open_store, shards\n"
        "from forethought.types import Step, Trace, user\n"
        "shards.flush = lambda path: os._exit(9)\n"
        "with open_store(sys.argv[1]).writer('r') as writer:\n"
        "    writer.append(Trace('p', user('?'), (Step('x'),), 'm'))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.path)], check=False).returncode == 9
    (left,) = (store.path / "shards").iterdir()
    assert left.suffix == ".tmp"
    assert list(open_store(store.path).traces()) == []
    assert left.exists(), "its writer may still be at work"
    os.utime(left, (1, 1))
    open_store(store.path)
    assert not left.exists()


@pytest.mark.parametrize("catalogued", [True, False])
@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped", "foreign"])
def test_a_damaged_shard_is_named_and_the_rest_stays(store: Store, damage: str, catalogued: bool) -> None:
    fill(store, traces(6), rows=3)
    hurt, sound = store.shards()
    data = bytearray(hurt.read_bytes())
    if damage == "truncated":
        hurt.write_bytes(data[:-20])
    elif damage == "missing":
        hurt.unlink()
    elif damage == "flipped":
        text = pq.read_metadata(hurt).row_group(0).column(pq.read_metadata(hurt).num_columns - 1)
        data[text.data_page_offset + text.total_compressed_size - 3] ^= 0xFF
        hurt.write_bytes(data)
    else:
        pq.write_table(pa.table({"x": list(range(9))}), hurt)
    if not catalogued:
        for file in store.path.glob("catalogue.sqlite*"):
            file.unlink()
    if (damage, catalogued) in (("flipped", True), ("missing", False)):
        again = open_store(store.path)  # as long as it was; and nobody knows of it any more
    else:
        with pytest.warns(UserWarning, match=hurt.name):
            again = open_store(store.path)
        assert hurt.name in again.summary().damaged[0]
    if catalogued:
        assert hurt.name in again.check()[0]
        with pytest.raises(ValueError, match=hurt.name):
            list(again.traces())
    else:
        assert list(again.traces()) == traces(3, start=3)
    assert next(shards.batches(sound)).num_rows == 3


def test_a_newer_store_is_refused(store: Store) -> None:
    fill(store, traces(3))
    (path,) = store.shards()
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"forethought.schema": b"2"}), path)
    with pytest.raises(ValueError, match=r"has schema 2; this forethought reads up to 1: install a newer"):
        list(store.traces())
    for file in store.path.glob("catalogue.sqlite*"):
        file.unlink()
    with pytest.raises(ValueError, match="has schema 2"):
        open_store(store.path)
    path.unlink()
    open_store(store.path)
    with catalogue.connected(store.path / "catalogue.sqlite") as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(ValueError, match=r"catalogue.sqlite has schema 2"):
        open_store(store.path)


def test_a_broken_catalogue_says_what_to_do(store: Store) -> None:
    fill(store, traces(2))
    for file in store.path.glob("catalogue.sqlite*"):
        file.unlink()
    (store.path / "catalogue.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ValueError, match="delete it, it is built again"):
        open_store(store.path)


WORKER = """
import sys
from forethought.store import open_store
from forethought.types import Step, Trace, user
with open_store(sys.argv[1]).writer("shared", rows=10) as writer:
    for i in range(int(sys.argv[2]), int(sys.argv[2]) + 60):
        writer.append(Trace(f"p/{i:02d}", user("?"), (Step(f"a{i}"),), "m"))
print(writer.written + writer.duplicates)
"""


def test_two_processes_append_at_once_and_no_trace_twice(tmp_path: Path) -> None:
    folder = tmp_path / "new"  # both make it
    arguments = [sys.executable, "-c", WORKER, str(folder)]
    workers = [subprocess.Popen([*arguments, start], stdout=subprocess.PIPE, text=True) for start in ("0", "30")]
    assert [worker.communicate(timeout=60)[0].strip() for worker in workers] == ["60", "60"]
    store = open_store(folder)
    assert sorted(trace.problem_id for trace in store.traces()) == [f"p/{i:02d}" for i in range(90)]
    assert sum(pq.read_metadata(path).num_rows for path in store.shards()) == 90
    assert store.check() == ()


def test_opening_waits_for_another_that_makes_the_same_store(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "catalogue.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.1, other.close)
    release.start()
    assert list(open_store(tmp_path).traces()) == []
    release.join()


def test_threads_race_for_the_same_traces(store: Store) -> None:
    gate = threading.Barrier(4)

    def work() -> None:
        gate.wait()
        fill(store, traces(50), rows=10)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.traces(), key=lambda trace: trace.nodes) == traces(50)
    assert sum(pq.read_metadata(path).num_rows for path in store.shards()) == 50


@pytest.mark.parametrize(
    ("most", "named"),
    [
        (40_000, r"cannot write 3 traces to .*shards: File too large; they are kept in memory"),
        (100, r"store cannot be used: disk I/O error"),
    ],
)
def test_a_full_disk_loses_nothing_and_names_the_folder(store: Store, most: int, named: str) -> None:
    draw = random.Random(0)
    large = [replace(t, steps=(Step("x", tuple(draw.randrange(2**31) for _ in range(9_000))),)) for t in traces(3, 3)]
    fill(store, traces(3))
    writer = store.writer("r")
    writer.extend(large)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(OSError, match=named):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(store.traces()) == traces(3)
    assert [path.suffix for path in (store.path / "shards").iterdir()] == [".parquet"]
    writer.flush()
    assert list(store.traces()) == [*traces(3), *large]


def test_a_catalogue_that_cannot_be_written_is_an_os_error(store: Store) -> None:
    writer = store.writer("r")
    writer.append(traces(1)[0])
    hidden = store.path.rename(store.path.with_name("away"))
    with pytest.raises(OSError, match=str(store.path)):
        writer.flush()
    hidden.rename(store.path)
    writer.flush()
    assert list(store.traces()) == traces(1)


def test_a_folder_that_cannot_be_a_store_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ValueError, match="is a file; a store is a folder"):
        open_store(file)
    with pytest.raises(OSError, match="cannot make a store in"):
        open_store(file / "below")


def test_an_error_in_the_block_still_writes_what_was_sampled(store: Store) -> None:
    def sampled() -> Iterator[Trace]:
        yield FULL
        raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"), store.writer("r") as writer:
        writer.extend(sampled())
    assert list(store.traces()) == [FULL]
