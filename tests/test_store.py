"""The store: what goes in comes out equal, once, and as it was chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from store_traces import BARE, FULL, fill, traces

from forethought.store import Store, open_store, shards
from forethought.store.schema import SCHEMA, to_row, to_traces
from forethought.types import Action, Step, Stop, Trace, Verdict, user


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


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
