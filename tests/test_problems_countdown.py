"""Countdown's expressions: read as a tree, exact, never executed."""

from __future__ import annotations

from fractions import Fraction

import pytest

from forethought.problems import open_task
from forethought.problems.countdown import evaluate
from forethought.types import Problem, Step, Stop, Trace, Verdict


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3 * 8 + 5", 29),
        ("(3*8)+5", 29),
        ("5 - 3 * 8", -19),
        ("8 / (3 - 5)", -4),
        ("8 / 3 * 5", Fraction(40, 3)),
        (r"3 \times 8 + 5", 29),
        (r"8 \div \left(5 - 3\right)", 4),
        ("((((3))))*8+5", 29),
    ],
)
def test_values_are_exact(expression: str, value: Fraction) -> None:
    assert evaluate(expression, [3, 5, 8]) == value


def test_thirds_come_back_whole() -> None:
    assert evaluate("8 / (3 - 8 / 3)", [8, 3, 8, 3]) == 24


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("3 * 8", r"uses \[3, 8\], not \[3, 5, 8\]"),
        ("3 * 8 + 5 + 5", "uses"),
        ("38 + 5", "uses"),
        ("3 * 8 + 5 * 1", "uses"),
        ("5 / (8 - 8)", "uses|zero"),
        ("3 / (5 - 5) + 8", "divides by zero"),
        ("-3 + 5 + 8", "only numbers and"),
        ("3 ** 8 + 5", r"only \+ - \* /"),
        ("3 // 8 + 5", r"only \+ - \* /"),
        ("3(8) + 5", "only numbers and"),
        ("3 8 5", "well-formed"),
        ("03 + 5 + 8", "well-formed"),
        ("(3 + 5", "well-formed"),
        ("", "not an expression"),
        ("3.0 + 5 + 8", "not an expression"),
        ("3 + 5 + 8 = 16", "not an expression"),
        ("__import__('os').system('true')", "not an expression"),
        ("9**9**9**9", "only"),
        ("9999999 + 1", "more than 6 digits"),
        ("(" * 11 + "3" + ")" * 11 + "+5+8", "deeper than 10"),
        ("(" * 5000, "longer than 100"),
        ("\u0663 + 5 + 8", "not an expression"),
    ],
)
def test_what_is_no_such_expression_is_refused_with_the_reason(expression: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        evaluate(expression, [3, 5, 8])


def judged(text: str, stop: Stop = "end") -> Verdict:
    problem = Problem("p", (), "3 * 8 + 5", {"numbers": [3, 5, 8], "target": 29})
    return open_task("countdown").grade(problem, Trace("p", (), (Step(text, stop=stop),), "test@0"))


def test_any_right_expression_is_right() -> None:
    assert judged("<think>\n</think>\n\\boxed{5 + 8*3}").score == 1.0
    assert judged("\\boxed{3 * 5 + 8}") == Verdict(score=0.0, answer="3*5+8", note="makes 23")
    assert judged("\\boxed{29}").score == 0.0
    assert judged("\\boxed{3 * 8 + 5 }").answer == "3*8+5"
    assert judged("\\boxed{3 8 5}").score == 0.0
    assert judged("<think>\n\\boxed{3 * 8 + 5}") == Verdict(score=0.0, note="the thought never closed")
    assert judged("\\boxed{3 * 8 + 5}", stop="error").score is None


@pytest.mark.parametrize("spec", ["countdown:numbers=3", "countdown:numbers=4,most=20,target=50"])
def test_every_problem_has_its_solution(spec: str) -> None:
    task = open_task(spec)
    for problem in task.load("test", count=100):
        numbers, target = problem.meta["numbers"], problem.meta["target"]
        assert len(numbers) == (3 if "=3" in spec else 4)
        assert 1 <= target <= (30 if "=3" in spec else 50)
        assert evaluate(problem.answer, numbers) == target
        assert task.worked is not None
        lines = task.worked(problem).splitlines()[1:-2]
        assert len(lines) == len(numbers) - 1
        for line in lines:
            left, _, right = line.rpartition(" = ")
            assert evaluate(left, [int(n) for n in left.split()[::2]]) == int(right)
        assert int(lines[-1].rpartition(" = ")[2]) == target
