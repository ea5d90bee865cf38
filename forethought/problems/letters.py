"""Last letters of n words, one word a line, strung together: last-letter concatenation (arXiv 2201.11903, section 5).

    Last letters of lomak tir basun?
    lomak: k
    tir: kr
    basun: krn

The words are made up, consonants and vowels in turn, so that none is known beforehand: a model has to read them. A line
follows from the question and the line before alone, at any number of words.
"""

from __future__ import annotations

import random
from functools import partial

from forethought.problems.addition import MOST_DIGITS as MOST_WORDS
from forethought.problems.addition import digits_range
from forethought.problems.generate import Draft, Option, by_lines
from forethought.problems.normal import NOT_FINITE
from forethought.problems.task import Task
from forethought.thought.marks import BOXED
from forethought.types import Problem

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxz"
LETTERS = (2, 5)
"""Fewest and most of a word."""

OPTIONS: dict[str, Option] = {
    "words": (digits_range, f"a number or a range of numbers from 1 to {MOST_WORDS}, like 3 or 2-4")
}


def task(spec: str, *, words: range = range(2, 5)) -> Task:
    """That many words, the number uniform over `words`; `meta` has words, in their order, and their number as level."""
    return by_lines(spec, partial(_draw, words=words), _lines, claims=lambda line: ":" in line or BOXED in line)


def _lines(problem: Problem) -> list[str]:
    words = problem.meta["words"]
    return [f"{word}: {''.join(each[-1] for each in words[: place + 1])}" for place, word in enumerate(words)]


def _draw(rng: random.Random, *, words: range) -> Draft:
    drawn = [_word(rng) for _ in range(rng.choice(words))]
    answer = "".join(word[-1] for word in drawn)
    if answer in NOT_FINITE:  # a gold that no grader takes for an answer
        return _draw(rng, words=words)
    # The answer depends on the order; that two orders are one problem keeps them on one side.
    return Draft(
        " ".join(sorted(drawn)), f"Last letters of {' '.join(drawn)}?", answer, {"level": len(drawn), "words": drawn}
    )


def _word(rng: random.Random) -> str:
    kinds = (VOWELS, CONSONANTS) if rng.random() < 0.5 else (CONSONANTS, VOWELS)
    return "".join(rng.choice(kinds[place % 2]) for place in range(rng.randint(*LETTERS)))
