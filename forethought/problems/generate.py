"""What the generators share: a seed per item, two disjoint splits, option values, thoughts by lines, step labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

from forethought.problems.grading import grade
from forethought.problems.task import Load, Split, Task, check_load
from forethought.thought.marks import CLOSE, OPEN, boxes, compose
from forethought.types import Problem, Trace, user

DEFAULT_COUNT = 1000
"""Problems that a generator makes where no count is given."""
TEST_SHARE = 10
"""One content in this many is a test problem."""
TRIES = 20_000
"""Draws for one item before its level counts as having no problem in the split."""

Option = tuple[Callable[[str], object], str]
"""How an option's text is read, and what it may be, in words."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One drawn problem."""

    key: str
    """Its content in a canonical order: whatever the level or the wording, equal keys are the same problem."""
    question: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)


def split_of(task: str, key: str) -> Split:
    """The split that a content belongs to, at every level, for every seed, on every machine."""
    return "train" if int.from_bytes(blake2b(f"{task}|{key}".encode(), digest_size=8).digest()) % TEST_SHARE else "test"


def loader(spec: str, draw: Callable[[random.Random], Draft]) -> Load:
    """A `load` that draws until the content falls in the split asked for: train and test are disjoint by content.

    Item i is a function of (spec, split, seed, i). Items may repeat where the level is small.
    """
    task = spec.partition(":")[0]

    def item(split: Split, seed: int, index: int) -> Problem:
        name = f"{spec}/{split}/{seed}/{index}"
        rng = random.Random(name)
        for _ in range(TRIES):
            draft = draw(rng)
            if split_of(task, draft.key) == split:
                return Problem(id=name, messages=user(draft.question), answer=draft.answer, meta=draft.meta)
        raise ValueError(f"{spec} has no {split} problem in {TRIES} draws; choose a larger level")

    def load(split: Split, *, count: int | None = None, seed: int = 0) -> list[Problem]:
        check_load(split, count)
        return [item(split, seed, index) for index in range(DEFAULT_COUNT if count is None else count)]

    return load


def with_digit(line: str) -> bool:
    """Does the line claim something, where all that is claimed are numbers?"""
    return any(character.isdigit() for character in line)


def by_lines(
    spec: str,
    draw: Callable[[random.Random], Draft],
    lines: Callable[[Problem], Sequence[str]],
    claims: Callable[[str], bool] = with_digit,
) -> Task:
    """A task whose true thought is `lines`: they are its worked examples, and what its step labels hold steps against.

    Its answers are compared as they stand: working them out is the task.
    """
    return Task(
        name=spec,
        load=loader(spec, draw),
        grade=partial(grade, symbolic=False),
        worked=lambda problem: compose("\n".join(lines(problem)), problem.answer),
        labels=lambda problem, trace: step_labels(trace, lines(problem), problem.answer, claims),
    )


def whole(low: int, high: int) -> Option:
    """An option that is a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse, f"a whole number from {low} to {high}"


def step_labels(
    trace: Trace, true_lines: Collection[str], answer: str, claims: Callable[[str], bool] = with_digit
) -> tuple[float | None, ...]:
    """1, 0 or `None` for each step of the trace, from the lines that a true thought has.

    A line is right where it is, spaces aside, one of `true_lines`, or the box with the true answer. One that `claims`
    does not pick (by default, a line without a digit), or that a limit cut off, claims nothing. A line belongs to the
    step that finishes it; a step with several is as good as its worst. Whatever builds on a first mistake differs from
    the true lines: it is wrong too.
    """
    true = {_bare(line) for line in true_lines}
    lines: list[tuple[int, float]] = []
    end = 0
    for line in trace.text.splitlines(keepends=True):
        end += len(line)
        bare = _bare(line.replace(OPEN, "").replace(CLOSE, ""))
        cut = end == len(trace.text) and trace.stop in ("length", "budget") and not line.endswith("\n")
        if claims(bare) and not cut:
            right = bare in true or [_bare(box) for box in boxes(bare)] == [_bare(answer)]
            lines.append((end - (len(line) - len(line.rstrip())), float(right)))
    labels: list[float | None] = []
    end = 0
    for step in trace.steps:
        start, end = end, end + len(step.text)
        mine = [label for at, label in lines if start < at <= end]
        labels.append(min(mine) if mine else None)
    return tuple(labels)


def _bare(text: str) -> str:
    return "".join(text.split())
