"""Countdown: combine three or four numbers with + - * / to reach a target.

    Use 3, 5 and 8 once each with + - * / to make 29.
    3 * 8 = 24
    24 + 5 = 29

The answer is an expression, `(3 * 8) + 5`; any that uses each given number exactly once and has the target's value is
right. It is read as a syntax tree with exact fractions and never executed.
"""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import partial

from forethought.problems.generate import Draft, Option, loader, whole
from forethought.problems.grading import final_answer, unjudged
from forethought.problems.task import Task
from forethought.thought.marks import compose
from forethought.types import Problem, Trace, Verdict

OPTIONS: dict[str, Option] = {"numbers": whole(3, 4), "most": whole(2, 100), "target": whole(1, 1000)}

LONGEST = 100
"""Characters of an expression; four numbers with operators and parentheses need fewer than half."""
DEEPEST = 10
"""Nested parentheses."""
LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": "", "\u00d7": "*", "\u00f7": "/"}


def task(spec: str, *, numbers: int = 3, most: int = 10, target: int = 30) -> Task:
    """`numbers` numbers from 1 to `most`, a whole target from 1 to `target`; `meta` has numbers and target.

    Every problem is made from a solution, whose values between are whole and positive.
    """
    return Task(
        name=spec,
        load=loader(spec, partial(_draw, numbers=numbers, most=most, target=target)),
        grade=grade_expression,
        worked=worked,
    )


def evaluate(expression: str, numbers: Sequence[int]) -> Fraction:
    """The exact value of an expression that uses each of `numbers` exactly once.

    Raises `ValueError` where it does not: other characters than digits, + - * / and parentheses, a sign (`-3`), a
    power, longer or deeper than the limits, other numbers, a division by zero.
    """
    for written, plain in LATEX.items():
        expression = expression.replace(written, plain)
    if len(expression) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    if not re.fullmatch(r"[0-9+\-*/() ]+", expression):
        raise ValueError("not an expression of numbers, + - * / and parentheses")
    if _depth(expression) > DEEPEST:
        raise ValueError(f"parentheses deeper than {DEEPEST}")
    if any(len(run) > 6 for run in re.findall(r"[0-9]+", expression)):
        raise ValueError("a number of more than 6 digits")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError("not a well-formed expression") from error
    used: Counter[int] = Counter()
    value = _value(tree, used)
    if used != Counter(numbers):
        raise ValueError(f"uses {sorted(used.elements())}, not {sorted(numbers)} once each")
    return value


def grade_expression(problem: Problem, trace: Trace) -> Verdict:
    """1 where the final expression uses the numbers once each and makes the target, else 0 and why."""
    if (verdict := unjudged(trace)) is not None:
        return verdict
    written, note = final_answer(trace.text)
    if written is None:
        return Verdict(score=0.0, note=note)
    answer = "".join(written.split())
    try:
        value = evaluate(written, problem.meta["numbers"])
    except ValueError as error:
        return Verdict(score=0.0, answer=answer, note=str(error))
    right = value == problem.meta["target"]
    return Verdict(score=float(right), answer=answer, note="exact" if right else f"makes {value}")


def worked(problem: Problem) -> str:
    """The whole worked example: a derivation without any search, one operation a line."""
    lines: list[str] = []
    _derive(ast.parse(problem.answer, mode="eval").body, lines)
    return compose("\n".join(lines), problem.answer)


def _depth(expression: str) -> int:
    depth = deepest = 0
    for character in expression:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    return deepest


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp):
        raise ValueError("only numbers and + - * / between them are allowed")
    left, right = _value(node.left, used), _value(node.right, used)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            if right == 0:
                raise ValueError("divides by zero")
            return left / right
        case _:
            raise ValueError("only + - * / are allowed")


def _derive(node: ast.expr, lines: list[str]) -> str:
    if not isinstance(node, ast.BinOp):
        return ast.unparse(node)
    left, right = _derive(node.left, lines), _derive(node.right, lines)
    sign = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}[type(node.op)]
    value = str(_value(node, Counter()))
    lines.append(f"{left} {sign} {right} = {value}")
    return value


def _draw(rng: random.Random, *, numbers: int, most: int, target: int) -> Draft:
    while True:
        given = [rng.randint(1, most) for _ in range(numbers)]
        parts = [(value, str(value)) for value in given]
        while len(parts) > 1:
            (a, first), (b, second) = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
            signs = ["+", "*"] + ["-"] * (a > b) + ["/"] * (a % b == 0)
            sign = rng.choice(signs)
            value = {"+": a + b, "*": a * b, "-": a - b, "/": a // b}[sign]
            parts.append((value, f"({first} {sign} {second})"))
        value, expression = parts[0]
        if value <= target:
            break
    question = f"Use {', '.join(map(str, given[:-1]))} and {given[-1]} once each with + - * / to make {value}."
    # ast takes the outer parentheses, and those that precedence makes needless, away.
    answer = ast.unparse(ast.parse(expression, mode="eval"))
    key = f"{','.join(map(str, sorted(given)))}={value}"
    return Draft(key, question, answer, {"level": len(given), "numbers": given, "target": value})
