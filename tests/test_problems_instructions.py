"""Instructions: each is checked by what it says, and every problem can be solved."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hostile_answers import hostile_answers

from forethought.problems import open_task
from forethought.problems.instructions import CHECKS, DEMANDS, grade, words
from forethought.types import Problem, Step, Stop, Trace, Verdict


def judged(told: list[Any], text: str, stop: Stop = "end", credit: Any = "all") -> Verdict:
    problem = Problem("p", (), json.dumps(told))
    return grade(problem, Trace("p", (), (Step(text, stop=stop),), "m@0"), credit=credit)


@pytest.mark.parametrize(
    ("name", "value", "right", "wrong"),
    [
        ("contains", ["river", "anchor"], "The RIVER, an anchor.", "rivers and an anchor"),
        ("times", ["river", 2], "A river. River!", "river river river"),
        ("starts", "river", "River of mine", "A river"),
        ("ends", "that is all", "So. That is all", "That is all."),
        ("json", ["a", "b"], '{"a": "x", "b": "y"}', '{"b": "y", "a": "x"}'),
        ("json", ["a"], ' {"a": "x"}\n', '```json\n{"a": "x"}\n```'),
        ("json", ["a"], '{"a": "x"}', '{"a": 1, "x": "y"}'),
        ("json", ["a"], '{"a": "x"}', '{"a": ' * 3_000),
        ("bullets", 2, "- one\n\n- two", "- one\n* two"),
        ("bullets", 2, "- one\n- two", "Here:\n- one\n- two"),
        ("script", "Greek", "Και τότε, 12!", "Και then"),
        ("script", "Cyrillic", "Потом", "Kyrill"),
        ("lines", 2, "one\n\ntwo", "one\ntwo\nthree"),
        ("at least", 3, "it's one, two", "it's 1 2 3 two"),
        ("at most", 2, "one two", "one two three"),
        ("avoids", ["river"], "Rivers", "a River"),
        ("lower", None, "small 1!", "Small"),
        ("upper", None, "BIG 1!", "BIg"),
        ("no commas", None, "a b", "a, b"),
        ("quoted", None, '"a b"', 'he said "a b"'),
    ],
)
def test_an_instruction_is_what_it_says(name: str, value: Any, right: str, wrong: str) -> None:
    assert judged([[name, value]], right).parts == {name: 1.0}
    assert judged([[name, value]], f"<think>\n{wrong}\n</think>\n{right}").score == 1.0
    assert judged([[name, value]], wrong) == Verdict(0.0, (), wrong.strip(), f"not followed: {name}", {name: 0.0})


def test_every_check_is_drawn_and_stands_in_the_question() -> None:
    problems = open_task("instructions:checks=1-6").load("train", count=200)
    assert {name for problem in problems for name in problem.meta["checks"]} == set(CHECKS)
    for problem in problems:
        told = json.loads(problem.answer)
        assert told[0][0] in DEMANDS
        assert problem.meta["level"] == len(told) == problem.messages[0]["content"].count("\n- ")
        assert all(CHECKS[name][0](value) in problem.messages[0]["content"] for name, value in told)


@pytest.mark.parametrize("count", range(1, 7))
def test_every_problem_can_be_solved(count: int) -> None:
    task = open_task(f"instructions:checks={count}")
    assert task.worked is not None
    for split in ("train", "test"):
        for problem in task.load(split, count=100):
            verdict = task.grade(problem, Trace(problem.id, (), (Step(task.worked(problem)),), "m@0"))
            assert verdict.score == 1.0, (problem.messages, task.worked(problem), verdict)
            assert len(verdict.parts) == count


def test_a_share_is_given_where_asked() -> None:
    told = [["upper", None], ["no commas", None], ["at least", 3]]
    assert judged(told, "ONE, TWO", credit="share").score == pytest.approx(1 / 3)
    assert judged(told, "ONE, TWO").score == 0.0
    assert judged(told, "ONE, TWO").note == "not followed: no commas, at least"


@pytest.mark.parametrize(
    "text", ["", " \n", "12 ...", "\u00bd \U0001d7d4", "<think>\nONE TWO THREE", "<think>\nx\n</think>\n"]
)
def test_a_text_without_a_word_follows_nothing(text: str) -> None:
    assert judged([["upper", None], ["no commas", None]], text, credit="share").score == 0.0


def test_an_engines_fault_is_not_judged() -> None:
    assert judged([["no commas", None]], "one", stop="error").score is None


def test_words_of_any_script_are_counted() -> None:
    assert words("It's 3 o\u2019clock, Και_Ω!") == ["it's", "o\u2019clock", "και", "ω"]


def test_no_hostile_answer_follows_everything() -> None:
    task = open_task("instructions:checks=1-3")
    problems = task.load("test", count=12)
    for (_, answer), problem in itertools.product(hostile_answers(15), problems):
        assert task.grade(problem, Trace(problem.id, (), (Step(answer),), "m@0")).score == 0.0, answer[:100]


def test_more_than_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="checks is 2-9; at most 6"):
        open_task("instructions:checks=2-9")
