"""What people said of thoughts: kept label by label, beside other judges' verdicts, and learned from."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from forethought.scaling.agreement import cohen_kappa
from forethought.scaling.labellers import krippendorff_alpha
from forethought.store import Store, find_store, open_store
from forethought.store.labels import FILE, Label, finished, moves, thought_key
from forethought.types import Step, Trace, Verdict, user

TEXT = "<think>\nadd them\n\n3 + 4 = 7\n</think>\n\\boxed{7}"
SPOKEN = Trace("sum/1", user("3 + 4?"), (Step(TEXT),), "tiny@1", verdicts={"grade": Verdict(1.0, answer="7")})
PLACES = [17, 28, len(TEXT)]
"""Ends of the three moves there are to label."""


def kept(folder: Path, *traces: Trace) -> Store:
    store = open_store(folder)
    with store.writer("drawn") as writer:
        writer.extend(traces or (SPOKEN,))
    return store


def say(store: Store, labeller: str, *labels: int, trace: Trace = SPOKEN) -> None:
    """Labels for the first so many moves."""
    asked = [move.end for move in moves(trace) if move.asked]
    for place, label in zip(asked, labels, strict=False):
        store.labels.put(trace, labeller, place, label)


def test_a_person_reads_lines_and_labels_those_that_claim_something() -> None:
    found = moves(SPOKEN)
    assert "".join(move.text for move in found) == TEXT
    assert [TEXT[move.start : move.end] for move in found] == [move.text for move in found]
    assert [move.text for move in found if move.asked] == ["add them\n", "3 + 4 = 7\n", "\\boxed{7}"]
    assert [move.end for move in found if move.asked] == PLACES
    written = replace(SPOKEN, steps=(Step("4\nis\n"), Step("a tool\nsays\n", sampled=False)))
    assert [(move.text, move.asked) for move in moves(written)] == [
        ("4\n", True),
        ("is\n", True),
        ("a tool\nsays\n", False),
    ]


def test_labels_stand_beside_other_verdicts_with_who_and_when(tmp_path: Path) -> None:
    store = kept(tmp_path)
    before = time.time()
    say(store, "alice", 1, 0, -1)
    say(store, "bob", 1, 1, 1)
    (trace,) = store.traces()
    assert trace.steps == SPOKEN.steps
    assert trace.verdicts["grade"] == SPOKEN.verdicts["grade"]
    assert set(trace.verdicts) == {"grade", "person:alice", "person:bob", "people"}
    assert trace.verdicts["person:alice"].score == 0.0
    assert trace.verdicts["person:alice"].note.startswith("alice, 20")
    assert trace.verdicts["people"].note == "alice, bob"
    (entry,) = store.entries()
    assert store.show(entry.id) == trace
    told = store.labels.standing()[thought_key(SPOKEN.messages, TEXT)]
    assert {who: [own[place].label for place in PLACES] for who, own in told.items()} == {
        "alice": [1, 0, -1],
        "bob": [1, 1, 1],
    }
    assert all(before <= one.time <= time.time() for own in told.values() for one in own.values())


def test_an_export_has_what_people_said(tmp_path: Path) -> None:
    other = replace(SPOKEN, problem_id="sum/2", messages=user("3+4"))
    store = kept(tmp_path / "store", SPOKEN, other)
    say(store, "alice", 1, 1, 1)
    store.export(tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [[said["judge"] for said in row["verdicts"]] for row in rows] == [
        ["grade", "person:alice", "people"],
        ["grade"],
    ]
    store.export(tmp_path / "all.parquet", "parquet")
    assert (tmp_path / "all.parquet").stat().st_size


def test_labels_hold_however_the_thought_was_cut(tmp_path: Path) -> None:
    """The same text in other steps, under another run: a label is of the text."""
    pieces = tuple(Step(line) for line in TEXT.splitlines(keepends=True))
    cut = replace(SPOKEN, steps=pieces, policy="other@2")
    store = kept(tmp_path, SPOKEN, cut)
    say(store, "alice", 1, 0, -1)
    whole, lines = store.traces()
    assert whole.verdicts["person:alice"].steps == (0.0,)
    assert lines.verdicts["person:alice"].steps == (None, 1.0, None, None, None, 0.0)


def test_all_people_together_say_the_mean(tmp_path: Path) -> None:
    pieces = tuple(Step(line) for line in ("a\n", "b\n", "c\n"))
    trace = replace(SPOKEN, steps=pieces)
    store = kept(tmp_path, trace)
    say(store, "alice", 1, -1, trace=trace)
    say(store, "bob", 1, 1, 1, trace=trace)
    say(store, "carol", 0, 1, 0, trace=trace)
    (found,) = store.traces()
    assert [round(label or 0, 3) for label in found.verdicts["people"].steps] == [1.0, 0.667, 1.0]
    assert found.verdicts["people"].score == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("labels", "whole"),
    [((), False), ((1,), False), ((1, 1), False), ((1, 0, 1), True), ((-1,), True), ((0, 0, 0), True)],
)
def test_a_thought_counts_once_it_is_labelled_to_its_first_error_or_its_end(
    labels: tuple[int, ...], whole: bool, tmp_path: Path
) -> None:
    store = kept(tmp_path)
    say(store, "alice", *labels)
    told = {place: Label(label, 0.0) for place, label in zip(PLACES, labels, strict=False)}
    assert finished(SPOKEN, told) == whole
    (trace,) = store.traces()
    assert ("person:alice" in trace.verdicts) == whole
    if labels == (0, 0, 0):
        assert trace.verdicts["person:alice"].score is None


def test_undo_brings_back_what_stood_before_and_forgets_nothing(tmp_path: Path) -> None:
    store = kept(tmp_path)
    say(store, "alice", 1, 1)
    say(store, "bob", -1)
    store.labels.put(SPOKEN, "alice", PLACES[0], -1)
    key = thought_key(SPOKEN.messages, TEXT)

    def stands() -> list[int]:
        return [one.label for one in store.labels.standing(key).get(key, {}).get("alice", {}).values()]

    assert stands() == [1, -1]
    assert store.labels.undo("alice") == (key, PLACES[0])
    assert stands() == [1, 1]
    assert store.labels.undo("alice") == (key, PLACES[1])
    assert store.labels.undo("alice") == (key, PLACES[0])
    assert stands() == []
    assert store.labels.undo("alice") is None
    assert list(store.labels.standing(key)[key]) == ["bob"]
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT count(*) FROM labels").fetchone() == (4,)


def test_a_label_is_on_disk_when_its_time_is_told(tmp_path: Path) -> None:
    """The process is killed the moment after."""
    kept(tmp_path)
    script = (
        "import os, signal, sys\nfrom forethought.store import open_store\nstore = open_store(sys.argv[1])\n"
        "(trace,) = store.traces()\nstore.labels.put(trace, 'alice', int(sys.argv[2]), -1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path, str(PLACES[0])], env=dict(os.environ), timeout=120)
    assert done.returncode == -9
    (trace,) = find_store(tmp_path).traces()
    assert trace.verdicts["person:alice"].score == 0.0


@pytest.mark.parametrize(
    ("told", "named"),
    [
        (("alice", PLACES[0], 2), "a label is 2"),
        (("alice", 8, 1), "no move to label that ends at character 8"),
        ((" ", PLACES[0], 1), "a labeller is called"),
        (("a\x00b", PLACES[0], 1), "a labeller is called"),
        (("x" * 65, PLACES[0], 1), "visible characters"),
    ],
)
def test_what_is_no_label_is_refused(told: tuple[str, int, int], named: str, tmp_path: Path) -> None:
    store = kept(tmp_path)
    with pytest.raises(ValueError, match=named):
        store.labels.put(SPOKEN, *told)
    assert not store.labels.path.exists()


def test_a_file_that_is_no_labels_is_named_and_left_alone(tmp_path: Path) -> None:
    store = kept(tmp_path)
    store.labels.path.write_bytes(b"not a database, but somebody's file" * 100)
    with pytest.raises(ValueError, match=r"labels\.sqlite is damaged"):
        list(store.traces())
    assert store.labels.path.read_bytes().startswith(b"not a database")


def test_a_process_reward_model_learns_from_what_people_said(tmp_path: Path) -> None:
    """From the page's file to the targets of a head: each line's label at its last token."""
    verifier = pytest.importorskip("forethought.recipes.verifier")
    from forethought.engines.local.tiny import build_tokenizer
    from forethought.thought.tokens import render, worked_step

    tokenizer = build_tokenizer()
    first, second = (
        Trace(f"sum/{number}", user(f"{number}?"), (worked_step(tokenizer, "a=1\nso b=2\nc=3\n"),), "tiny@1")
        for number in range(2)
    )
    store = kept(tmp_path, first, second)
    say(store, "alice", 1, 0, -1, trace=first)
    say(store, "alice", 1, 1, 1, trace=second)
    say(store, "bob", 1, -1, trace=first)

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    student = SimpleNamespace(tokenizer=tokenizer, name="tiny", engine=SimpleNamespace(decode=decode))
    for judge, wanted in (
        ("person:alice", {"sum/0": [1.0, 1.0, 0.0], "sum/1": [1.0, 1.0, 1.0]}),
        ("people", {"sum/0": [1.0, 0.0, 0.0], "sum/1": [1.0, 1.0, 1.0]}),
    ):
        config = verifier.Config(model="tiny", kind="process", labels=judge, store=str(tmp_path))
        traces = verifier.judged_traces(config, None, student, (store, "drawn"), fresh=True)
        assert [len(trace.steps) for trace in traces] == [3, 3]
        units = verifier._units([[trace] for trace in traces], config, tokenizer)
        for trace, (datum,) in zip(traces, units, strict=True):
            _, spans = render(tokenizer, trace.messages, trace.steps)
            assert [datum.labels[end - 1] for _, end in spans] == wanted[trace.problem_id]
            assert sum(datum.mask) == 3


def test_kappa_and_alpha_are_those_of_the_textbooks() -> None:
    assert cohen_kappa({(1, 1): 20, (1, -1): 5, (-1, 1): 10, (-1, -1): 15}) == pytest.approx(0.4)
    assert cohen_kappa({}) is None
    assert cohen_kappa({(1, 1): 3}) is None
    # Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C: four observers, twelve units.
    rows = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    said = [[row[unit] for row in rows if row[unit] != "."] for unit in range(12)]
    assert krippendorff_alpha(said) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([["1"], []]) is None
    assert krippendorff_alpha([[1, 1], [-1, -1]]) == 1.0
