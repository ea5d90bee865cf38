"""The tools themselves: a calculator that is exact and bounded, and what a program's run comes to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from forethought.problems.sandbox import Limits, Ran, Sandbox
from forethought.problems.tools import calculator, evaluate, python


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*34", "408"), ("487 \u00d7 352", "171424"), ("0.1+0.2", "0.3"), ("10/4", "2.5"), ("1/3", "1/3"),
        ("-7//2", "-4"), ("7%3", "1"), ("2**-2", "0.25"), ("2^10", "1024"), ("-(1.5)", "-1.5"), ("0**0", "1"),
        ("9" * 30 + "*" + "9" * 30, str((10**30 - 1) ** 2)), ("1/8-1", "-0.875"), ("10**15+1/4", "4000000000000001/4"),
    ],
)  # fmt: skip
def test_the_calculator_is_exact(expression: str, value: str) -> None:
    assert asyncio.run(calculator(expression)) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("9**9**9", "makes too large"), ("2**5000", "makes too large"), ("2**0.5", "no whole number"),
        ("1//0", "divides by zero"), ("1%0", "divides by zero"), ("0**-1", "divides by zero"), ("(1", "well-formed"),
        ("1 2", "well-formed"), ("", "not an expression"), ("()", "not an expression"), ("1()", "not an expression"),
        ("abs(1)", "not an expression"), ("1" * 401, "longer than"), ("__import__('os')", "not an expression"),
        ("*".join(["2**2000"] * 3), "more than 4096 bits"),
        ("1<2", "not an expression"), ("~1", "not an expression"), ("1.1.1", "well-formed"),
    ],
)  # fmt: skip
def test_the_calculator_refuses_the_rest(expression: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        evaluate(expression)


def test_deep_expressions_come_to_an_end() -> None:
    assert evaluate("-" * 399 + "1") == -1
    with pytest.raises(ValueError, match="well-formed"):
        evaluate("(" * 300 + "1")


def jail(out: bytes = b"", err: bytes = b"", code: int | None = 0, **more: Any) -> Sandbox:
    def ran(program: str, stdin: bytes, limits: Limits) -> Ran:
        assert program == "print(6 * 7)"
        return Ran(**{"status": "ended", "code": code, "out": out, "err": err, "seconds": 2.0, **more})

    return Sandbox("test", ran, workers=1)


@pytest.mark.parametrize(
    ("sandbox", "given"),
    [
        (jail(b"42\n"), "42"),
        (jail(b"4\n", b"Traceback\nNameError: x\n", 1), "4\nerror: NameError: x"),
        (jail(), "error: nothing was printed"),
        (jail(code=None, status="time"), "error: ended after 2.0 s"),
        (jail(b"\xff"), "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_python_gives_what_was_printed_and_what_went_wrong(sandbox: Sandbox, given: str) -> None:
    assert asyncio.run(python("print(6 * 7)", sandbox=sandbox)) == given
