"""reasoning-gym behind an allow-list: same index, same problem; its own answers are right; no scorer is trusted."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
from collections.abc import Iterator

import pytest
from hostile_answers import hostile_answers

from forethought.problems import gym, open_task
from forethought.problems.gym_tasks import ALLOWED, AUDITED, OWN, REFUSED
from forethought.problems.workers import Died, Worker
from forethought.types import Problem, Step, Stop, Trace, Verdict


def installed() -> str:
    try:
        return importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        return "none"


with_gym = pytest.mark.skipif(installed() != AUDITED, reason=f"reasoning-gym {AUDITED} is not installed")


@pytest.fixture(scope="module", autouse=True)
def workers_end() -> Iterator[None]:
    yield
    gym.close()


def judged(spec: str, problem: Problem, answer: str, stop: Stop = "end") -> Verdict:
    return open_task(spec).grade(
        problem, Trace(problem.id, problem.messages, (Step(f"<answer>{answer}</answer>", stop=stop),), "m@0")
    )


def test_every_task_of_the_package_is_allowed_ours_or_refused_for_a_reason() -> None:
    assert len(ALLOWED) + len(OWN) + len(REFUSED) == len({*ALLOWED, *OWN, *REFUSED}) == 106
    assert not ALLOWED & set(OWN)


@with_gym
def test_the_lists_are_the_packages_own_names() -> None:
    datasets = pytest.importorskip("reasoning_gym.factory").DATASETS
    assert {*ALLOWED, *OWN, *REFUSED} == set(datasets)


@with_gym
@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("gym:n_queens", "runs the answer as code"),
        ("gym:coin_flip", "gives 1 to the answer 0"),
        ("gym:chain_sun", "did you mean chain_sum"),
        ("gym", "there is no such task"),
        ("gym:chain_sum,level=-1", "whole number from 0"),
        ("gym:chain_sum,size=3", "no option 'size'"),
    ],
)
def test_a_task_that_is_not_to_be_had_says_why(spec: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        open_task(spec)


def test_another_version_than_the_audited_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.0")
    with pytest.raises(ValueError, match=r"audited, and there is 0.2.0: pip install 'forethought\[gym\]'"):
        open_task("gym:chain_sum")


@with_gym
def test_a_level_that_the_task_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="at level 99: its levels are 0 to 10"):
        open_task("gym:chain_sum,level=99").load("train", count=1)
    with pytest.raises(ValueError, match="at level 3: rotation must be"):  # a level that its own check refuses
        open_task("gym:caesar_cipher,level=3").load("train", count=1)


@with_gym
def test_levels_make_longer_sums() -> None:
    lengths = [
        sum(
            len(problem.messages[0]["content"])
            for problem in open_task(f"gym:chain_sum,level={level}").load("train", count=8)
        )
        for level in (0, 4, 9)
    ]
    assert lengths == sorted(set(lengths))


@with_gym
def test_an_item_depends_on_its_place_alone_and_train_and_test_share_none() -> None:
    task = open_task("gym:chain_sum")
    train, test = task.load("train", count=60), task.load("test", count=20)
    assert train[:7] == task.load("train", count=7)
    assert train[:7] != task.load("train", count=7, seed=1)
    asked = [{problem.messages[0]["content"] for problem in problems} for problems in (train, test)]
    assert not asked[0] & asked[1]


@with_gym
def test_two_processes_make_the_same_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("isomorphic_strings", "ransom_note")
    made = []
    for seed in ("1", "2"):
        gym.close()
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        made.append([open_task(f"gym:{name}").load("train", count=3) for name in names])
    assert made[0] == made[1]


@with_gym
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted([*ALLOWED, *OWN]))
def test_every_task_gives_its_own_answers_1_and_junk_less(name: str) -> None:
    problems = open_task(f"gym:{name}").load("train", count=4)
    for problem in problems:
        right = judged(f"gym:{name}", problem, problem.answer)
        assert right.score == 1.0, (problem.answer, right)
    assert len({problem.messages[0]["content"] for problem in problems}) > 1
    scores = [judged(f"gym:{name}", problems[0], junk).score for junk in ("", "nan", "xyz", "9**9**9**9", "{", "\x00")]
    assert scores == [0.0] * 6


@with_gym
@pytest.mark.parametrize(
    "name", ["chain_sum", "maze", "syllogism", "number_sorting", "prime_factorization", "pool_matrix"]
)
def test_the_packages_own_answer_is_right(name: str) -> None:
    problem = open_task(f"gym:{name}").load("test", count=1)[0]
    assert judged(f"gym:{name}", problem, problem.answer).score == 1.0
    assert judged(f"gym:{name}", problem, problem.answer, stop="error").score is None
    assert judged(f"gym:{name}", problem, "").score == 0.0


@with_gym
def test_partial_credit_counts_only_where_asked() -> None:
    problem = open_task("gym:chain_sum").load("train", count=1)[0]
    padded = f"it is {problem.answer}"
    assert judged("gym:chain_sum", problem, padded).score == 0.0
    share = judged("gym:chain_sum,credit=share", problem, padded).score
    assert share is not None
    assert 0 < share < 1


@with_gym
@pytest.mark.parametrize(("name", "right"), [("countdown", "(2+3)*7"), ("puzzle24", "4*(2+4*1)")])
def test_countdowns_are_judged_by_our_own_evaluator(name: str, right: str) -> None:
    meta = {"level": 0, "index": 1, "numbers": [2, 3, 7] if name == "countdown" else [4, 2, 4, 1]}
    problem = Problem("p", (), "?", {**meta, "target": 35 if name == "countdown" else 24})
    assert judged(f"gym:{name}", problem, right).score == 1.0
    assert judged(f"gym:{name}", problem, "24").score == 0.0
    assert judged(f"gym:{name}", problem, "__import__('os').abort()").score == 0.0
    made = open_task(f"gym:{name}").load("train", count=1)[0]
    assert made.meta["target"] == 24 or name == "countdown"
    assert len(made.meta["numbers"]) >= 3


@pytest.mark.parametrize(
    ("told", "score", "note"),
    [
        ("1.0", 1.0, "reasoning-gym"),
        ("0.5", 0.5, "reasoning-gym"),
        ("null", 0.0, "the scorer raised"),
        ("NaN", 0.0, "the scorer says nan, which is no share"),
        ("Infinity", 0.0, "the scorer says inf, which is no share"),
        ("1.5", 0.0, "the scorer says 1.5, which is no share"),
        ("-1", 0.0, "the scorer says -1, which is no share"),
    ],
)
def test_what_a_scorer_may_say(told: str, score: float, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(["read", told], monkeypatch) == Verdict(score=score, answer="5", note=note)


def test_a_problem_that_is_made_otherwise_now_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = said(["gold unread"], monkeypatch)
    assert verdict.score is None
    assert "another problem" in verdict.note


def test_a_process_that_dies_twice_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said([], monkeypatch).note == "reasoning-gym's process died twice"
    assert said([], monkeypatch).score is None


def said(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Verdict:
    """The verdict where the worker says these words, and then dies."""

    class Told:
        def __init__(self) -> None:
            self.left = list(words)

        def say(self, request: object) -> None:
            json.dumps(request)

        def word(self, deadline: float) -> str:
            if not self.left:
                raise Died
            return self.left.pop(0)

    monkeypatch.setattr(gym._pool, "use", lambda work: work(Told()))
    problem = Problem("p", (), "5", {"level": 0, "index": 1})
    trace = Trace("p", (), (Step("\\boxed{5}"),), "m@0")
    return gym.grade(problem, trace, name="chain_sum", credit="share")


@with_gym
def test_a_scorer_that_hangs_is_ended_and_scores_0(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = open_task("gym:chain_sum").load("train", count=1)[0]
    worker = Worker("forethought.problems.gym_worker")
    heard = worker.word

    def word(deadline: float) -> str:
        told = heard(deadline)
        os.kill(worker.process.pid, signal.SIGSTOP)  # it has read its question, and nothing more is heard of it
        worker.heard = b""
        return told

    monkeypatch.setattr(worker, "word", word)
    monkeypatch.setattr(gym, "SCORING_SECONDS", 0.2)
    where = {"name": "chain_sum", "level": 0, "index": problem.meta["index"]}

    def stopped(request: object) -> None:
        Worker.say(worker, request)

    monkeypatch.setattr(worker, "say", stopped)
    assert gym._score({**where, "gold": problem.answer, "answer": "5"}, worker) == (0.0, "the scorer timed out")
    assert worker.process.poll() is not None


@with_gym
@pytest.mark.parametrize(
    "name", ["chain_sum", "countdown", "number_sorting", "sudoku", "polynomial_equations", "pool_matrix"]
)
def test_no_hostile_answer_is_rewarded(name: str) -> None:
    problem = open_task(f"gym:{name}").load("test", count=1)[0]
    for kind, answer in hostile_answers(3):
        verdict = judged(f"gym:{name},credit=all", problem, answer)
        assert verdict.score == 0.0, (kind, answer[:100], verdict.note)
