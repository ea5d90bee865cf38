"""Proof problems from a file: which checker a spec names, what a trace's proof is, what a verdict says."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import get_args

import pytest
from http_server import Server
from test_proofs_metamath import LOGIC, LONG

from forethought.problems import open_task
from forethought.problems.proofs import task as proofs
from forethought.problems.proofs.checked import Checked, Status
from forethought.types import Problem, Step, Trace

LINEAR = "(declare-const x Int)(assert (= (+ x x) 14))(assert (not (= x 7)))"


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trace(problem: Problem, text: str, stop: str = "end") -> Trace:
    return Trace(problem.id, problem.messages, (Step(text, stop=stop),), "m")  # type: ignore[arg-type]


@pytest.fixture
def metamath(tmp_path: Path) -> str:
    (tmp_path / "logic.mm").write_text(LOGIC)
    rows = {"statement": "thm $p |- ( ph -> ph ) $= ? $.", "proof": LONG}, {"statement": "u $p |- ph $= ? $."}
    return f"proofs:path={lines(tmp_path / 't.jsonl', *rows)},checker=metamath,database={tmp_path / 'logic.mm'}"


def test_metamath_grades_the_last_block_behind_the_thought(metamath: str) -> None:
    task = open_task(metamath)
    problem, other = task.load("test")
    assert "thm $p |- ( ph -> ph ) $= ? $." in problem.messages[0]["content"]
    assert "wph" not in problem.messages[0]["content"]
    assert task.worked is not None
    right = task.grade(problem, trace(problem, f"<think>\nhm\n</think>\n```\nwph\n```\n{task.worked(problem)}"))
    assert right.score == 1.0
    assert right.answer == LONG
    wrong = task.grade(problem, trace(problem, "<think>\nhm\n</think>\n```\nwph\n```"))
    assert wrong.score == 0.0
    assert "it proves wff ph" in wrong.note
    assert task.grade(problem, trace(problem, "<think>\nhm")).note == "the thought never closed"
    assert task.grade(problem, trace(problem, "", "error")).score is None
    with pytest.raises(ValueError, match="has no proof"):
        task.worked(other)


def test_z3_grades_claims(tmp_path: Path) -> None:
    pytest.importorskip("z3", reason="z3-solver is not installed (pip install 'forethought[proofs]')")
    task = open_task(f"proofs:path={lines(tmp_path / 't.jsonl', {'statement': LINEAR})}")
    (problem,) = task.load("train", count=1)
    assert task.grade(problem, trace(problem, "```\n(= x 7)\n```")).score == 1.0
    assert task.grade(problem, trace(problem, "(= x 8")).score == 0.0


def test_a_server_that_is_not_there_is_no_verdict(tmp_path: Path) -> None:
    rows = {"statement": "theorem t : True :=", "header": "import Mathlib"}
    with Server() as server:
        said = {"results": [{"response": {"messages": [{"severity": "error", "pos": {"line": 4}, "data": "no"}]}}]}
        server.routes["/api/check"] = lambda payload: said
        task = open_task(f"proofs:path={lines(tmp_path / 't.jsonl', rows)},checker=kimina,url={server.url}")
        (problem,) = task.load("train")
        verdict = task.grade(problem, trace(problem, "by trivial"))
    assert (verdict.score, verdict.note) == (0.0, "lean: refuted; line 4: no")
    verdict = task.grade(problem, trace(problem, "by trivial"))
    assert verdict.score is None
    assert "error" in verdict.note
    assert task.grade(problem, trace(problem, "by sorry")).score == 0.0


def test_a_grade_may_be_asked_for_inside_an_event_loop(metamath: str) -> None:
    task = open_task(metamath)

    async def go() -> float | None:
        problem, _ = task.load("test")
        return task.grade(problem, trace(problem, LONG)).score

    assert asyncio.run(go()) == 1.0


def test_what_a_checker_could_not_see_is_no_verdict() -> None:
    told = [proofs.verdict_of(Checked(status), "p").score for status in get_args(Status)]
    assert dict(zip(get_args(Status), told, strict=True)) == {"proved": 1, "refuted": 0, "error": None, "timeout": 0}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("proofs", "proofs needs its file"),
        ("proofs:path=none.jsonl", "there is no file none.jsonl"),
        ("proofs:path=F,checker=coq", "it must be one of z3, metamath, lean, repl, kimina"),
        ("proofs:path=F,checker=metamath", "checker=metamath needs database=..."),
        ("proofs:path=F,checker=repl", "checker=repl needs project=..."),
        ("proofs:path=F,checker=kimina", "checker=kimina needs url=..."),
        ("proof:path=here", "did you mean 'proofs'"),
    ],
)
def test_a_spec_that_lacks_something_says_what(tmp_path: Path, spec: str, reason: str) -> None:
    path = lines(tmp_path / "t.jsonl", {"statement": LINEAR})
    with pytest.raises(ValueError, match=re.escape(reason)):
        open_task(spec.replace("=F", f"={path}"))


def test_a_row_without_a_statement_is_named(tmp_path: Path) -> None:
    task = open_task(f"proofs:path={lines(tmp_path / 't.jsonl', {'statement': LINEAR}, {'proof': 'x'})}")
    with pytest.raises(ValueError, match=r"t\.jsonl:2: there is no statement"):
        task.load("train")
