"""Votes among answers: the verifier that needs no model (self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forethought.thought.marks import after_thought, boxes

_SEPARATED = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!,?\d)")
_SEPARATOR = re.compile(r"[,{}\\]+")


def answer_of(text: str) -> str | None:
    """What a thought votes for: its last box after the thought, spaces and thousands separators evened out.

    `None` where the thought never closed or nothing is boxed. Only a spelling is evened out: `1/2` and `0.5` are two
    answers here, where a grader may find them equal.
    """
    shown = after_thought(text)
    if shown is None or not (found := boxes(shown)):
        return None
    answer = _SEPARATED.sub(lambda number: _SEPARATOR.sub("", number[0]), " ".join(found[-1].split()))
    return answer.strip("$ ").removesuffix(".") or None


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
