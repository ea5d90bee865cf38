"""Addition of two n-digit numbers, with the scratchpad of Nye et al. (2021) as STaR has it (arXiv 2203.14465, §4.1).

    624 + 259 = ?
    6 2 4 + 2 5 9 , C: 0
    2 + 5 , 3 C: 1
    6 + 2 , 8 3 C: 0
    , 8 8 3 C: 0
    0 8 8 3

Each line holds the digits to add next (the first line: all of them), the result so far, and the carry into that
column; the last line puts the carry before the result.
"""

from __future__ import annotations

import random
from functools import partial

from forethought.problems.generate import Draft, Option, by_lines
from forethought.problems.task import Task
from forethought.types import Problem

MOST_DIGITS = 20


def digits_range(text: str) -> range:
    """`3` or `1-5` as the lengths to draw from."""
    low, dash, high = text.partition("-")
    lengths = range(int(low), int(high if dash else low) + 1)
    if not lengths or lengths[0] < 1 or lengths[-1] > MOST_DIGITS:
        raise ValueError
    return lengths


OPTIONS: dict[str, Option] = {
    "digits": (digits_range, f"a length or a range of lengths from 1 to {MOST_DIGITS}, like 3 or 1-5"),
}


def task(spec: str, *, digits: range = range(1, 6)) -> Task:
    """Two numbers of the same length, the length uniform over `digits`; `meta` has digits, a and b."""
    return by_lines(spec, partial(_draw, digits=digits), _lines)


def scratchpad(a: int, b: int, digits: int) -> list[str]:
    """The lines of the thought, for two numbers of `digits` digits."""
    rows = [str(a).zfill(digits), str(b).zfill(digits)]
    lines, result, carry = [f"{' '.join(rows[0])} + {' '.join(rows[1])} , C: 0"], "", 0
    for column in reversed(range(digits)):
        total = int(rows[0][column]) + int(rows[1][column]) + carry
        carry, result = total // 10, f"{total % 10}{result}"
        pair = f"{rows[0][column - 1]} + {rows[1][column - 1]} " if column else ""
        lines.append(f"{pair}, {' '.join(result)} C: {carry}")
    return [*lines, f"{carry} {' '.join(result)}"]


def _lines(problem: Problem) -> list[str]:
    return scratchpad(problem.meta["a"], problem.meta["b"], problem.meta["digits"])


def _draw(rng: random.Random, *, digits: range) -> Draft:
    length = rng.choice(digits)
    low, high = (10 ** (length - 1) if length > 1 else 0), 10**length - 1
    a, b = rng.randint(low, high), rng.randint(low, high)
    # 3 + 5 in train and 5 + 3 in test would be one problem in both.
    key = f"{min(a, b)}+{max(a, b)}"
    return Draft(key, f"{a} + {b} = ?", str(a + b), {"level": length, "digits": length, "a": a, "b": b})
