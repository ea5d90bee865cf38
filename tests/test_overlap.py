"""Which test questions stand in training data: runs of words, by file and by store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Cli, command_line
from store_traces import fill

from forethought.problems.overlap import Overlap, overlaps, strings
from forethought.store import open_store
from forethought.types import Step, Trace, user

LONG = "A farmer has 12 hens, and every hen lays 3 eggs on each of 7 days; how many eggs are that?"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    return command_line(capsys, monkeypatch, tmp_path)


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_of_words_is_found_however_it_is_spelt() -> None:
    text = "so:  a FARMER has 12 hens and every hen lays\n3 eggs on -- each"
    (found,) = overlaps([("e:1", LONG)], [("t:1", "nothing"), ("t:2", text)], n=5)
    # the first 12 of the question's 21 words are there in a row: 8 of its 17 runs of 5
    assert (found.question, found.source, found.words) == ("e:1", "t:2", "a farmer has 12 hens")
    assert found.share == pytest.approx(8 / 17)
    assert overlaps([("e:1", LONG)], [("t:2", text)], n=13) == []


def test_the_text_with_most_of_it_is_named_and_the_order_is_the_questions() -> None:
    questions = [("e:1", "one two three"), ("e:2", "four five six")]
    texts = [("t:1", "four five six"), ("t:2", "one two, five six"), ("t:3", "one two three four")]
    assert overlaps(questions, texts, n=2) == [
        Overlap("e:1", "t:3", 1.0, "one two"),
        Overlap("e:2", "t:1", 1.0, "four five"),
    ]


def test_a_short_question_counts_by_its_whole() -> None:
    questions = [("e:1", "624 + 259 = ?"), ("e:2", "624 - 259 = ?")]
    assert overlaps(questions, [("t:1", "we saw that 624+259=883")]) == [Overlap("e:1", "t:1", 1.0, "624 + 259 =")]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        overlaps([("e:1", "a")], [], n=0)
    with pytest.raises(ValueError, match="e:1: the question has no word"):
        overlaps([("e:1", "?!")], [])


def test_every_text_of_a_row_counts() -> None:
    assert list(strings({"a": "x", "b": [{"content": "y"}, 3, None], "c": ("z",)})) == ["x", "y", "z"]


def test_the_command_tells_which_and_its_status_whether(cli: Cli, tmp_path: Path) -> None:
    tests = lines(tmp_path / "test.jsonl", {"question": LONG}, {"question": "What else is there to ask of a farmer?"})
    clean = lines(tmp_path / "clean.jsonl", {"text": "Nothing of the kind."})
    dirty = lines(tmp_path / "dirty.jsonl", {"text": "Nothing."}, {"messages": [{"role": "user", "content": LONG}]})
    said = cli("overlap", clean, tests)
    assert (said.status, said.out) == (0, "")
    assert said.err == "0 of 2 questions share 13 words in a row, or all of theirs\n"
    said = cli("overlap", dirty, tests)
    assert said.status == 1
    assert said.out.splitlines()[1].split()[:3] == ["test.jsonl:1", "dirty.jsonl:2", "100%"]
    assert said.err.startswith("1 of 2 questions")


def test_a_store_is_training_data_too(cli: Cli, tmp_path: Path) -> None:
    tests = lines(tmp_path / "test.jsonl", {"asked": LONG}, {"asked": "the thought says these very words"})
    fill(
        open_store(tmp_path / "store"), [Trace("p/7", user(LONG), (Step("The thought says these very words."),), "m@1")]
    )
    said = cli("overlap", tmp_path / "store", tests, "--question", "asked")
    assert said.status == 1
    assert [line.split()[1:3] for line in said.out.splitlines()[1:]] == [["p/7", "100%"]] * 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("a.jsonl", "none.jsonl"), "there is no file none.jsonl"),
        (("none", "a.jsonl"), "none"),
        (("a.jsonl", "a.jsonl", "--question", "q"), "no text in column 'q'; it has 'question'"),
        (("a.jsonl", "empty.jsonl"), "empty.jsonl holds no row"),
    ],
)
def test_what_is_missing_is_named(cli: Cli, tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    lines(tmp_path / "a.jsonl", {"question": LONG})
    lines(tmp_path / "empty.jsonl")
    assert why in cli("overlap", *words).error
