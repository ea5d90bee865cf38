"""Was the test in the training data? Runs of words that both have (n-grams, as in arXiv 2005.14165, appendix C)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.problems import files

WORDS = 13
"""Words of a run, as in GPT-3's analysis."""

Named = tuple[str, str]
"""Where a text stands, and the text."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """A question, and the training text that has most of it."""

    question: str
    """Where the question stands."""
    source: str
    """Where the text stands."""
    share: float
    """Of the question's runs, how many the text has; above 0, at most 1."""
    words: str
    """The first run that both have."""


def overlaps(questions: Iterable[Named], texts: Iterable[Named], *, n: int = WORDS) -> list[Overlap]:
    """The questions of which a text has a run of `n` words, in their order; a shorter question counts by its whole.

    Capitals, spaces and punctuation make no difference. Memory grows with the questions; the texts are read once.
    Raises ValueError for `n` below 1 and a question without a word.
    """
    names, runs, shared = _indexed(questions, n)
    best: dict[int, Overlap] = {}
    for source, text in texts:
        for place, both in shared(text).items():
            share = len(both) / len(runs[place])
            if place not in best or share > best[place].share:
                best[place] = Overlap(names[place], source, share, next(run for run in runs[place] if run in both))
    return [best[place] for place in sorted(best)]


def standing_in(questions: Iterable[Named], *, n: int = WORDS) -> Callable[[str], str | None]:
    """What tells of a text which question it has a run of, by where that stands, and `None` where it has none's.

    Raises ValueError as `overlaps` does.
    """
    names, _, shared = _indexed(questions, n)

    def found(text: str) -> str | None:
        return names[place] if (place := min(shared(text), default=None)) is not None else None

    return found


def questions_of(path: Path, column: str = "question") -> Iterator[Named]:
    """The questions of an evaluation file. Raises ValueError where there is no such file, and for a row without one."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    for where, row in files.rows(path):
        if not isinstance(row.get(column), str):
            raise ValueError(f"{where}: there is no text in column {column!r}; it has {', '.join(map(repr, row))}")
        yield where, row[column]


def normal(text: str) -> str:
    """The text in small letters, whatever is no letter or digit read as one space: equal ones are one question."""
    return " ".join(re.findall(r"\w+|[-+*/^=<>]", text.lower()))


def strings(value: Any) -> Iterator[str]:
    """Every text in a row: a column's, a message's, a list's."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings(each)


def _indexed(
    questions: Iterable[Named], n: int
) -> tuple[list[str], list[list[str]], Callable[[str], dict[int, set[str]]]]:
    """The questions' names and runs, and what finds those of a text: the runs that both have, by question."""
    if n < 1:
        raise ValueError(f"n is {n}; a run has at least 1 word")
    names: list[str] = []
    runs: list[list[str]] = []
    owners: defaultdict[str, set[int]] = defaultdict(set)
    for name, question in questions:
        found = normal(question).split()
        if not found:
            raise ValueError(f"{name}: the question has no word")
        names.append(name)
        runs.append(list(dict.fromkeys(_runs(found, min(n, len(found))))))
        for run in runs[-1]:
            owners[run].add(len(names) - 1)
    lengths = {run.count(" ") + 1 for run in owners}

    def shared(text: str) -> dict[int, set[str]]:
        both: defaultdict[int, set[str]] = defaultdict(set)
        found = normal(text).split()
        for length in lengths:
            for run in _runs(found, length):
                for place in owners.get(run, ()):
                    both[place].add(run)
        return both

    return names, runs, shared


def _runs(words: list[str], n: int) -> Iterator[str]:
    return (" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
