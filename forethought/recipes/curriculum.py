"""Curriculum by measured success: the parts of a mixture from which a policy learns are asked more often.

    forethought train grpo --model runs/cold --problems mix:chain:steps=2..8 --curriculum 0.1-0.9
    forethought train grpo --model runs/cold --problems mix:path=mixture.yaml --curriculum learnability

A problem that a policy always solves, or never, teaches it nothing by its own thoughts. What counts is measured on the
thoughts that are drawn to be learned from, so it costs none.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from forethought.problems import Task
from forethought.types import Problem, Trace

WINDOW = 32
"""Thoughts, the newest of each part, whose rewards are its success."""
EXPLORE = 0.2
"""Share of the problems that is drawn by the mixture's own weights: what is out of favour is still measured."""

Rule = Callable[[float], float]
"""A part's success, from 0 to 1, to what its weight is multiplied with."""


def within(success: float, *, low: float, high: float) -> float:
    """All or nothing: 1 from `low` to `high`."""
    return float(low <= success <= high)


def learnability(success: float) -> float:
    """The variance of a reward that is 0 or 1 (arXiv 2502.12272, section 3): most at a half, none at 0 and 1."""
    return success * (1 - success)


def rule(text: str) -> Rule:
    """`learnability`, or bounds like `0.1-0.9`. Raises ValueError for anything else."""
    if text == "learnability":
        return learnability
    low, dash, high = text.partition("-")
    try:
        bounds = float(low), float(high)
    except ValueError:
        bounds = 1.0, 0.0
    if not (dash and 0 <= bounds[0] <= bounds[1] <= 1):
        raise ValueError(f"curriculum is {text!r}; it must be bounds of success like 0.1-0.9, or learnability")
    return partial(within, low=bounds[0], high=bounds[1])


class Curriculum:
    """Draws a mixture's problems by what the policy has done with those before.

    A part that was not measured yet counts as one at half success, and where the rule favours none the mixture's
    weights stand. A part that has no more problems begins again, in another order. Raises ValueError where the task is
    no mixture, and where a part has no problem.
    """

    def __init__(self, text: str, task: Task, seed: int) -> None:
        if task.streams is None:
            raise ValueError(
                f"curriculum is {text!r} and {task.name!r} is no mixture, so there is nothing to choose from; "
                "name its levels as parts, like mix:chain:steps=2..8"
            )
        self.rule = rule(text)
        self.parts = task.parts
        self.seed = seed
        self.success: list[deque[float]] = [deque(maxlen=WINDOW) for _ in self.parts]
        self.drawn: list[str] = []
        """How many problems of each part every rollout had: with them the place in the streams is found again."""
        streams = zip(self.parts, task.streams("train", seed), strict=True)
        self._streams = [_endless(name, stream, seed) for (name, _), stream in streams]

    def shares(self) -> list[float]:
        """The probability of each part in the next rollout."""
        weights = [weight for _, weight in self.parts]
        found = [self.rule(fmean(rewards)) if rewards else self.rule(0.5) for rewards in self.success]
        favoured = [weight * factor for weight, factor in zip(weights, found, strict=True)]
        favoured = favoured if any(favoured) else weights
        return [
            EXPLORE * weight / sum(weights) + (1 - EXPLORE) * favour / sum(favoured)
            for weight, favour in zip(weights, favoured, strict=True)
        ]

    def prompts(self, count: int) -> list[Problem]:
        """The problems of the next rollout, part by part."""
        rng = random.Random(f"{self.seed}/{len(self.drawn)}")
        picked = Counter(rng.choices(range(len(self.parts)), self.shares(), k=count))
        return self._taken([picked[place] for place in range(len(self.parts))])

    def observe(self, problems: Sequence[Problem], groups: Sequence[Sequence[Trace]]) -> None:
        """Take up how the thoughts about these problems were graded; what could not be judged counts for nothing."""
        for problem, group in zip(problems, groups, strict=True):
            rewards = (trace.reward for trace in group)
            self.success[problem.meta["part"]].extend(reward for reward in rewards if reward is not None)

    def metrics(self) -> dict[str, float]:
        """For each part its problems in the last rollout, and its success as measured up to now."""
        counts = map(int, self.drawn[-1].split()) if self.drawn else []
        found = {f"prompts/{name}": float(count) for (name, _), count in zip(self.parts, counts, strict=False)}
        measured = zip(self.parts, self.success, strict=True)
        return found | {f"success/{name}": fmean(rewards) for (name, _), rewards in measured if rewards}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON has it."""
        return {"drawn": self.drawn, "success": [list(rewards) for rewards in self.success]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on, in a new object, where another left off: the same problems follow."""
        for counts in state["drawn"]:
            self._taken(list(map(int, counts.split())))
        for rewards, kept in zip(self.success, state["success"], strict=True):
            rewards.extend(kept)

    def _taken(self, counts: Sequence[int]) -> list[Problem]:
        self.drawn.append(" ".join(map(str, counts)))
        return [next(stream) for stream, count in zip(self._streams, counts, strict=True) for _ in range(count)]


def _endless(name: str, stream: Iterator[Problem], seed: int) -> Iterator[Problem]:
    first = next(stream, None)
    if first is None:
        raise ValueError(f"the curriculum's part {name} has no problem that no other part and no evaluation file has")
    return _epochs(itertools.chain([first], stream), seed)


def _epochs(stream: Iterator[Problem], seed: int) -> Iterator[Problem]:
    kept = []
    for problem in stream:
        kept.append(problem)
        yield problem
    for epoch in itertools.count(1):
        again = list(kept)
        random.Random(f"{seed}/{epoch}").shuffle(again)
        yield from again
