"""Generated problems: deterministic, disjoint, worked out right, and labelled step by step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from forethought.problems import GENERATORS, Task, letters, open_task
from forethought.problems.addition import scratchpad
from forethought.problems.generate import split_of
from forethought.thought.marks import thought_of
from forethought.types import Problem, Step, Stop, Trace

SPECS = [
    "addition",
    "addition:digits=1-5",
    "sums",
    "sums:terms=4,most=20",
    "chain",
    "chain:steps=6,modulus=11",
    "countdown",
    "countdown:numbers=4",
    "letters",
    "letters:words=1-6",
    "products",
    "products:digits=1-4,by=calculator",
]


def trace(problem: Problem, *texts: str, stop: Stop = "end") -> Trace:
    return Trace(problem.id, problem.messages, tuple(Step(text, stop=stop) for text in texts), "test@0")


def content(problem: Problem) -> str:
    """The problem as a set of numbers, so that turning operands round makes no new one."""
    meta = problem.meta
    if "a" in meta:
        return str(sorted((meta["a"], meta["b"])))
    if "words" in meta:
        return str(sorted(meta["words"]))
    if "moves" in meta:
        return problem.messages[0]["content"]
    return str((sorted(meta["numbers"]), meta.get("target")))


def worked(task: Task, problem: Problem) -> str:
    assert task.worked is not None
    return task.worked(problem)


@pytest.mark.parametrize("spec", SPECS)
def test_worked_examples_are_right_and_plain(spec: str) -> None:
    task = open_task(spec)
    for problem in task.load("train", count=100) + task.load("test", count=20):
        text = worked(task, problem)
        assert text.isascii()
        assert problem.messages[0]["content"].isascii()
        assert task.grade(problem, trace(problem, text)).score == 1.0
        assert problem.id.startswith(f"{spec}/")


@pytest.mark.parametrize("spec", SPECS)
def test_items_depend_on_seed_and_index_alone(spec: str) -> None:
    load = open_task(spec).load
    assert load("train", count=30, seed=1)[:7] == load("train", count=7, seed=1)
    assert load("train", count=30) == load("train", count=30, seed=0)
    assert [p.messages for p in load("train", count=30)] != [p.messages for p in load("train", count=30, seed=1)]
    problems = load("train", count=30) + load("train", count=30, seed=1) + load("test", count=30)
    assert len({problem.id for problem in problems}) == 90


def test_items_are_the_same_on_every_machine() -> None:
    """What a seed means is part of every log: a change here makes old numbers incomparable."""
    first = {spec: open_task(spec).load("train", count=2)[1].messages[0]["content"] for spec in GENERATORS}
    assert first == {
        "addition": "1 + 1 = ?",
        "chain": "Mod 7: a=5, b=a-5, c=b+4, d=c*2. d=?",
        "countdown": "Use 10, 2 and 6 once each with + - * / to make 18.",
        "letters": "Last letters of itu humo is?",
        "products": "85 * 72 = ?",
        "sums": "6 + 1 + 6 = ?",
    }


@pytest.mark.parametrize("spec", SPECS)
def test_train_and_test_share_no_content(spec: str) -> None:
    task = open_task(spec)
    train = {content(p) for seed in range(2) for p in task.load("train", count=400, seed=seed)}
    test = {content(p) for p in task.load("test", count=400, seed=1)}
    assert len(test) > 5
    assert not train & test


def test_levels_share_one_split() -> None:
    """A problem of one level may be drawn at another: it must not change sides."""
    test = {content(p) for p in open_task("addition:digits=1").load("test", count=100)}
    train = {content(p) for p in open_task("addition:digits=1-2").load("train", count=600)}
    assert not train & test


def test_a_tenth_is_test() -> None:
    share = sum(split_of("sums", str(i)) == "test" for i in range(5000)) / 5000
    assert 0.08 < share < 0.12


def test_lengths_are_uniform() -> None:
    lengths = [p.meta["digits"] for p in open_task("addition:digits=1-5").load("train", count=1000)]
    assert all(140 < lengths.count(n) < 260 for n in range(1, 6))
    assert all(
        len(str(p.meta["a"])) == p.meta["digits"] for p in open_task("addition:digits=4").load("train", count=50)
    )


def test_the_scratchpad_is_the_papers() -> None:
    first, *_, last = written = scratchpad(624, 259, 3)
    assert written == ["624+259,C:0", "62+25,3C:1", "6+2,83C:0", ",883C:0", "0883"]
    assert scratchpad(624, 259, 3, "pair") == [first, "2+5,3C:1", "6+2,83C:0", ",883C:0", last]
    assert scratchpad(9, 8, 1) == ["9+8,C:0", ",7C:1", "17"]


def test_the_style_of_the_lines_is_an_option() -> None:
    (problem,) = open_task("addition:digits=3").load("train", count=1)
    rest, pair = (worked(open_task(f"addition:digits=3,lines={lines}"), problem) for lines in ("rest", "pair"))
    assert len(pair) < len(rest)
    assert worked(open_task("addition:digits=3"), problem) == rest
    with pytest.raises(ValueError, match="option lines is 'both'; it must be rest"):
        open_task("addition:lines=both")


def test_thoughts_of_sums_and_chains() -> None:
    sums, chain = open_task("sums:terms=3"), open_task("chain:steps=2")
    problem = Problem("p", (), "24", {"terms": 3, "most": 12, "numbers": [7, 12, 5]})
    assert thought_of(worked(sums, problem)) == "7 + 12 = 19\n19 + 5 = 24"
    problem = Problem("p", (), "5", {"steps": 2, "modulus": 7, "start": 3, "moves": ["*4", "-7"]})
    assert thought_of(worked(chain, problem)) == "b=3*4=12=5\nc=5-7=-2=5"
    problem = chain.load("train", count=1)[0]
    assert len(thought_of(worked(chain, problem)).splitlines()) == 2


def test_letters_are_read_word_by_word_and_labelled_line_by_line() -> None:
    task = open_task("letters:words=3")
    problem = Problem("p", (), "krn", {"level": 3, "words": ["lomak", "tir", "basun"]})
    assert thought_of(worked(task, problem)) == "lomak: k\ntir: kr\nbasun: krn"
    assert task.labels is not None
    lines = (
        "<think>\n",
        "lomak: k\n",
        "Now the next one.\n",
        "tir: ki\n",
        "basun: kin\n",
        "</think>\n",
        "\\boxed{kin}",
    )
    assert task.labels(problem, trace(problem, *lines)) == (None, 1.0, None, 0.0, 0.0, None, 0.0)
    assert task.labels(problem, trace(problem, "lomak: k\n", "tir: k", stop="length")) == (1.0, None)


def test_letters_have_every_number_of_words_and_no_answer_that_a_grader_refuses() -> None:
    problems = open_task("letters:words=2-4").load("train", count=900)
    lengths = [len(p.meta["words"]) for p in problems]
    assert all(230 < lengths.count(n) == [p.meta["level"] for p in problems].count(n) < 370 for n in (2, 3, 4))
    assert all(p.answer == "".join(word[-1] for word in p.meta["words"]) for p in problems)
    drawn = iter(["nan", "inf", "krn"])
    assert _letters_of(drawn) == "krn"
    assert next(drawn, None) is None


def _letters_of(answers: Iterator[str]) -> str:
    """The answer of the draft that comes of words with these last letters, one draw after another."""

    class Scripted(random.Random):
        def __init__(self) -> None:
            super().__init__(0)
            self.letters = iter("".join(answers))

        def choice(self, options: Any) -> Any:
            return 3 if isinstance(options, range) else next(self.letters)

        def randint(self, a: int, b: int) -> int:
            return 1

    return letters._draw(Scripted(), words=range(3, 4)).answer


@pytest.mark.parametrize("spec", ["addition", "sums:terms=4", "chain:steps=5", "letters"])
def test_true_steps_are_labelled_true(spec: str) -> None:
    task = open_task(spec)
    assert task.labels is not None
    for problem in task.load("train", count=20):
        lines = worked(task, problem).splitlines(keepends=True)
        labels = task.labels(problem, trace(problem, *lines))
        assert labels[0] is None  # <think>
        assert labels[-2] is None  # </think>
        assert set(labels[1:-2]) == {1.0}
        assert labels[-1] == 1.0
        assert task.labels(problem, trace(problem, "".join(lines))) == (1.0,)


def labelled(*texts: str, stop: Stop = "end") -> tuple[float | None, ...]:
    labels = open_task("sums").labels
    assert labels is not None
    problem = Problem("p", (), "24", {"terms": 3, "most": 12, "numbers": [7, 12, 5]})
    return labels(problem, trace(problem, *texts, stop=stop))


def test_labels_find_the_first_mistake_and_what_builds_on_it() -> None:
    texts = ("<think>\n7 + 12 = 18\n", "18 + 5 = 23\n", "Wait, that is wrong.\n", "7 + 12 = 19\n", "19+5 = 24\n")
    assert labelled(*texts, "</think>\n\\boxed{24}") == (0.0, 0.0, None, 1.0, 1.0, 1.0)
    assert labelled("</think>\n\\boxed{23}") == (0.0,)


def test_a_line_belongs_to_the_step_that_finishes_it() -> None:
    assert labelled("7 + 12", " = 19\n19 + 5 =", " 25\n") == (None, 1.0, 0.0)
    assert labelled("7 + 12 = 19\n19 + 5 = 23\n") == (0.0,)


def test_a_line_that_a_limit_cut_off_is_not_judged() -> None:
    assert labelled("7 + 12 = 19\n", "19 + 5 = 2", stop="length") == (1.0, None)
    assert labelled("7 + 12 = 19\n", "19 + 5 = 2", stop="end") == (1.0, 0.0)


def test_arithmetic_is_not_answered_by_the_question() -> None:
    task = open_task("addition")
    problem = task.load("train", count=1)[0]
    asked = problem.messages[0]["content"].removesuffix(" = ?")
    verdict = task.grade(problem, trace(problem, f"<think>\n</think>\n\\boxed{{{asked}}}"))
    assert verdict.score == 0.0
    spaced = " ".join(problem.answer)
    assert task.grade(problem, trace(problem, f"\\boxed{{{spaced}}}")).score == 0.0


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("adition", "did you mean 'addition'.*addition, chain, countdown, letters, products, sums, gsm8k"),
        ("zebra", "there is no task 'zebra'; tasks are"),
        ("data.csv", ".jsonl, .json, .parquet"),
        ("addition:digit=3", "no option 'digit'; it has digits=a length"),
        ("addition:digits=0", "digits is '0'; it must be a length .* from 1 to 20"),
        ("addition:digits=5-3", "digits is '5-3'"),
        ("addition:digits", "digits is without a value"),
        ("sums:terms=3,most=x", "most is 'x'; it must be a whole number from 2"),
        ("countdown:numbers=5", "numbers is '5'; it must be a whole number from 3 to 4"),
        ("chain:steps=26", "from 1 to 25"),
        ("letters:words=4-2", "words is '4-2'; it must be a number .* from 1 to 20"),
        ("gsm8k", "gsm8k needs the path"),
    ],
)
def test_a_spec_that_means_nothing_is_refused(spec: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        open_task(spec)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_load_refuses_a_split_or_count_that_is_none(name: str) -> None:
    load = open_task(name).load
    with pytest.raises(ValueError, match="split is 'dev'"):
        load("dev", count=1)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match="count is 0"):
        load("train", count=0)


def test_a_level_without_a_problem_in_the_split_is_refused() -> None:
    task = open_task("sums:terms=5,most=2")
    assert {split_of("sums", "+".join("1" * (5 - n) + "2" * n)) for n in range(6)} == {"train"}
    assert task.load("train", count=1)
    with pytest.raises(ValueError, match="no test problem"):
        task.load("test", count=1)
