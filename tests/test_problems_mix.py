"""Mixtures: by weight, without repeats, each part graded by its own task."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from forethought.problems import open_task
from forethought.problems.mix import normal, parts
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


def test_weights_and_specs_are_read() -> None:
    assert parts("2*chain:steps=4 + addition:digits=3-4 + .5 * gsm8k:a/b") == [
        (2.0, "chain:steps=4"),
        (1.0, "addition:digits=3-4"),
        (0.5, "gsm8k:a/b"),
    ]
