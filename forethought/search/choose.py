"""Which finished thought a search answers with: by score, by vote, by both, or by visits.

`choose = (thoughts) -> thought`, of one or more, in the order they were asked for. Ties go to the earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forethought.types import Step
from forethought.verify.vote import vote


@dataclass(frozen=True, slots=True)
class Thought:
    """A thought that came to its own end, as choices and stopping rules see it."""

    node: int
    steps: tuple[Step, ...]
    answer: str | None
    """What it votes for."""
    score: float | None
    """The verifier's; `None` where it was not or could not be judged."""
    visits: tuple[int, ...] = ()
    """Of each node on its path, from the root's child down."""


Choose = Callable[[Sequence[Thought]], Thought]


def highest(thoughts: Sequence[Thought]) -> Thought:
    """The highest score (arXiv 2110.14168, section 4); where there are no scores, as `majority`."""
    scored = [(thought.score, thought) for thought in thoughts if thought.score is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else majority(thoughts)


def majority(thoughts: Sequence[Thought]) -> Thought:
    """The first thought with the answer given most often (self-consistency, arXiv 2203.11171); without any answer,
    the first thought."""
    return thoughts[vote([thought.answer for thought in thoughts]).index or 0]


def weighted(thoughts: Sequence[Thought]) -> Thought:
    """The highest score among those with the answer whose scores sum highest (weighted best-of-n, arXiv 2206.02336);
    where no score has an answer, as `highest`.

    Raises ValueError where a score is below 0: weights cannot be.
    """
    index = vote([thought.answer for thought in thoughts], [thought.score for thought in thoughts]).index
    return highest(thoughts) if index is None else thoughts[index]


def most_visited(thoughts: Sequence[Thought]) -> Thought:
    """Down from the root, the move visited most among those that lead to a finished thought (AlphaZero's choice of a
    move, arXiv 1712.01815); between equals the higher score."""
    return max(thoughts, key=lambda thought: (thought.visits, -1.0 if thought.score is None else thought.score))


def latest(thoughts: Sequence[Thought]) -> Thought:
    """The one asked for last: of a chain, where it has come to."""
    return thoughts[-1]
