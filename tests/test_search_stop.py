"""Stopping rules: against their papers' formulas, and what they save in a search."""

from __future__ import annotations

import asyncio
import math
import random
from functools import partial
from statistics import fmean
from typing import Any

import pytest

from forethought.engines.scripted import Scripted
from forethought.search.best_of_n import best_of_n
from forethought.search.choose import Thought
from forethought.search.stop import (
    adaptive_consistency,
    adaptive_dirichlet,
    confident,
    good_enough,
    group_confidence,
    unanimous_window,
)
from forethought.types import Step, Tree, user


def said(*answers: str | None, scores: Any = None) -> list[Thought]:
    return [Thought(i + 1, (), each, scores[i] if scores else None) for i, each in enumerate(answers)]


def votes(*counts: int) -> list[Thought]:
    return said(*(str(answer) for answer, count in enumerate(counts) for _ in range(count)))


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        (1, 0, 3 / 4),  # Beta(2, 1): 1 - x^2 at 1/2
        (4, 0, 31 / 32),
        (2, 1, 11 / 16),  # Beta(3, 2): 1 - (4 x^3 - 3 x^4) at 1/2
        (3, 3, 1 / 2),
    ],
)
def test_the_beta_criterion_is_the_tail_of_its_distribution(first: int, second: int, share: float) -> None:
    for rule in (adaptive_consistency, adaptive_dirichlet):
        assert rule(votes(first, second), confidence=share - 1e-3)
        assert not rule(votes(first, second), confidence=share + 1e-3)


def test_the_dirichlet_criterion_asks_more_where_there_are_more_answers() -> None:
    draw = random.Random(0)
    counts = (6, 3, 2)
    wins = 0
    for _ in range(20_000):
        first, *others = (draw.gammavariate(count + 1, 1.0) for count in counts)
        wins += first > max(others)
    share = wins / 20_000  # 0.80, with a standard error of 0.003
    assert adaptive_dirichlet(votes(*counts), confidence=share - 0.012)
    assert not adaptive_dirichlet(votes(*counts), confidence=share + 0.012)
    assert adaptive_consistency(votes(*counts), confidence=share + 0.012)


@pytest.mark.parametrize("rule", [adaptive_consistency, adaptive_dirichlet])
def test_many_votes_are_no_trouble_and_none_are_not_enough(rule: Any) -> None:
    assert rule(votes(300, 250))
    assert rule(votes(1100))
    assert not rule(votes(300, 295))
    assert not rule(said(None, None), confidence=0.4)
    assert rule(said(None, "1", "1", "1", "1"))


def test_a_window_is_unanimous_only_when_it_is_full_and_its_own() -> None:
    rule = partial(unanimous_window, window=3)
    assert rule(said("1", "1", "1"))
    assert rule(said("1", "2", "1", "3", "3", "3"))
    assert not rule(said("1", "2", "2", "2"))  # the window of the last three began in the one before
    assert not rule(said("1", "2", "2", "2", "2", "3"))
    assert not rule(said(None, None, None))
    assert not rule([])
    with pytest.raises(ValueError, match="window is 0"):
        unanimous_window(said("1"), window=0)


def test_a_score_is_good_enough_and_none_is_no_score() -> None:
    assert good_enough(said("1", "2", scores=[0.9, 0.1]))
    assert not good_enough(said("1", "2", scores=[None, 0.8]))
    assert good_enough(said("1", scores=[0.5]), score=0.5)


def test_group_confidence_is_the_least_sure_stretch() -> None:
    steps = (Step("ab", logprobs=(-1.0, -2.0)), Step("!", sampled=False, logprobs=(-9.0,)), Step("c", logprobs=(-0.5,)))
    assert group_confidence(steps, 1) == -2.0
    assert group_confidence(steps, 2) == pytest.approx(-1.5)
    assert group_confidence(steps, 3) == group_confidence(steps, 99) == fmean((-1.0, -2.0, -0.5))
    assert group_confidence((Step("a"),), 4) is None


def test_only_the_confident_are_heard() -> None:
    def thoughts(*pairs: tuple[str, float]) -> list[Thought]:
        return [
            Thought(i + 1, (Step("x", logprobs=(logprob,)),), answer, None) for i, (answer, logprob) in enumerate(pairs)
        ]

    rule = partial(confident, warm_up=4, keep=0.5, consensus=0.9)
    warm = [("1", -0.1), ("2", -0.9), ("1", -0.2), ("3", -0.8)]
    assert rule(thoughts(*warm))  # the bar is -0.2: the doubtful 2 and 3 are left out
    assert not rule(thoughts(*warm[:3]))
    assert not confident(thoughts(*warm), warm_up=4, keep=1.0, consensus=0.9)
    # exp(-0.1) + exp(-0.2) against exp(-0.15): a share of 0.67
    mixed = thoughts(*warm, ("2", -0.15))
    assert confident(mixed, warm_up=4, keep=0.5, consensus=0.66)
    assert not confident(mixed, warm_up=4, keep=0.5, consensus=0.68)
    assert not confident(said("1", "1", "1", "1"), warm_up=4)  # no log-probabilities
    with pytest.raises(ValueError, match="keep 0"):
        confident(thoughts(*warm), keep=0.0)


def test_what_a_rule_saves() -> None:
    def run(replies: list[str], **options: Any) -> tuple[Tree, int]:
        engine = Scripted(replies)
        return asyncio.run(best_of_n(user("2+2?"), engine, n=40, **options)), engine.calls

    one, two = "\\boxed{1}", "\\boxed{2}"
    assert run([one], at_once=1, stop=adaptive_consistency)[1] == 4
    assert run([one], at_once=5, stop=unanimous_window)[1] == 9  # the next four had begun when the fifth ended
    assert run([one, two], at_once=1, stop=adaptive_consistency)[1] == 40
    tree, calls = run([one] + [two] * 39, at_once=1, stop=adaptive_consistency)
    assert calls == next(n for n in range(1, 40) if _beta(n - 1, 1) >= 0.95)
    assert tree.best == 2


def _beta(first: int, second: int) -> float:
    """The integral of the paper, by the midpoint rule."""
    points = [(i + 0.5) / 20_000 for i in range(20_000)]
    weights = [math.pow(x, first) * math.pow(1 - x, second) for x in points]
    return sum(weights[10_000:]) / sum(weights)
