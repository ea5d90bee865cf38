"""Products of two n-digit numbers, a partial product and a sum a line, or by one call of the calculator.

487 * 352 = ?
487 * 2 = 974
487 * 50 = 24350
974 + 24350 = 25324
487 * 300 = 146100
25324 + 146100 = 171424

`by=calculator` has worked examples that call it (`thought.tools`): `<calc>487 * 352</calc><output>171424</output>`.
"""

from __future__ import annotations

import random
from functools import partial

from forethought.problems.addition import digits_range
from forethought.problems.generate import Draft, Option, by_lines
from forethought.problems.task import Task
from forethought.thought.marks import CALLS, OUTPUT
from forethought.types import Problem

MOST_DIGITS = 8


def _digits(text: str) -> range:
    lengths = digits_range(text)
    if lengths[-1] > MOST_DIGITS:
        raise ValueError
    return lengths


def _by(text: str) -> str:
    if text not in ("lines", "calculator"):
        raise ValueError
    return text


OPTIONS: dict[str, Option] = {
    "digits": (_digits, f"a length or a range of lengths from 1 to {MOST_DIGITS}, like 3 or 1-3"),
    "by": (_by, "lines (partial products) or calculator (one call)"),
}


def task(spec: str, *, digits: range = range(2, 4), by: str = "lines") -> Task:
    """Two numbers of the same length, the length uniform over `digits`; `meta` has digits, a and b."""
    return by_lines(spec, partial(_draw, digits=digits), {"lines": _lines, "calculator": _call}[by])


def _lines(problem: Problem) -> list[str]:
    a, b = problem.meta["a"], problem.meta["b"]
    places = [int(digit) * 10**place for place, digit in enumerate(reversed(str(b)))]
    lines, total = [], 0
    for place in filter(None, places):
        lines.append(f"{a} * {place} = {a * place}")
        if total:
            lines.append(f"{total} + {a * place} = {total + a * place}")
        total += a * place
    return lines


def _call(problem: Problem) -> list[str]:
    opening, closing = CALLS["calculator"]
    called = f"{problem.meta['a']} * {problem.meta['b']}"
    return [f"{opening}{called}{closing}{OUTPUT[0]}{problem.answer}{OUTPUT[1]}"]


def _draw(rng: random.Random, *, digits: range) -> Draft:
    length = rng.choice(digits)
    a, b = (rng.randint(10 ** (length - 1), 10**length - 1) for _ in range(2))
    # 12 * 34 in train and 34 * 12 in test would be one problem in both.
    key = f"{min(a, b)}*{max(a, b)}"
    return Draft(key, f"{a} * {b} = ?", str(a * b), {"level": length, "digits": length, "a": a, "b": b})
