"""Mixtures: several tasks as one, by weights, without a question twice.

mix:2*chain:steps=4 + addition:digits=3
mix:3*gsm8k:data/gsm8k + gym:chain_sum,level=2
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from forethought.problems.generate import DEFAULT_COUNT
from forethought.problems.task import Split, Task, check_load
from forethought.types import Problem, Trace, Verdict

REPEATS = 1000
"""Questions in a row that a part has given before, until it counts as exhausted."""
BATCH = 64
"""Problems that a part is asked for at first; twice as many each time after."""

_PART = re.compile(r"(?:([0-9.]+)\s*\*\s*)?(\S.*)", re.DOTALL)


def parts(text: str) -> list[tuple[float, str]]:
    """The weights and specs of `2*chain:steps=4 + addition`; a weight left out is 1.

    Raises ValueError for an empty part, a weight that is no number above 0, and a mixture in a mixture.
    """
    found = []
    for each in re.split(r"\s\+\s", text):
        match = _PART.fullmatch(each.strip())
        if match is None:
            raise ValueError(f"mix has an empty part in {text!r}; write it as mix:2*chain:steps=4 + addition:digits=3")
        try:
            weight = float(match[1] or 1)
        except ValueError:
            weight = 0.0
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"mix: the weight of {match[2]!r} is {match[1]}; it must be a number above 0")
        if match[2].startswith("mix:"):
            raise ValueError("mix: a mixture has no mixture as its part; write all parts in one")
        found.append((weight, match[2].strip()))
    return found


def task(spec: str, weighted: list[tuple[float, Task]]) -> Task:
    """Each item's part is drawn by weight; `meta["part"]` is its place, and that part's task grades it.

    Item i is a function of (spec, split, seed, i). A question that was there before, in any spelling of spaces and
    capitals, is left out for the part's next. A part that has no more drops out; the mixture ends with its last.
    """
    tasks = [part for _, part in weighted]

    def load(split: Split, *, count: int | None = None, seed: int = 0) -> list[Problem]:
        check_load(split, count)
        finite = all(part.finite for part in tasks)
        wanted = count if count is not None else None if finite else DEFAULT_COUNT
        return list(itertools.islice(_drawn(spec, weighted, split, seed), wanted))

    def grade(problem: Problem, trace: Trace) -> Verdict:
        part: Task = tasks[problem.meta["part"]]
        return part.grade(problem, trace)

    workers = [part.worked for part in tasks if part.worked is not None]
    return Task(
        spec,
        load,
        grade,
        worked=(lambda problem: workers[problem.meta["part"]](problem)) if len(workers) == len(tasks) else None,
        finite=all(part.finite for part in tasks),
        labels=_labels(tasks) if any(part.labels for part in tasks) else None,
    )


def normal(text: str) -> str:
    """The text in small letters, whatever is no letter or digit read as one space: equal ones are one question."""
    return " ".join(re.findall(r"\w+|[-+*/^=<>]", text.lower()))


def _labels(tasks: list[Task]) -> Callable[[Problem, Trace], tuple[float | None, ...]]:
    def labels(problem: Problem, trace: Trace) -> tuple[float | None, ...]:
        told = tasks[problem.meta["part"]].labels
        return (None,) * len(trace.steps) if told is None else told(problem, trace)

    return labels


def _drawn(spec: str, weighted: list[tuple[float, Task]], split: Split, seed: int) -> Iterator[Problem]:
    rng = random.Random(f"{spec}/{split}/{seed}")
    left = {place: _items(task, split, seed) for place, (_, task) in enumerate(weighted)}
    seen: set[str] = set()
    while left:
        (place,) = rng.choices(list(left), [weighted[place][0] for place in left])
        for problem in itertools.islice(left[place], REPEATS):
            question = normal(problem.messages[-1]["content"])
            if question not in seen:
                seen.add(question)
                yield replace(problem, meta={**problem.meta, "part": place})
                break
        else:
            del left[place]


def _items(task: Task, split: Split, seed: int) -> Iterator[Problem]:
    """All that a task has, one by one: an item depends on its place alone, so a longer load begins like a shorter."""
    given, count = 0, BATCH
    while True:
        problems = task.load(split, count=count, seed=seed)
        yield from problems[given:]
        if len(problems) < count:
            return
        given, count = count, 2 * count
