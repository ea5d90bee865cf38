"""Mixtures: several tasks as one, by weights, without a question twice.

mix:2*chain:steps=4 + addition:digits=3
mix:3*gsm8k:data/gsm8k + gym:chain_sum,level=0..4
mix:path=mixture.yaml
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forethought.problems.files import listed
from forethought.problems.generate import DEFAULT_COUNT
from forethought.problems.overlap import WORDS, normal, questions_of, standing_in
from forethought.problems.task import Split, Task, check_load
from forethought.types import Problem, Trace, Verdict

log = logging.getLogger(__name__)

REPEATS = 1000
"""Questions in a row that a part has given before, until it counts as exhausted."""
BATCH = 16
"""Problems that a part is asked for at first; twice as many each time after."""
LEVELS = 100
"""Most parts that a range of levels stands for."""

_PART = re.compile(r"(?:([0-9.]+)\s*\*\s*)?(\S.*)", re.DOTALL)
_RANGE = re.compile(r"(?<=[:,])(\w+=)(\d+)\.\.(\d+)(?=,|$)")


@dataclass(frozen=True, slots=True)
class Source:
    """One part of a mixture, not yet opened."""

    spec: str
    weight: float = 1.0
    question: str = "question"
    """Column of a file."""
    answer: str = "answer"
    """Column of a file."""
    where: str = ""
    """Its place in the mixture's file."""


Unlike = Callable[[str], str | None]
"""Of a question, where an evaluation file has it; `None` where none has."""


def sources(text: str, question: str, answer: str) -> tuple[list[Source], list[Unlike]]:
    """The parts that `2*chain:steps=4 + addition` or `path=FILE` names, and what keeps evaluation files out of them.

    A weight left out is 1. A range (`steps=2..5`) is a part for each of its values; they share the weight. `question`
    and `answer` are the columns of files that name none. Evaluation files are read here. Raises ValueError for an empty
    part, a weight that is no number above 0, and a mixture in a mixture; of a file's rows, with the line.
    """
    if not text.startswith("path="):
        parts = [Source(spec, weight, question, answer) for weight, spec in _split(text)]
        return [level for part in parts for level in _levels(part)], []
    path = Path(text.removeprefix("path="))
    found: list[Source] = []
    unlike: list[Unlike] = []
    for where, row in listed(path, "parts"):
        if isinstance(row, dict) and "unlike" in row:
            unlike.append(_unlike(where, row, question))
        else:
            found += _levels(_source(where, row, question, answer))
    if not found:
        raise ValueError(f"{path} names no part; write one a row, as {{task: 'chain:steps=2..5', weight: 2}}")
    return found, unlike


def task(spec: str, weighted: Sequence[tuple[float, Task]], unlike: Sequence[Unlike] = ()) -> Task:
    """Each item's part is drawn by weight; `meta["part"]` is its place, and that part's task grades it.

    Item i is a function of (spec, split, seed, i). A question that was there before, in any spelling of spaces and
    capitals, is left out for the part's next, and in `train` one that `unlike` places. A part that has no more drops
    out; the mixture ends with its last. `load` raises ValueError where nothing is left.
    """
    tasks = [part for _, part in weighted]
    weights = [weight for weight, _ in weighted]

    def streams(split: Split, seed: int) -> list[Iterator[Problem]]:
        seen: set[str] = set()
        kept_out = unlike if split == "train" else ()
        return [_new(place, part, split, seed, seen, kept_out) for place, part in enumerate(tasks)]

    def load(split: Split, *, count: int | None = None, seed: int = 0) -> list[Problem]:
        check_load(split, count)
        finite = all(part.finite for part in tasks)
        wanted = count if count is not None else None if finite else DEFAULT_COUNT
        rng = random.Random(f"{spec}/{split}/{seed}")
        found = list(itertools.islice(_drawn(rng, streams(split, seed), weights), wanted))
        if not found:
            raise ValueError(f"{spec} has no {split} problem that stands in none of the files it is to be unlike")
        return found

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
        parts=tuple((part.name, weight) for weight, part in weighted),
        streams=streams,
    )


def _split(text: str) -> list[tuple[float, str]]:
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
        found.append((weight, match[2].strip()))
    return found


def _levels(source: Source) -> list[Source]:
    """The source, or one for each value of its range."""
    place = f"{source.where}: " if source.where else ""
    if source.spec.startswith("mix:"):
        raise ValueError(f"{place}mix: a mixture has no mixture as its part; write all parts in one")
    ranges = list(_RANGE.finditer(source.spec))
    if not ranges:
        return [source]
    low, high = int(ranges[0][2]), int(ranges[0][3])
    if len(ranges) > 1 or not low <= high < low + LEVELS:
        raise ValueError(
            f"{place}mix: {source.spec!r} must have one range, from the lower level to the higher, of at most {LEVELS}"
        )
    specs = [_RANGE.sub(rf"\g<1>{level}", source.spec) for level in range(low, high + 1)]
    return [replace(source, spec=spec, weight=source.weight / len(specs)) for spec in specs]


def _source(where: str, row: Any, question: str, answer: str) -> Source:
    row = _known(where, row, "task", ("weight", "question", "answer"))
    weight = row.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not (weight > 0 and math.isfinite(weight)):
        raise ValueError(f"{where}: weight is {weight!r}; it must be a number above 0")
    columns = {"question": question, "answer": answer, **row}
    return Source(columns.pop("task"), float(weight), **columns, where=where)


def _unlike(where: str, row: Any, question: str) -> Unlike:
    row = _known(where, row, "unlike", ("question", "words"))
    words = row.get("words", WORDS)
    if isinstance(words, bool) or not isinstance(words, int):
        raise ValueError(f"{where}: words is {words!r}; it must be a whole number, the length of a run")
    try:
        return standing_in(questions_of(Path(row["unlike"]), row.get("question", question)), n=words)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _known(where: str, row: Any, name: str, others: Sequence[str]) -> dict[str, Any]:
    if not isinstance(row, dict) or name not in row:
        raise ValueError(f"{where}: {row!r:.80} is neither a part (task: SPEC) nor a file to be unlike (unlike: PATH)")
    if unknown := sorted(map(str, set(row) - {name, *others})):
        raise ValueError(f"{where}: it knows no {', '.join(unknown)}; beside {name} it may have {', '.join(others)}")
    for each in {name, "question", "answer"} & set(row):
        if not isinstance(row[each], str) or not row[each].strip():
            raise ValueError(f"{where}: {each} is {row[each]!r:.80}; it must be a text")
    return dict(row)


def _labels(tasks: list[Task]) -> Callable[[Problem, Trace], tuple[float | None, ...]]:
    def labels(problem: Problem, trace: Trace) -> tuple[float | None, ...]:
        told = tasks[problem.meta["part"]].labels
        return (None,) * len(trace.steps) if told is None else told(problem, trace)

    return labels


def _drawn(rng: random.Random, streams: list[Iterator[Problem]], weights: Sequence[float]) -> Iterator[Problem]:
    left = dict(enumerate(streams))
    while left:
        (place,) = rng.choices(list(left), [weights[place] for place in left])
        for problem in left[place]:
            yield problem
            break
        else:
            del left[place]


def _new(
    place: int, task: Task, split: Split, seed: int, seen: set[str], unlike: Sequence[Unlike]
) -> Iterator[Problem]:
    """What a part has that `seen`, which all parts share, has not, and no evaluation file."""
    repeats, told = 0, False
    for problem in _items(task, split, seed):
        asked = problem.messages[-1]["content"]
        question = normal(asked)
        found = None if question in seen else next(filter(None, (place_of(asked) for place_of in unlike)), None)
        if found is not None and not told:
            log.warning("%s: left out, as %s asks the same; so is what else is asked there", problem.id, found)
            told = True
        if found is not None or question in seen:
            repeats += 1
            if repeats == REPEATS:
                return
            continue
        repeats = 0
        seen.add(question)
        yield replace(problem, meta={**problem.meta, "part": place})


def _items(task: Task, split: Split, seed: int) -> Iterator[Problem]:
    """All that a task has, one by one: an item depends on its place alone, so a longer load begins like a shorter."""
    given, count = 0, BATCH
    while True:
        problems = task.load(split, count=count, seed=seed)
        yield from problems[given:]
        if len(problems) < count:
            return
        given, count = count, 2 * count
