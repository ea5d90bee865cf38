"""Sums of several small numbers, one added at a time.

7 + 12 + 5 = ?
7 + 12 = 19
19 + 5 = 24
"""

from __future__ import annotations

import random
from functools import partial
from itertools import accumulate, pairwise

from forethought.problems.generate import Draft, Option, by_lines, whole
from forethought.problems.task import Task
from forethought.types import Problem

OPTIONS: dict[str, Option] = {"terms": whole(2, 50), "most": whole(2, 10**6)}


def task(spec: str, *, terms: int = 3, most: int = 12) -> Task:
    """`terms` numbers, each uniform from 1 to `most`; `meta` has terms, most and numbers."""
    return by_lines(spec, partial(_draw, terms=terms, most=most), _lines)


def _lines(problem: Problem) -> list[str]:
    numbers = problem.meta["numbers"]
    totals = pairwise(accumulate(numbers))
    return [f"{before} + {number} = {after}" for (before, after), number in zip(totals, numbers[1:], strict=True)]


def _draw(rng: random.Random, *, terms: int, most: int) -> Draft:
    numbers = [rng.randint(1, most) for _ in range(terms)]
    question = f"{' + '.join(map(str, numbers))} = ?"
    # The order of the terms makes no new problem.
    key = "+".join(map(str, sorted(numbers)))
    return Draft(key, question, str(sum(numbers)), {"level": terms, "terms": terms, "most": most, "numbers": numbers})
