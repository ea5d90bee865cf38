"""Proofs by z3: claims follow or do not, hangs end, a term cannot become a command."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from forethought.problems.proofs import smt
from forethought.problems.proofs.checked import Checked

pytest.importorskip("z3", reason="z3-solver is not installed (pip install 'forethought[proofs]')")

LINEAR = "(declare-const x Int)(declare-const y Int)(assert (= (+ x y) 10))(assert (= (- x y) 4))(assert (not (= x 7)))"
FALSE = LINEAR.replace("x 7", "x 8")
HARD = """(declare-const a Int)(declare-const b Int)(declare-const c Int)(declare-const n Int)
(assert (> n 2))(assert (> a 0))(assert (> b 0))(assert (> c 0))
(assert (= (+ (* a a a) (* b b b)) (* c c c)))"""


def check(statement: str, proof: str, seconds: float = 5.0) -> Checked:
    return asyncio.run(smt.check(statement, proof, seconds=seconds))


@pytest.mark.parametrize("proof", ["", "(= (* 2 x) 14)", "(= (* 2 x) 14)\n\n(= x 7)\n", "true"])
def test_what_follows_is_proved(proof: str) -> None:
    told = check(LINEAR, proof)
    assert (told.status, told.messages) == ("proved", ())
    assert told.version


def test_a_false_statement_has_a_counterexample() -> None:
    told = check(FALSE, "")
    assert told.status == "refuted"
    assert "x = 7" in told.messages[0]


def test_a_claim_that_does_not_follow_is_named() -> None:
    told = check(FALSE, "(= (* 2 x) 14)\n(= x 8)")
    assert told.status == "refuted"
    assert told.messages[0].startswith("claim 2 does not follow: ")


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        ("(= x 7))(assert false", "closes what was not opened"),
        ("true)(assert false)(assert (= 0 0)", "closes what was not opened"),
        ("true false", "is one term"),
        ("(= x 7) (= y 3)", "is one term"),
        ("(= x 7)true", "is one term"),
        ("(= x 7", "is one term"),
        ("true ; comment", "is written in"),
        ("|x|", "is written in"),
        ('"text"', "is written in"),
        ("(= x ７)", "is written in"),
        ("(" * 101 + ")" * 101, "nests deeper"),
        ("(= x " + "1" * 5000 + ")", "at most 5000"),
        ("\n".join(["true"] * 201), "201 claims"),
        ("(= x nosuch)", "claim 1 cannot be read"),
        ("x", "claim 1 cannot be read"),
        ("()", "claim 1 cannot be read"),
    ],
)
def test_what_is_no_claim_is_refused_by_its_reason(proof: str, reason: str) -> None:
    told = check(LINEAR, proof)
    assert told.status == "refuted"
    assert reason in told.messages[0]


def test_what_z3_cannot_decide_ends_in_time() -> None:
    assert check(HARD, "", seconds=0.2).status == "timeout"


def test_a_z3_that_is_deaf_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    check(LINEAR, "")
    pid = smt._pool.idle[-1].process.pid
    monkeypatch.setattr(smt, "GRACE", 0.1)
    os.kill(pid, signal.SIGSTOP)
    assert check(LINEAR, "", seconds=0.1).status == "timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_z3_that_dies_is_replaced() -> None:
    check(LINEAR, "")
    os.kill(smt._pool.idle[-1].process.pid, signal.SIGKILL)
    assert check(LINEAR, "").status == "proved"


@pytest.mark.parametrize("statement", ["(assert", "(declare-const x Int)", "(assert nosuch)"])
def test_a_statement_that_cannot_be_read_is_no_verdict(statement: str) -> None:
    assert check(statement, "").status == "error"
