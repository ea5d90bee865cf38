"""Accuracy from one pool of samples per problem, with intervals over problems (arXiv 2407.21787, 2402.06457).

A metric takes the pools of P problems and gives P values, not-a-number where a problem has too few judged samples:
`partial(pass_at, k=8)` is one. `estimate` takes their mean with a bootstrap interval, `gain` the paired difference of
two pools on the same problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np
from numpy.typing import NDArray

from forethought.scaling.plurality import plurality
from forethought.types import Problem, Stop, Trace

RIGHT = 1.0
"""A sample is right when its grade is at least this: a partial score is not."""
RESAMPLES = 2_000

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """What measuring reads of one graded trace."""

    score: float | None
    """The task's own grade; `None` where it could not be judged: such a sample is counted and otherwise left out."""
    answer: str | None = None
    """What a vote counts; a sample without one does not vote."""
    tokens: int | None = None
    """Tokens the model drew; `None` where the engine did not tell."""
    stop: Stop = "end"
    text: str = ""
    judged: float | None = None
    """A verifier's score, which best-of-k chooses by."""
    judge_tokens: int = 0
    """What that verifier spent on it."""


@dataclass(frozen=True)
class Pool:
    """All samples of one problem."""

    problem_id: str
    samples: tuple[Sample, ...]
    question: str = ""
    gold: str | None = None
    level: str | None = None

    @cached_property
    def judged(self) -> tuple[Sample, ...]:
        """The samples whose grade is known: the only ones that any accuracy is computed from."""
        return tuple(sample for sample in self.samples if sample.score is not None)

    @cached_property
    def right(self) -> tuple[bool, ...]:
        """For each judged sample, whether its grade reaches `RIGHT`."""
        return tuple(sample.score is not None and sample.score >= RIGHT for sample in self.judged)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and its 95 % interval (bootstrap percentiles)."""

    value: float
    low: float
    high: float
    n: int
    """Problems it was computed from."""

    @property
    def clear(self) -> bool:
        """For a difference: does the interval leave out 0?"""
        return self.low > 0 or self.high < 0


Metric = Callable[[Sequence[Pool]], Values]


def gather(traces: Iterable[Trace], problems: Iterable[Problem] = (), judge: str | None = None) -> tuple[Pool, ...]:
    """Graded traces as pools, in the order in which problems were first seen.

    `problems` adds the gold answer and `meta["level"]`; `judge` names the verdict that best-of-k chooses by.
    """
    known = {problem.id: problem for problem in problems}
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(trace.problem_id, []).append(trace)
    pools = []
    for problem_id, group in groups.items():
        asked = [message["content"] for message in group[0].messages if message["role"] == "user"]
        problem = known.get(problem_id)
        level = None if problem is None else problem.meta.get("level")
        pools.append(
            Pool(
                problem_id,
                tuple(_sample(trace, judge) for trace in group),
                question=asked[-1] if asked else "",
                gold=None if problem is None else problem.answer,
                level=None if level is None else str(level),
            )
        )
    return tuple(pools)


def _sample(trace: Trace, judge: str | None) -> Sample:
    drawn = [step for step in trace.steps if step.sampled]
    counts = [len(step.tokens) or len(step.logprobs) for step in drawn]
    told = all(count or not step.text for count, step in zip(counts, drawn, strict=True))
    grade, other = trace.verdicts.get("grade"), trace.verdicts.get(judge) if judge else None
    return Sample(
        score=trace.reward,
        answer=None if grade is None else grade.answer,
        tokens=sum(counts) if told else None,
        stop=trace.stop,
        text=trace.text,
        judged=None if other is None else other.score,
        judge_tokens=0 if other is None else other.cost,
    )


def pass_at(pools: Sequence[Pool], k: int) -> Values:
    """Chance that at least one of k samples is right: `1 - C(n-c, k) / C(n, k)` (arXiv 2407.21787, Eq. 1).

    With k=1 it is pass@1, the share of right samples.
    """

    def chance(pool: Pool) -> float:
        n, c = len(pool.right), sum(pool.right)
        return 1 - comb(n - c, k) / comb(n, k)

    return _each(pools, k, chance)


def maj_at(pools: Sequence[Pool], k: int) -> Values:
    """Chance that the most frequent answer of k samples is right, over all k-subsets of the pool.

    A tie goes to each of its answers with equal chance. Samples without an answer do not vote; where none votes, the
    answer is wrong. Where one answer was graded now right, now wrong, its share of right ones counts.
    """

    def chance(pool: Pool) -> float:
        votes = Counter(sample.answer for sample in pool.judged)
        right = Counter(sample.answer for sample, right in zip(pool.judged, pool.right, strict=True) if right)
        blank = votes.pop(None, 0)
        total = 0.0
        for answer, share in right.items():
            if answer is not None:
                others = tuple(sorted(count for other, count in votes.items() if other != answer))
                total += share / votes[answer] * plurality(votes[answer], others, blank, k)
        return total

    return _each(pools, k, chance)


def best_at(pools: Sequence[Pool], k: int) -> Values:
    """Chance that the sample which the judge scores highest among k is right (V-STaR, arXiv 2402.06457, Eq. 3).

    Equal scores are chosen among with equal chance; samples the judge could not score come last.
    """

    def chance(pool: Pool) -> float:
        n = len(pool.judged)
        scores = np.array([-np.inf if s.judged is None else s.judged for s in pool.judged])
        _, group_N = np.unique(-scores, return_inverse=True)
        # The mean over a tie is the expectation of each of its ranks under a random order.
        shares = np.bincount(group_N, weights=np.array(pool.right, dtype=float)) / np.bincount(group_N)
        ranked_N = shares[np.sort(group_N)]
        return float(sum(comb(n - i - 1, k - 1) / comb(n, k) * ranked_N[i] for i in range(n - k + 1)))

    return _each(pools, k, chance)


def guess_at(pools: Sequence[Pool], k: int, others: int = 16) -> Values:
    """pass@k of *other* problems' samples graded against this one's answer: how much of coverage is guessing.

    What counts as right are the answers that were judged right here, and the gold answer as text. The mean over
    `others` other problems, evenly spread over the set.
    """
    if len(pools) < 2:
        raise ValueError(f"guess_at got {len(pools)} problem; the control needs the samples of at least one other")
    answers = [[sample.answer for sample in pool.judged] for pool in pools]
    place = {pool.problem_id: index for index, pool in enumerate(pools)}
    steps = np.unique(np.linspace(1, len(pools) - 1, min(others, len(pools) - 1)).astype(int))

    def chance(pool: Pool) -> float:
        right = {s.answer for s, right in zip(pool.judged, pool.right, strict=True) if right} | {pool.gold}
        right.discard(None)
        chances = []
        for step in steps:
            drawn = answers[(place[pool.problem_id] + int(step)) % len(pools)]
            n, c = len(drawn), sum(answer in right for answer in drawn)
            if n >= k:
                chances.append(1 - comb(n - c, k) / comb(n, k))
        return float(np.mean(chances)) if chances else float("nan")

    return _each(pools, k, chance)


def tokens_at(pools: Sequence[Pool], k: int) -> Values:
    """Mean thinking tokens of k samples of each problem; not-a-number where the engine did not tell."""
    return _spent(pools, k, lambda sample: sample.tokens)


def judged_tokens_at(pools: Sequence[Pool], k: int) -> Values:
    """`tokens_at` with what the judge spent: the price of best-of-k."""
    return _spent(pools, k, lambda sample: None if sample.tokens is None else sample.tokens + sample.judge_tokens)


def _spent(pools: Sequence[Pool], k: int, price: Callable[[Sample], int | None]) -> Values:
    _check(k)
    values = np.full(len(pools), np.nan)
    for index, pool in enumerate(pools):
        prices = [price(sample) for sample in pool.samples]
        if prices and None not in prices:
            values[index] = k * float(np.mean([spent for spent in prices if spent is not None]))
    return values


def _check(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; a metric needs at least 1 sample")


def _each(pools: Sequence[Pool], k: int, chance: Callable[[Pool], float]) -> Values:
    _check(k)
    return np.array([chance(pool) if len(pool.judged) >= k else np.nan for pool in pools], dtype=np.float64)


def estimate(values: Values, *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of P problems' values and its percentile bootstrap interval over problems; not-a-number is left out.

    Where all problems have the same value the interval is that value: 0 of 200 says [0, 0], not "surely 0".

    Raises:
        ValueError: no problem has a value.
    """
    kept = values[~np.isnan(values)]
    if not len(kept):
        raise ValueError(f"none of {len(values)} problems has enough judged samples; lower k or draw more")
    rng = np.random.default_rng(seed)
    means: list[Values] = []
    rows = max(1, (1 << 22) // len(kept))  # 32 MB of indices at a time
    for start in range(0, resamples, rows):
        picks = rng.integers(len(kept), size=(min(rows, resamples - start), len(kept)))
        means.append(kept[picks].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(kept.mean()), float(low), float(high), len(kept))


def gain(
    before: Sequence[Pool], after: Sequence[Pool], metric: Metric, *, over: Metric | None = None, seed: int = 0
) -> Estimate:
    """Mean of `metric(after) - metric(before)` problem by problem, with its paired bootstrap interval.

    `over` measures `before` by another metric: `gain(p, p, partial(maj_at, k=8), over=partial(pass_at, k=1))` is what
    voting buys over one sample.

    Raises:
        ValueError: the two do not hold the same problems, or none has enough judged samples in both.
    """
    old = {pool.problem_id: pool for pool in before}
    new = {pool.problem_id: pool for pool in after}
    if odd := sorted(old.keys() ^ new.keys()):
        raise ValueError(
            f"a paired gain needs the same problems before and after; {len(odd)} stand in only one, e.g. {odd[0]!r}"
        )
    ids = list(old)
    values = metric([new[i] for i in ids]) - (over or metric)([old[i] for i in ids])
    return estimate(values, seed=seed)


def unjudged(pools: Iterable[Pool]) -> int:
    """Samples that could not be judged."""
    return sum(len(pool.samples) - len(pool.judged) for pool in pools)


def stops(pools: Iterable[Pool]) -> Counter[Stop]:
    """Why samples ended, and how many of each."""
    return Counter(sample.stop for pool in pools for sample in pool.samples)


def usable(pools: Sequence[Pool], ks: Iterable[int]) -> tuple[int, ...]:
    """Those of `ks`, in rising order, for which at least nine in ten judged problems have enough judged samples."""
    sizes = [len(pool.judged) for pool in pools if pool.judged]
    return tuple(sorted(k for k in set(ks) if sizes and sum(size >= k for size in sizes) >= 0.9 * len(sizes)))


def has_judge(pools: Iterable[Pool]) -> bool:
    """Did a verifier score any of these samples?"""
    return any(sample.judged is not None for pool in pools for sample in pool.samples)


def has_tokens(pools: Sequence[Pool]) -> bool:
    """Did the engine tell how many tokens it drew, for at least one problem?"""
    return bool(np.isfinite(tokens_at(pools, 1)).any())
