"""Addition of two n-digit numbers, with the scratchpad of Nye et al. (arXiv 2112.00114, figure 2), which STaR takes up
(arXiv 2203.14465, section 4.1).

    624 + 259 = ?
    624+259,C:0
    62+25,3C:1
    6+2,83C:0
    ,883C:0
    0883

Each line holds the digits still to add, the result so far, and the carry into the next column; the last line puts the
carry before the result. So a line follows from the one before alone, at any length. The papers put a space around each
digit so that it is a token of its own; here it is one without, and a thought is half as long. `lines=pair` writes only
the next two digits after the first line (`2+5,3C:1`), as STaR's released code does: shorter, but they must be found
again in the first line, by their place, which small models trained from nothing did not carry over to longer numbers.
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


def _style(text: str) -> str:
    if text not in ("rest", "pair"):
        raise ValueError
    return text


OPTIONS: dict[str, Option] = {
    "digits": (digits_range, f"a length or a range of lengths from 1 to {MOST_DIGITS}, like 3 or 1-5"),
    "lines": (_style, "rest (the digits still to add) or pair (the next two)"),
}


def task(spec: str, *, digits: range = range(1, 6), lines: str = "rest") -> Task:
    """Two numbers of the same length, the length uniform over `digits`; `meta` has digits, a and b."""

    def true_lines(problem: Problem) -> list[str]:
        return scratchpad(problem.meta["a"], problem.meta["b"], problem.meta["digits"], lines)

    return by_lines(spec, partial(_draw, digits=digits), true_lines)


def scratchpad(a: int, b: int, digits: int, lines: str = "rest") -> list[str]:
    """The lines of the thought, for two numbers of `digits` digits."""
    rows = [str(a).zfill(digits), str(b).zfill(digits)]
    found, result, carry = [f"{rows[0]}+{rows[1]},C:0"], "", 0
    for column in reversed(range(digits)):
        total = int(rows[0][column]) + int(rows[1][column]) + carry
        carry, result = total // 10, f"{total % 10}{result}"
        start = max(0, column - 1) if lines == "pair" else 0
        left = f"{rows[0][start:column]}+{rows[1][start:column]}" if column else ""
        found.append(f"{left},{result}C:{carry}")
    return [*found, f"{carry}{result}"]


def _draw(rng: random.Random, *, digits: range) -> Draft:
    length = rng.choice(digits)
    low, high = (10 ** (length - 1) if length > 1 else 0), 10**length - 1
    a, b = rng.randint(low, high), rng.randint(low, high)
    # 3 + 5 in train and 5 + 3 in test would be one problem in both.
    key = f"{min(a, b)}+{max(a, b)}"
    return Draft(key, f"{a} + {b} = ?", str(a + b), {"level": length, "digits": length, "a": a, "b": b})
