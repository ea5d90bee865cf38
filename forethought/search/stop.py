"""When enough has been drawn: rules that a search takes as `stop=` and asks after each finished thought.

`stop = (thoughts) -> bool`, all finished thoughts so far in the order they were asked for; a rule's own knobs are
bound with `functools.partial`. None of them knows the right answer: where the majority is wrong, they stop early and
wrong. They save only what has not been started: give the search an `at_once` below its n.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean

from forethought.search.choose import Thought
from forethought.types import Step
from forethought.verify.vote import vote


def adaptive_consistency(thoughts: Sequence[Thought], *, confidence: float = 0.95) -> bool:
    """Is the leading answer likelier than the second with `confidence` (arXiv 2305.11860, the beta
    criterion)? With v1 and v2 votes that is the share of Beta(v1 + 1, v2 + 1) above 1/2."""
    first, second = (*_votes(thoughts), 0, 0)[:2]
    draws = first + second + 1
    return first > 0 and sum(math.comb(draws, k) for k in range(first + 1)) / 2**draws >= confidence


def adaptive_dirichlet(thoughts: Sequence[Thought], *, confidence: float = 0.95) -> bool:
    """As `adaptive_consistency`, but likelier than every other answer seen: that paper's Dirichlet criterion.

    Under Dirichlet(v + 1) that is P(G1 > Gi for all i) of independent Gamma(vi + 1), integrated by Simpson's rule.
    """
    votes = _votes(thoughts)
    if len(votes) < 2:
        return adaptive_consistency(thoughts, confidence=confidence)
    parts, reach = 512, votes[0] + 1 + 12 * math.sqrt(votes[0] + 1)
    total = 0.0
    for i in range(parts + 1):
        x = reach * i / parts
        density = _poisson(votes[0], x) * math.prod(_below(count, x) for count in votes[1:])
        total += (1 if i in (0, parts) else 4 if i % 2 else 2) * density
    return total * reach / parts / 3 >= confidence


def unanimous_window(thoughts: Sequence[Thought], *, window: int = 5) -> bool:
    """Do the last `window` thoughts, a full window of their own, all give one answer (early-stopping
    self-consistency, arXiv 2401.10480)? Give the search `at_once=window`."""
    if window < 1:
        raise ValueError(f"window is {window}; it holds at least 1 thought")
    if not thoughts or len(thoughts) % window:
        return False
    answers = {thought.answer for thought in thoughts[-window:]}
    return len(answers) == 1 and None not in answers


def good_enough(thoughts: Sequence[Thought], *, score: float = 0.9) -> bool:
    """Has a thought reached this score?"""
    return any(thought.score is not None and thought.score >= score for thought in thoughts)


def confident(
    thoughts: Sequence[Thought],
    *,
    warm_up: int = 16,
    keep: float = 0.1,
    group: int = 2048,
    consensus: float = 0.95,
) -> bool:
    """Do the thoughts of some confidence agree (DeepConf online, arXiv 2508.15260)?

    The `warm_up` first thoughts set the bar: the share `keep` of them, at least one, has a `group_confidence` at or
    above it. Thoughts below the bar are left out; the others vote with weights exp(confidence), and the leading answer
    must have `consensus` of them. We have the log-probabilities of the tokens drawn, not those of the k likeliest, and
    thoughts end before they are left out. Without log-probabilities the answer is never yes.
    """
    if warm_up < 1 or not 0 < keep <= 1 or group < 1:
        raise ValueError(f"warm_up is {warm_up}, keep {keep}, group {group}; 1 or more, above 0 to 1, 1 or more")
    if len(thoughts) < warm_up:
        return False
    told = [group_confidence(thought.steps, group) for thought in thoughts]
    first = sorted((each for each in told[:warm_up] if each is not None), reverse=True)
    if not first:
        return False
    bar = first[max(1, round(keep * len(first))) - 1]
    weights = [math.exp(each) if each is not None and each >= bar else None for each in told]
    shares = vote([thought.answer for thought in thoughts], weights).shares
    return max(shares.values(), default=0.0) >= consensus


def group_confidence(steps: Sequence[Step], group: int) -> float | None:
    """The lowest mean log-probability (nats, at most 0) of `group` tokens in a row, of all tokens where there are
    fewer; `None` where the engine does not tell them."""
    logprobs = [logprob for step in steps if step.sampled for logprob in step.logprobs]
    if len(logprobs) <= group:
        return fmean(logprobs) if logprobs else None
    sums = list(accumulate(logprobs, initial=0.0))
    return min(sums[end] - sums[end - group] for end in range(group, len(sums))) / group


def _votes(thoughts: Sequence[Thought]) -> list[int]:
    """How many thoughts gave each answer, most first."""
    counts = Counter(thought.answer for thought in thoughts if thought.answer is not None)
    return [count for _, count in counts.most_common()]


def _below(votes: int, x: float) -> float:
    """P(Gamma(votes + 1) <= x)."""
    return 1 - math.fsum(_poisson(k, x) for k in range(votes + 1))


def _poisson(k: int, x: float) -> float:
    """x^k e^-x / k!, the density of Gamma(k + 1) at x as well."""
    return math.exp(k * math.log(x) - x - math.lgamma(k + 1)) if x else float(k == 0)
