"""Mixtures: by weight, without repeats, each part graded by its own task."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from forethought.problems import open_task
from forethought.problems.mix import sources
from forethought.problems.overlap import normal
from forethought.types import Problem, Step, Trace

SPEC = "mix:3*chain:steps=4 + addition:digits=3"


def lines(path: Path, *questions: str) -> Path:
    path.write_text("".join(json.dumps({"question": asked, "answer": "1"}) + "\n" for asked in questions))
    return path


def asked(problems: list[Problem]) -> list[str]:
    return [problem.messages[0]["content"] for problem in problems]


def test_parts_are_drawn_by_weight() -> None:
    counts = Counter(problem.meta["part"] for problem in open_task(SPEC).load("train", count=400))
    assert 270 < counts[0] < 330
    assert counts[0] + counts[1] == 400


def test_an_item_depends_on_its_place_alone() -> None:
    task = open_task(SPEC)
    problems = task.load("train", count=150)
    assert problems[:20] == task.load("train", count=20)
    assert asked(problems[:20]) != asked(task.load("train", count=20, seed=1))
    assert len({problem.id for problem in problems}) == 150
    assert not set(asked(problems)) & set(asked(task.load("test", count=50)))


def test_each_part_is_graded_taught_and_labelled_by_its_own_task() -> None:
    task = open_task("mix:countdown + addition:digits=2")
    assert task.worked is not None
    assert task.labels is not None
    for problem in task.load("train", count=12):
        trace = Trace(problem.id, problem.messages, (Step(task.worked(problem)),), "m@0")
        assert task.grade(problem, trace).score == 1.0
        assert task.labels(problem, trace) == ((None,) if problem.meta["part"] == 0 else (1.0,))


def test_a_question_stands_once_however_it_is_spelt(tmp_path: Path) -> None:
    first = lines(tmp_path / "a.jsonl", "What is  one?", "What is two?")
    second = lines(tmp_path / "b.jsonl", "what IS one", "What is 3?")
    task = open_task(f"mix:{first} + {second}")
    assert task.finite
    assert sorted(map(normal, asked(task.load("train")))) == ["what is 3", "what is one", "what is two"]
    assert normal("3 + 5 = ?") != normal("3 * 5 = ?")


def test_a_part_that_runs_out_leaves_the_others(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", "One?", "Two?")
    task = open_task(f"mix:9*{file} + addition:digits=3")
    counts = Counter(problem.meta["part"] for problem in task.load("train", count=30))
    assert counts == {0: 2, 1: 28}
    small = open_task("mix:addition:digits=1").load("test", count=500)
    assert len(small) == len(set(asked(small))) < 100


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("mix:", "empty part"),
        ("mix:chain + ", "empty part|no task"),
        ("mix:0*chain", "weight of 'chain' is 0"),
        ("mix:1.2.3*chain", r"is 1\.2\.3; it must be a number above 0"),
        ("mix:chain + mix:addition", "no mixture as its part"),
        ("mix:chain + adition", "did you mean 'addition'"),
        ("mix:chain:steps=99", "from 1 to 25"),
    ],
)
def test_a_mixture_that_means_nothing_is_refused(spec: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        open_task(spec)


def read(text: str) -> list[tuple[float, str]]:
    return [(source.weight, source.spec) for source in sources(text, "question", "answer")[0]]


def test_weights_and_specs_are_read() -> None:
    assert read("2*chain:steps=4 + addition:digits=3-4 + .5 * gsm8k:a/b") == [
        (2.0, "chain:steps=4"),
        (1.0, "addition:digits=3-4"),
        (0.5, "gsm8k:a/b"),
    ]


def test_a_range_of_levels_is_a_part_each_that_share_the_weight() -> None:
    assert read("3*chain:steps=2..4,modulus=5 + gym:chain_sum,level=0..1") == [
        (1.0, "chain:steps=2,modulus=5"),
        (1.0, "chain:steps=3,modulus=5"),
        (1.0, "chain:steps=4,modulus=5"),
        (0.5, "gym:chain_sum,level=0"),
        (0.5, "gym:chain_sum,level=1"),
    ]
    task = open_task("mix:chain:steps=2..4")
    assert task.parts == tuple((f"chain:steps={level}", 1 / 3) for level in (2, 3, 4))
    assert {problem.meta["level"] for problem in task.load("train", count=30)} == {2, 3, 4}
    for spec in ("mix:chain:steps=4..2", "mix:chain:steps=1..2,modulus=5..7", "mix:chain:steps=1..999"):
        with pytest.raises(ValueError, match="must have one range, from the lower level to the higher, of at most 100"):
            open_task(spec)


FILE = """
- task: chain:steps=2..3
  weight: 2
- {task: "%s", question: q, answer: a}
"""


@pytest.mark.parametrize("kind", ["yaml", "under", "jsonl"])
def test_a_file_says_what_a_mixture_is_made_of(tmp_path: Path, kind: str) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"q": "What is one?", "a": "1"}\n')
    rows = [{"task": "chain:steps=2..3", "weight": 2}, {"task": str(own), "question": "q", "answer": "a"}]
    path = tmp_path / ("mixture.jsonl" if kind == "jsonl" else "mixture.yaml")
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(("parts:" if kind == "under" else "") + FILE % own)
    task = open_task(f"mix:path={path}")
    assert task.parts == (("chain:steps=2", 1.0), ("chain:steps=3", 1.0), (str(own), 1.0))
    problems = task.load("train", count=40)
    assert [problem.answer for problem in problems if problem.meta["part"] == 2] == ["1"]


HELD_OUT = "A train leaves at nine with forty men and comes back at ten with as many as it had, less two. How many?"


def test_what_an_evaluation_file_asks_is_left_out_of_training_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines(tmp_path / "held.jsonl", HELD_OUT, "What is one?")
    lines(tmp_path / "own.jsonl", f"Hear this. {HELD_OUT.upper()} Say it.", "what is ONE", "What is two?", "What is?")
    (tmp_path / "mixture.yaml").write_text(f"- task: {tmp_path}/own.jsonl\n- unlike: {tmp_path}/held.jsonl\n")
    task = open_task(f"mix:path={tmp_path}/mixture.yaml")
    assert asked(task.load("train")) == ["What is two?", "What is?"]
    assert "own.jsonl/0: left out, as held.jsonl:1 asks the same" in caplog.text
    assert len(task.load("test")) == 4
    lines(tmp_path / "own.jsonl", "What is one?")
    with pytest.raises(ValueError, match="has no train problem that stands in none of the files it is to be unlike"):
        task.load("train")


def test_a_question_counts_by_as_long_a_run_as_the_file_says(tmp_path: Path) -> None:
    lines(tmp_path / "held.jsonl", HELD_OUT)
    lines(tmp_path / "own.jsonl", "A ship leaves at nine with forty men. Why?", "What is two?")
    rows = f"- task: {tmp_path}/own.jsonl\n- unlike: {tmp_path}/held.jsonl\n"
    for words, left in (("", 2), ("  words: 6\n", 1), ("  words: 7\n", 2)):
        (tmp_path / "mixture.yml").write_text(rows + words)
        assert len(open_task(f"mix:path={tmp_path}/mixture.yml").load("train")) == left


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "m.yaml holds no list, neither by itself nor under `parts`"),
        ("- a\nb: [", "m.yaml:2: not YAML"),
        ("- unlike: {held}", "m.yaml names no part"),
        ("- task: chain\n- 3", "m.yaml:2: 3 is neither a part .* nor a file to be unlike"),
        ("- task: chain\n- {task: chain, wieght: 2}", "m.yaml:2: it knows no wieght; beside task it may have weight"),
        ("- task: chain\n- {task: chain, weight: 0}", "m.yaml:2: weight is 0; it must be a number above 0"),
        ("- task: chain\n- {task: chain, weight: .nan}", "m.yaml:2: weight is nan"),
        ("- task: chain\n- {task: chain, weight: yes}", "m.yaml:2: weight is True"),
        ("- task: chain\n- task: 3", "m.yaml:2: task is 3; it must be a text"),
        ("- task: chain\n-\n  task: chian", "m.yaml:3: there is no task 'chian'; did you mean 'chain'"),
        ("- task: chain\n- task: chain:steps=9..2", "m.yaml:2: mix: 'chain:steps=9..2' must have one range"),
        ("- task: chain\n- task: mix:chain", "m.yaml:2: mix: a mixture has no mixture"),
        ("- task: chain\n- unlike: none.jsonl", "m.yaml:2: there is no file none.jsonl"),
        ("- task: chain\n- {unlike: '{held}', question: q}", "m.yaml:2: held.jsonl:1: there is no text in column 'q'"),
        ("- task: chain\n- {unlike: '{held}', words: 0}", "m.yaml:2: n is 0; a run has at least 1 word"),
        ("- task: chain\n- {unlike: '{held}', words: x}", "m.yaml:2: words is 'x'; it must be a whole number"),
    ],
)
def test_a_file_that_is_no_mixture_is_refused_with_the_line(tmp_path: Path, text: str, why: str) -> None:
    lines(tmp_path / "held.jsonl", "One?")
    (tmp_path / "m.yaml").write_text(text.replace("{held}", str(tmp_path / "held.jsonl")))
    with pytest.raises(ValueError, match=why):
        open_task(f"mix:path={tmp_path}/m.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.yaml cannot be read"):
        open_task(f"mix:path={tmp_path}/none.yaml")
    with pytest.raises(ValueError, match=r"is neither .jsonl nor .yaml"):
        open_task(f"mix:path={lines(tmp_path / 'mixture.txt', 'One?')}")
