"""What a thought may call: Python in the sandbox, and a calculator. `thought.tools` has the calls, `open_tools` both.

tools = open_tools("python,calculator")
tree = await best_of_n(messages, engine, n=8, tools=tools)
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction
from functools import partial

from forethought.problems.sandbox import Limits, Sandbox, default
from forethought.thought.marks import CALLS
from forethought.thought.tools import Tool, Tools

LIMITS = Limits(seconds=2.0, output=64 * 1024)
"""Of one program."""
LONGEST = 400
"""Characters of an expression."""
BITS = 4096
"""Of a number that is computed; about 1,200 digits."""
PLACES = 12
"""Most digits behind the point of a value that is written as a decimal rather than as a fraction."""
SIGNS = {"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "^": "**"}
"""Written and meant."""


def open_tools(names: str, *, calls: int = 8, longest: int = 500) -> Tools | None:
    """The tools of a list like `python,calculator`, with the limits of `thought.tools.Tools`; `None` for `""`.

    Raises ValueError for an unknown tool, and `SandboxUnavailable` where `python` is asked for and nothing encloses it.
    """
    if not names:
        return None
    asked = [name.strip() for name in names.split(",")]
    if unknown := [name for name in asked if name not in CALLS]:
        raise ValueError(f"there is no tool {unknown[0]!r}; tools are {', '.join(CALLS)}")
    called: dict[str, Tool] = {}
    if "python" in asked:
        called["python"] = partial(python, sandbox=default())
    if "calculator" in asked:
        called["calculator"] = calculator
    return Tools(called, calls=calls, longest=longest)


async def python(program: str, *, sandbox: Sandbox, limits: Limits = LIMITS) -> str:
    """What the program prints, and the last line of what it complains of; each call is a process of its own."""
    ran = await sandbox.start(program, limits=limits)
    printed = ran.out.decode(errors="replace").strip()
    told = [text for text in (printed, ran.complaint and f"error: {ran.complaint}") if text]
    return "\n".join(told) or "error: nothing was printed"


async def calculator(expression: str) -> str:
    """The exact value of an expression: a whole number, a decimal where that is exact, else a fraction."""
    try:
        value = evaluate(expression)
    except ValueError as error:
        return f"error: {error}"
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**PLACES
    if scaled.denominator != 1 or abs(value) >= 10**15:
        return str(value)
    whole, rest = divmod(abs(scaled.numerator), 10**PLACES)
    return f"{'-' * (value < 0)}{whole}.{rest:0{PLACES}d}".rstrip("0")


def evaluate(expression: str) -> Fraction:
    """The exact value of numbers, + - * / // % ** and parentheses, read as a syntax tree and never executed.

    Raises ValueError for anything else, a division by zero, a power whose exponent is no whole number, an expression
    longer than `LONGEST` and a value larger than `BITS`.
    """
    for written, meant in SIGNS.items():
        expression = expression.replace(written, meant)
    if len(expression) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    if not re.fullmatch(r"[0-9+\-*/%(). ]+", expression):
        raise ValueError("not an expression of numbers, + - * / // % ** and parentheses")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("not a well-formed expression") from error
    return _value(tree, expression.strip())


def _value(node: ast.expr, source: str) -> Fraction:
    match node:
        case ast.Constant():
            # What is written is exact, what Python makes of a decimal is not.
            return _bounded(Fraction(ast.get_source_segment(source, node) or ""))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            value = _value(node.operand, source)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp():
            return _bounded(_combined(node.op, _value(node.left, source), _value(node.right, source)))
        case _:
            raise ValueError("not an expression of numbers, + - * / // % ** and parentheses")


def _combined(sign: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    match sign:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Pow():
            if right.denominator != 1 or abs(right) * _bits(left) > BITS:
                raise ValueError(f"the power {right} is no whole number, or makes too large a one")
            if left == 0 and right < 0:
                raise ValueError("divides by zero")
            return left**right.numerator
    if right == 0:
        raise ValueError("divides by zero")
    return (
        left / right
        if isinstance(sign, ast.Div)
        else Fraction(left // right)
        if isinstance(sign, ast.FloorDiv)
        else left % right
    )


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > BITS:
        raise ValueError(f"a number of more than {BITS} bits")
    return value
