"""Votes among answers: the verifier that needs no model (self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forethought.problems.grading import final_answer
from forethought.problems.normal import read


def answer_of(text: str, *, mark: str | None = None) -> str | None:
    """What a thought votes for: the answer that a grader would read, in the one spelling of all plainly equal ones.

    `1/2` and `0.5` vote together, `x+1` and `1+x` do not. `None` where the thought never closed or commits to nothing.
    `mark` is the task's own, as `####`.
    """
    answer, _ = final_answer(text, mark=mark)
    return (read(answer).canonical or None) if answer is not None else None


@dataclass(frozen=True, slots=True)
class Vote:
    """How a vote went."""

    answer: str | None
    """The winner; `None` where nobody voted."""
    index: int | None
    """Which voter speaks for it: the one of the most weight, the first among equals."""
    shares: Mapping[str, float]
    """Each answer's part of all weight, in the order they were first given; they sum to 1."""


def vote(answers: Sequence[str | None], weights: Sequence[float | None] | None = None) -> Vote:
    """Count `answers`, each as its weight (1 without `weights`); a tie goes to the answer given first.

    `None` does not vote, neither as an answer nor as a weight (a verdict that could not be judged is not a 0). Where
    all weights are 0 the first answer wins, with no shares above 0.

    Raises:
        ValueError: a weight is below 0 or not finite, or there are not as many weights as answers.
    """
    if weights is None:
        weights = [1.0] * len(answers)
    if len(weights) != len(answers):
        raise ValueError(f"{len(answers)} answers come with {len(weights)} weights; they must be as many")
    if bad := [w for w in weights if w is not None and not (w >= 0 and math.isfinite(w))]:
        raise ValueError(f"a vote cannot weigh {bad[0]}; map scores to finite weights of 0 or more first")
    sums: dict[str, float] = {}
    voices: dict[str, int] = {}
    heaviest: dict[str, float] = {}
    for index, (answer, weight) in enumerate(zip(answers, weights, strict=True)):
        if answer is None or weight is None:
            continue
        sums[answer] = sums.get(answer, 0.0) + weight
        if answer not in voices or weight > heaviest[answer]:
            voices[answer], heaviest[answer] = index, weight
    if not sums:
        return Vote(None, None, {})
    whole = math.fsum(sums.values()) or 1.0
    winner = max(sums, key=sums.__getitem__)
    return Vote(winner, voices[winner], {answer: weight / whole for answer, weight in sums.items()})


def majority(answers: Sequence[str | None]) -> str | None:
    """The answer given most often, the first given among equals; `None` where nobody voted."""
    return vote(answers).answer


def weighted(answers: Sequence[str | None], weights: Sequence[float | None]) -> str | None:
    """The answer whose weights sum highest (weighted best-of-n, arXiv 2206.02336), the first given among equals."""
    return vote(answers, weights).answer
