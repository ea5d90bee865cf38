"""The store: what goes in comes out equal, whatever is killed, raced, cut off or in the way."""

from __future__ import annotations

import json
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
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forethought.store import Store, catalogue, open_store, shards
from forethought.store.schema import SCHEMA, to_row, to_traces
from forethought.types import Action, Message, Step, Stop, Trace, Verdict, user

FULL = Trace(
    problem_id="sum/1",
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="1+1? 🤔")),
    steps=(
        Step("two\n", (5, 2**31 - 1, 0), (-0.1, -1e-17, -1 / 3), stop="stop", action="plan", value=0.1 + 0.2),
        Step("", stop="end", sampled=False),
        Step("é\x00", logprobs=(float("-inf"),), stop="length", action="observe", value=-0.0),
    ),
    policy="tiny@3",
    tree="tiny@3/sum/1/7",
    nodes=(1, 4, 9),
    values=(None, 1 / 3, 0.0),
    verdicts={
        "grade": Verdict(1.0, answer="2", note="equal"),
        "prm": Verdict(None, steps=(0.25, None), parts={"clear": 1 / 7, "short": 2.0}, cost=2**40),
    },
)
BARE = Trace("sum/2", (), (), "m")


def traces(count: int, start: int = 0, policy: str = "m@1") -> list[Trace]:
    return [
        Trace(
            problem_id=f"p/{i % 7}",
            messages=user(f"{i}?"),
            steps=(Step(f"a{i}", tokens=tuple(range(i % 5)), stop=get_args(Stop)[i % 5]), Step(f"b{i}")),
            policy=policy,
            tree=f"t/{i // 2}",
            nodes=(i + 1,),
            verdicts={"grade": Verdict(None if i % 4 == 3 else (i % 4) / 2)},
        )
        for i in range(start, start + count)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def fill(store: Store, kept: list[Trace], run: str = "r", **options: int) -> None:
    with store.writer(run, **options) as writer:
        writer.extend(kept)


@pytest.mark.parametrize("trace", [FULL, BARE, *traces(2)], ids=["full", "bare", "plain", "plainer"])
def test_a_trace_reads_back_equal(store: Store, trace: Trace) -> None:
    fill(store, [trace])
    assert list(store.traces()) == [trace]
    assert repr(next(store.traces())) == repr(trace)


def test_every_stop_and_action_survives(store: Store) -> None:
    rows = [
        Trace("p", user("?"), (Step("x", stop=stop, action=action),), "m")
        for stop in get_args(Stop)
        for action in get_args(Action)
    ]
    fill(store, rows)
    assert list(store.traces()) == rows


def test_order_shards_and_groups_of_rows_do_not_show(store: Store) -> None:
    rows = traces(1300)
    fill(store, rows, rows=600)
    assert [pq.read_metadata(path).num_rows for path in store.shards()] == [600, 600, 100]
    assert pq.read_metadata(store.shards()[0]).num_row_groups == 2
    assert list(store.traces()) == rows
    assert list(open_store(store.path).traces(problem="p/3")) == rows[3::7]


def test_a_shard_is_full_by_its_bytes_too(store: Store) -> None:
    fill(store, [replace(trace, steps=(Step("x" * 400),)) for trace in traces(10)], size=1000)
    assert [pq.read_metadata(path).num_rows for path in store.shards()] == [3, 3, 3, 1]


def test_what_is_chosen_is_what_a_plain_filter_chooses(store: Store) -> None:
    first, second = traces(40), traces(40, start=20, policy="m@2")
    fill(store, first, run="a", rows=16)
    fill(store, second, run="b", rows=16)
    rows = [("a", trace) for trace in first] + [("b", trace) for trace in second]

    def same(test: Any, **where: Any) -> None:
        expected = [trace for run, trace in rows if test(run, trace)]
        assert expected
        assert list(store.traces(**where)) == expected
        assert [entry.problem_id for entry in store.entries(**where)] == [trace.problem_id for trace in expected]
        assert list(store.traces(**where, limit=3)) == expected[:3]

    same(lambda run, trace: run == "b", run="b")
    same(lambda run, trace: trace.policy == "m@1", policy="m@1")
    same(lambda run, trace: trace.stop == "end", stop="end")
    same(lambda run, trace: trace.reward is not None and trace.reward >= 0.5, min_reward=0.5)
    same(lambda run, trace: trace.reward is not None and 0 <= trace.reward <= 0.5, min_reward=0, max_reward=0.5)
    same(lambda run, trace: trace.problem_id == "p/1" and run == "a", problem="p/1", run="a")
    assert list(store.traces(stop="error")) == []
    assert list(store.traces(limit=0)) == []


def test_the_catalogue_knows_each_trace(store: Store) -> None:
    fill(store, [FULL])
    (entry,) = store.entries()
    assert entry[:7] == (to_row(FULL).id, "r", "sum/1", "tiny@3", 1.0, 4, "length")
    assert store.show(entry.id) == store.show(entry.id[:5]) == FULL


def test_showing_needs_one_trace(store: Store) -> None:
    fill(store, traces(40))
    for id, named in (("zz", "no trace"), ("", "more than one trace"), ("%", "no trace"), ("_", "no trace")):
        with pytest.raises(ValueError, match=named):
            store.show(id)


def test_a_run_has_each_trace_once(store: Store) -> None:
    rows = traces(6)
    with store.writer("r", rows=4) as writer:
        writer.extend(rows + rows[:2])
    regraded = replace(rows[0], verdicts={"grade": Verdict(0.125)})
    with store.writer("r") as again:
        again.extend([*rows[3:], regraded, *traces(1, start=6)])
    assert (writer.written, writer.duplicates) == (6, 2)
    assert (again.written, again.duplicates) == (1, 4)
    assert list(store.traces()) == traces(7)
    fill(store, rows, run="other")
    assert list(store.traces(run="other")) == rows


@pytest.mark.parametrize(
    "change",
    [
        {"problem_id": "p/9"},
        {"policy": "m@9"},
        {"tree": None},
        {"nodes": (9,)},
        {"messages": user("other?")},
        {"steps": (Step("ab"), Step("c"))},
        {"steps": (Step("a"), Step("b"), Step("c"))},
        {"steps": (Step("a", tokens=(1,)), Step("bc"))},
        {"steps": (Step("a", stop="stop"), Step("bc"))},
    ],
)
def test_whatever_was_sampled_otherwise_is_another_trace(change: dict[str, Any]) -> None:
    trace = Trace("p/1", user("?"), (Step("a"), Step("bc")), "m@1", "t", (1, 2))
    assert to_row(replace(trace, **change)).id != to_row(trace).id
    assert to_row(replace(trace, values=(0.5, 0.5))).id == to_row(trace).id


def test_two_alike_samples_of_one_search_stay_two(store: Store) -> None:
    trace = traces(1)[0]
    fill(store, [replace(trace, nodes=(1,)), replace(trace, nodes=(2,))])
    assert len(list(store.traces())) == 2


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


@pytest.mark.parametrize(
    ("trace", "named"),
    [
        (Trace("p/4", user("\ud83d"), (), "m"), "p/4.*surrogates"),
        (Trace("p/5", user("?"), (Step("x", tokens=(2**31,)),), "m"), "p/5"),
        (Trace("p/6", ({"role": "user", "content": "?", "name": "Bo"},), (), "m"), "p/6.*name"),  # type: ignore[typeddict-unknown-key]
    ],
)
def test_what_a_shard_cannot_hold_is_refused_at_once(store: Store, trace: Trace, named: str) -> None:
    with store.writer("r") as writer:
        with pytest.raises(ValueError, match=named):
            writer.append(trace)
        writer.append(FULL)
    assert list(store.traces()) == [FULL]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"limit": -1}, "limit is -1"),
        ({"stop": "finished"}, "the stops are end, stop, length, budget, error"),
        ({"colour": "red"}, "cannot be chosen by 'colour'"),
    ],
)
def test_a_choice_there_is_not_is_refused(store: Store, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        list(store.traces(**options))


@pytest.mark.parametrize(("run", "options"), [("", {}), ("r", {"rows": 0}), ("r", {"size": 0})])
def test_a_writer_needs_a_name_and_room(store: Store, run: str, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"a run needs a name|holds nothing"):
        store.writer(run, **options)


def test_the_summary_adds_up(store: Store) -> None:
    rows = traces(8)
    fill(store, rows, run="a")
    fill(store, [BARE], run="b")
    summary = store.summary()
    a, b = summary.runs
    assert (a.name, a.traces, a.problems, a.tokens, a.judged) == ("a", 8, 7, 13, 6)
    assert a.reward == pytest.approx(0.5)
    assert (b.name, b.traces, b.tokens, b.judged, b.reward) == ("b", 1, 0, 0, None)
    assert (summary.shards, summary.bytes) == (2, sum(path.stat().st_size for path in store.shards()))
    assert summary.damaged == ()


def test_export_as_json_lines(store: Store, tmp_path: Path) -> None:
    fill(store, [replace(FULL, steps=FULL.steps[:2]), *traces(5)])
    assert store.export(tmp_path / "out" / "all.jsonl", min_reward=0.5) == 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "all.jsonl").read_text().splitlines()]
    assert list(lines[0]) == SCHEMA.names
    assert lines[0]["messages"] == list(FULL.messages)
    assert lines[0]["steps"][0]["logprobs"] == list(FULL.steps[0].logprobs)
    assert lines[0]["verdicts"][1]["parts"] == {"clear": 1 / 7, "short": 2.0}
    assert [line["text"] for line in lines[1:]] == ["a1b1", "a2b2"]


def test_export_as_parquet_is_itself_a_shard(store: Store, tmp_path: Path) -> None:
    fill(store, [FULL, *traces(700)], rows=300)
    assert store.export(tmp_path / "all.parquet", "parquet", limit=500) == 500
    other = open_store(tmp_path / "other")
    batches = list(shards.batches(tmp_path / "all.parquet"))
    found = [trace for batch in batches for trace in to_traces(batch)]
    assert found == [FULL, *traces(499)]
    fill(other, found)
    assert list(other.traces()) == found
    (tmp_path / "all.parquet").rename(other.path / "shards" / "all.parquet")
    with pytest.warns(UserWarning, match=r"all.parquet is an export, not a shard"):
        assert list(open_store(other.path).traces()) == found


def test_a_failed_export_leaves_nothing(store: Store, tmp_path: Path) -> None:
    fill(store, traces(3))
    with pytest.raises(ValueError, match="no format 'csv'"):
        store.export(tmp_path / "x.csv", "csv")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="cannot write"):
        store.export(tmp_path / "file" / "x.jsonl")
    store.shards()[0].unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        store.export(tmp_path / "x.jsonl")
    assert not list(tmp_path.glob("x.jsonl*"))


def test_shards_load_with_datasets_unchanged(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    datasets = pytest.importorskip("datasets", reason="datasets is a development extra")
    fill(store, [FULL, *traces(20)], rows=8)
    files = [str(path) for path in store.shards()]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == SCHEMA.names
    assert loaded["problem_id"][:] == [trace.problem_id for trace in store.traces()]
    row = loaded[0]
    assert row["messages"] == list(FULL.messages)
    assert [tuple(step["tokens"]) for step in row["steps"]] == [step.tokens for step in FULL.steps]
    assert [tuple(step["logprobs"]) for step in row["steps"]] == [step.logprobs for step in FULL.steps]
    assert (row["reward"], row["text"], row["tokens"]) == (1.0, FULL.text, 4)
