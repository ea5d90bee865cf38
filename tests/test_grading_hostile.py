"""Hostile answers against every grader: none is rewarded, none hangs past its limit, none takes the process with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_answers import EACH, KINDS, hostile_answers
from jails import needs_jail
from test_proofs_metamath import LOGIC

from forethought.problems import GENERATORS, equal, open_task, workers
from forethought.problems.sandbox import Sandbox, bwrap
from forethought.problems.task import Task
from forethought.types import Problem, Step, Trace

FEW = 15
"""Answers of a kind that are always tried; with ten kinds, 150."""
PATIENCE = 2 * (equal.SECONDS + workers.START_SECONDS)
"""Seconds: a comparison, and another by a fresh worker, each with its start."""

GOLDS = ("x^2+48611", "48611", "Evelyn", r"\{48611,5\}")


def test_the_answers_are_a_thousand_and_always_the_same() -> None:
    answers = list(hostile_answers())
    assert len(set(answers)) == len(KINDS) * EACH == 1000
    assert answers == list(hostile_answers())


def boxed(answer: str) -> tuple[str, ...]:
    return f"\\boxed{{{answer}}}", f"<think>\n{answer}\n</think>\n#### {answer}", f"<answer>{answer}</answer>"


def fenced(answer: str) -> tuple[str, ...]:
    return (f"```python\n{answer}\n```",)


def unrewarded(task: Task, problems: list[Problem], dress: Callable[[str], tuple[str, ...]], each: int) -> None:
    """Grades every answer in every dress; the parent's own share of each must stay small on any machine."""
    for kind, answer in hostile_answers(each):
        for text in dress(answer):
            for problem in problems:
                began, worked = time.monotonic(), time.thread_time()
                verdict = task.grade(problem, Trace(problem.id, problem.messages, (Step(text),), "hostile@0"))
                what = f"{task.name}, {problem.answer!r:.40}, {kind}: {text!r:.120}: {verdict!r:.200}"
                assert not verdict.score, what
                assert time.thread_time() - worked < 2, what
                assert time.monotonic() - began < PATIENCE, what


@pytest.mark.parametrize("name", GENERATORS)
def test_no_generator_rewards_one(name: str) -> None:
    task = open_task(name)
    unrewarded(task, task.load("test", count=1), boxed, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_no_generator_rewards_one_of_a_thousand(name: str) -> None:
    task = open_task(name)
    unrewarded(task, task.load("test", count=1), boxed, EACH)


def of_files(folder: Path) -> tuple[Task, list[Problem]]:
    path = folder / "golds.jsonl"
    path.write_text("".join(json.dumps({"question": "?", "answer": gold}) + "\n" for gold in GOLDS))
    task = open_task(str(path))
    return task, task.load("test")


def test_no_file_rewards_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be asked of math-verify is counted here, and asked in the slow test."""
    asked: set[str] = set()

    def ask(gold: str, answer: str) -> str:
        asked.add(answer)
        return "different"

    monkeypatch.setattr(equal, "ask", ask)
    unrewarded(*of_files(tmp_path), boxed, FEW)
    assert asked
    assert not any(len(answer) > 300 or not answer.isascii() for answer in asked)


def test_math_verify_rewards_none_of_a_few(tmp_path: Path) -> None:
    task, problems = of_files(tmp_path)
    unrewarded(task, problems[:1], lambda answer: boxed(answer)[:1], 1)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_math_verify_rewards_none_of_a_thousand(tmp_path: Path) -> None:
    unrewarded(*of_files(tmp_path), boxed, EACH)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    servers = bwrap.Pool(2)
    yield Sandbox("test", servers.run, 2, servers.close)
    servers.close()


def of_programs(folder: Path) -> tuple[Task, list[Problem]]:
    path = folder / "programs.jsonl"
    numbers = [{"args": [n], "expected": n * n + 48611} for n in (2, 3, -7)]
    cases = [{"stdin": f"{n}\n", "stdout": f"{n * n + 48611}\n"} for n in (2, 3)]
    rows = (
        {"question": "Square and add.", "function": "square", "tests": numbers},
        {"question": "Square and add.", "tests": cases},
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = open_task(f"code:path={path},credit=share,seconds=1")
    return task, task.load("test")


@needs_jail
def test_no_program_is_rewarded(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.problems.code.default", lambda: sandbox)
    unrewarded(*of_programs(tmp_path), fenced, 2)


@needs_jail
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_program_of_a_thousand_is_rewarded(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forethought.problems.code.default", lambda: sandbox)
    unrewarded(*of_programs(tmp_path), fenced, EACH)


def of_proofs(folder: Path, checker: str, statement: str) -> tuple[Task, list[Problem]]:
    (folder / "logic.mm").write_text(LOGIC)
    path = folder / "claims.jsonl"
    path.write_text(json.dumps({"statement": statement}) + "\n")
    database = f",database={folder / 'logic.mm'}" if checker == "metamath" else ""
    task = open_task(f"proofs:path={path},checker={checker}{database}")
    return task, task.load("test")


def test_no_metamath_proof_is_rewarded(tmp_path: Path) -> None:
    unrewarded(*of_proofs(tmp_path, "metamath", "thm $p |- ( ph -> ps ) $= ? $."), fenced, EACH)


def test_no_proof_by_z3_is_rewarded(tmp_path: Path) -> None:
    pytest.importorskip("z3")
    unrewarded(*of_proofs(tmp_path, "z3", "(declare-const x Int)(assert (> (* x x) 48611))"), fenced, FEW)
