"""What it takes to find the first error of a wrong thought, by halves and one place after the other.

OmegaPRM's part of `step_labels` (arXiv 2406.06592): the model of the lab goes on from its own thoughts, and a scripted
completer, whose chance at each place is known, from thoughts of as many steps as one likes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forethought.engines.scripted import Script, Scripted
from forethought.recipes.label import Completer, State, bisect, scan, share
from forethought.scaling.measure import estimate
from forethought.scaling.step_labels import straight
from forethought.search.seeds import derive
from forethought.thought.steps import split
from forethought.types import Messages, Problem, Sampling, Step, Trace, Verdict, user

SEARCHES = {"binary": bisect, "linear": scan}
GOOD, BAD = "a right step\n", "a wrong step\n"


@dataclass(frozen=True, slots=True)
class Found:
    """One search for the first error of one thought."""

    search: str
    k: int
    """Continuations at each place."""
    steps: int
    """Of the thought."""
    rollouts: int
    tokens: int
    off: int | None
    """Steps from the true first error to the one found, below 0 where it is too early; `None` where it found none."""
    sound: int
    """Places looked at that have no error so far."""
    zeros: int
    """Those of them from which no continuation was right."""
    expected: float
    """The sum of (1 - p)^k over them; not-a-number where p is not known."""


async def searched(
    problem: Problem,
    trace: Trace,
    truth: int,
    completer: Completer,
    ks: Sequence[int],
    chance: Callable[[int], float] | None = None,
) -> list[Found]:
    """Every search with every k on one wrong thought; all see the same continuations, the first k of `completer.k`.

    Args:
        truth: the true first error, a step's number from 0.
        chance: p of a right end from a sound beginning of so many steps, where it is known.
    """
    states: dict[int, State] = {}
    found = []
    for k in ks:
        for name, search in SEARCHES.items():
            looked: dict[int, float | None] = {}

            async def value(count: int, k: int = k, looked: dict[int, float | None] = looked) -> float | None:
                if count not in states:
                    states[count] = await completer.go_on(problem, trace, count)
                looked[count] = share(states[count].rollouts[:k])
                return looked[count]

            error = await search(value, 0, len(trace.steps))
            drawn = [(count, rollout) for count in looked for rollout in states[count].rollouts[:k]]
            sound = [count for count in looked if count <= truth]
            found.append(
                Found(
                    name,
                    k,
                    len(trace.steps),
                    rollouts=len(drawn),
                    tokens=sum(len(step.tokens) for count, rollout in drawn for step in rollout.steps[count:]),
                    off=None if error is None else error - truth,
                    sound=len(sound),
                    zeros=sum(looked[count] == 0 for count in sound),
                    expected=sum((1 - chance(count)) ** k for count in sound) if chance else float("nan"),
                )
            )
    return found


def reliable(steps: int, reliability: float) -> Script:
    """A completer that does each step rightly with this chance; behind a wrong step all are wrong."""

    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
        rng = random.Random(sampling.seed)
        lines: list[str] = []
        wrong = any(step.text == BAD for step in prefix)
        for _ in range(steps - len(prefix)):
            wrong = wrong or rng.random() >= reliability
            lines.append(BAD if wrong else GOOD)
        return "".join(lines)

    return script


async def scripted(steps: int, reliability: float, thoughts: int, ks: Sequence[int], seed: int = 0) -> list[Found]:
    """`searched` on the first so many wrong thoughts of the completer whose steps are right with chance `reliability`.

    Raises:
        ValueError: thoughts of so few steps hardly ever go wrong.
    """
    engine = Scripted(reliable(steps, reliability), name=f"scripted, {reliability:g} a step")
    sampling = Sampling(len(GOOD) * steps + 1, seed=seed)
    completer = Completer(engine, _grade, sampling, _decode, max(ks))
    found: list[Found] = []
    for index in range(thoughts):
        problem = Problem(f"scripted:{steps}/{index}", user(f"{steps} steps"), "")
        for draw in range(2000):
            own = Sampling(sampling.max_tokens, seed=derive(seed, problem.id, draw))
            pieces = split(await engine.sample(problem.messages, (), own), _decode)
            truth = next((at for at, step in enumerate(pieces) if step.text == BAD), None)
            if truth is not None:
                break
        else:
            raise ValueError(f"none of 2000 thoughts of {steps} steps goes wrong at {reliability:g}; lower reliability")
        thought = Trace(problem.id, problem.messages, pieces, engine.name)
        found += await searched(problem, thought, truth, completer, ks, lambda count: reliability ** (steps - count))
        engine.asked.clear()
    return found


def _grade(problem: Problem, trace: Trace) -> Verdict:
    return Verdict(float(BAD not in trace.text))


def _decode(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def by_length(found: Sequence[Found], k: int) -> str:
    """Rollouts with their intervals, tokens, and where the searches end, against the number of steps; two fits."""
    lines = [f"{'steps':>6} {'search':>7} {'rollouts':>9} {'95 %':>16} {'tokens':>9}  exact  early   late"]
    lengths = sorted({one.steps for one in found})
    means: dict[str, list[float]] = {name: [] for name in SEARCHES}
    for steps in lengths:
        for name in SEARCHES:
            rows = [one for one in found if (one.search, one.k, one.steps) == (name, k, steps)]
            cost = estimate(np.array([one.rollouts for one in rows], dtype=np.float64))
            means[name].append(cost.value)
            interval, tokens = f"[{cost.low:.1f}, {cost.high:.1f}]", sum(one.tokens for one in rows) / len(rows)
            lines.append(f"{steps:>6} {name:>7} {cost.value:>9.1f} {interval:>16} {tokens:>9,.0f} {_sides(rows)}")
    if len(lengths) > 2:
        for name, rollouts_L in means.items():
            for what, x_L in (("log2 M", [math.log2(steps) for steps in lengths]), ("M", lengths)):
                start, slope, explained = straight(x_L, rollouts_L)
                lines.append(f"{name}: {start:.1f} + {slope:.1f} {what}, R2 {explained:.3f}")
    return "\n".join(lines)


def by_k(found: Sequence[Found], steps: int) -> str:
    """Where the searches end against k, and how often a sound place is taken for hopeless, beside (1 - p)^k."""
    lines = [f"{'k':>6} {'search':>7}  exact  early   late  sound places   zeros  (1-p)^k"]
    for k in sorted({one.k for one in found}):
        for name in SEARCHES:
            rows = [one for one in found if (one.search, one.k, one.steps) == (name, k, steps)]
            sound = sum(one.sound for one in rows)
            zeros, expected = (100 * sum(counts) / sound if sound else math.nan for counts in _counts(rows))
            lines.append(f"{k:>6} {name:>7} {_sides(rows)} {sound:>13,} {zeros:7.2f} {expected:8.2f}")
    return "\n".join(lines)


def _counts(rows: Sequence[Found]) -> tuple[list[float], list[float]]:
    return [one.zeros for one in rows], [one.expected for one in rows]


def _sides(rows: Sequence[Found]) -> str:
    """Per cent of the searches that end on the first error, before it, and behind it."""
    off = [one.off for one in rows if one.off is not None]
    counts = (sum(at == 0 for at in off), sum(at < 0 for at in off), sum(at > 0 for at in off))
    return " ".join(f"{100 * count / len(rows):6.1f}" for count in counts)
