"""Was the test in the training data? Runs of words that both have (n-grams, as in arXiv 2005.14165, appendix C)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from forethought.problems.mix import normal

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
    best: dict[int, Overlap] = {}
    for source, text in texts:
        shared: defaultdict[int, set[str]] = defaultdict(set)
        found = normal(text).split()
        for length in lengths:
            for run in _runs(found, length):
                for place in owners.get(run, ()):
                    shared[place].add(run)
        for place, both in shared.items():
            share = len(both) / len(runs[place])
            if place not in best or share > best[place].share:
                best[place] = Overlap(names[place], source, share, next(run for run in runs[place] if run in both))
    return [best[place] for place in sorted(best)]


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


def _runs(words: list[str], n: int) -> Iterator[str]:
    return (" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
