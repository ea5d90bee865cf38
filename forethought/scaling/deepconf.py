"""DeepConf on a bank (arXiv 2508.15260): votes of the thoughts that were sure throughout, and unsure ones given up
while they are being drawn.

Confidence is the mean log-probability of the tokens drawn, as `search.stop.group_confidence` has it, where the paper
has the 20 likeliest candidates at each place.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from forethought.scaling.bank import Drawn, Replay
from forethought.scaling.measure import Values
from forethought.search.choose import Thought, majority
from forethought.search.stop import group_confidence
from forethought.verify.vote import vote


def surest(thoughts: Sequence[Thought], *, keep: float = 0.1, group: int = 2048) -> Thought:
    """Offline (section 3.2): the share `keep` of highest group confidence, at least one, votes by exp(confidence);
    without log-probabilities as `majority`.

    Raises:
        ValueError: `keep` is not above 0 and at most 1, or `group` is below 1.
    """
    _check(keep, group)
    told = [group_confidence(thought.steps, group) for thought in thoughts]
    index = vote([thought.answer for thought in thoughts], _weights(told, _bar(told, keep))).index
    return majority(thoughts) if index is None else thoughts[index]


def online(
    drawn: Drawn,
    order: Sequence[int],
    *,
    most: int = 40,
    warm_up: int = 8,
    keep: float = 0.5,
    group: int = 16,
    consensus: float = 0.95,
) -> Replay:
    """Online (section 3.3): what drawing one thought after another in this order, `most` at most, would have come to.

    The `warm_up` first are drawn whole and set the bar: the confidence that the share `keep` of them has. From then on
    a thought is given up at the first `group` of tokens below the bar. Those that hold it vote, and no more are drawn
    once the leading answer has the share `consensus` of their weights.

    Raises:
        ValueError: `warm_up` is below 1 or above `most`, there are fewer than `most` thoughts, or as `surest`.
    """
    _check(keep, group)
    if not 1 <= warm_up <= most <= len(order):
        raise ValueError(f"warm_up is {warm_up}, most {most}, of {len(order)} thoughts; each is at most the next")
    answers: list[str | None] = []
    told: list[float | None] = []
    bar, tokens, counted = -math.inf, 0, 0
    shares: defaultdict[str, float] = defaultdict(float)
    for at in order[:most]:
        if len(told) == warm_up:
            bar = _bar(told, keep)
        if len(told) >= warm_up:
            for answer, weight in zip(answers[counted:], _weights(told[counted:], bar), strict=True):
                if answer is not None and weight:
                    shares[answer] += weight
            counted = len(told)
            if shares and max(shares.values()) >= consensus * sum(shares.values()):
                break
        thought = drawn.thoughts_N[at]
        means = np.empty(0) if thought is None else _means(thought, group)
        below = np.flatnonzero(means < bar)
        tokens += min(drawn.tokens_N[at], group + int(below[0])) if len(below) else drawn.tokens_N[at]
        told.append(float(means.min()) if len(means) else None)
        answers.append(None if thought is None else thought.answer)
    index = vote(answers, _weights(told, bar)).index
    right = False if index is None else drawn.right_N[order[index]]
    return Replay(float("nan") if right is None else float(right), tokens, 0, len(told))


def _check(keep: float, group: int) -> None:
    if not 0 < keep <= 1 or group < 1:
        raise ValueError(f"keep is {keep} and group {group}; keep is above 0 and at most 1, group at least 1")


def _means(thought: Thought, group: int) -> Values:
    """Of each `group` tokens in a row; of all, where there are fewer."""
    logprobs = [logprob for step in thought.steps if step.sampled for logprob in step.logprobs]
    size = min(group, len(logprobs))
    sums = np.cumsum([0.0, *logprobs])
    return (sums[size:] - sums[:-size]) / size if size else np.empty(0)


def _bar(told: Sequence[float | None], keep: float) -> float:
    """What the share `keep` of these, at least one, is at or above."""
    known = sorted((each for each in told if each is not None), reverse=True)
    return known[max(1, round(keep * len(known))) - 1] if known else -math.inf


def _weights(told: Sequence[float | None], bar: float) -> list[float | None]:
    return [math.exp(each) if each is not None and each >= bar else None for each in told]
