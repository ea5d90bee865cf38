"""A bank: many thoughts of each problem, drawn and judged once, from which every parallel strategy is measured.

What a strategy would have drawn, chosen and spent is replayed with the very functions that choose and stop online
(`search.size.PARALLEL`), in the order drawn and in random orders of the same thoughts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forethought.engines.usage import counting, judging
from forethought.rollout import Grade, rollout
from forethought.scaling.measure import RIGHT
from forethought.search.best_of_n import best_of_n
from forethought.search.budget import spent
from forethought.search.choose import Thought
from forethought.search.seeds import derive
from forethought.search.size import Parallel
from forethought.search.tree import finished
from forethought.search.work import together
from forethought.thought.tools import Tools
from forethought.types import Budget, Engine, Messages, Problem, Sampling, Step, Trace, Tree, Verdict
from forethought.verify.verdict import Verify
from forethought.verify.vote import answer_of

JUDGE = "judge"
"""The verdicts' name on a bank's traces."""


@dataclass(slots=True)
class _Prompted:
    """An engine, and how many tokens the longest prompt was that it reported: that of each request, where it tells."""

    engine: Engine
    prompt: int = 0

    @property
    def name(self) -> str:
        return self.engine.name

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        with counting() as usage:
            step = await self.engine.sample(messages, prefix, sampling)
        # A server that was asked for several samples at once bills the prompt to one of them.
        self.prompt = max(self.prompt, usage.prefilled + usage.reused)
        return step

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        return await self.engine.logprobs(messages, steps)


async def fill(
    problems: Iterable[Problem],
    engine: Engine,
    *,
    n: int,
    grade: Grade,
    verify: Verify | None,
    sampling: Sampling,
    concurrency: int = 64,
    tools: Tools | None = None,
) -> AsyncGenerator[tuple[list[Trace], int]]:
    """n thoughts of each problem, graded, each finished one with the verdict of `verify` as `JUDGE`; and how many
    tokens the problem's prompt has, 0 where the engine does not tell.

    In the problems' order; which thoughts they are depends on `sampling.seed` and the problem alone. `ValueError` as
    `rollout`.
    """
    if sampling.seed is None:
        raise ValueError("a bank needs a seed, so that it can be gone on with; give Sampling(seed=0)")
    told: dict[int | None, tuple[int, dict[int, Verdict]]] = {}

    async def draw(
        messages: Messages, engine: Engine, *, budget: Budget, verify: Verify | None, sampling: Sampling
    ) -> Tree:
        prompted = _Prompted(engine)
        tree = await best_of_n(messages, prompted, budget=budget, sampling=sampling, n=n, tools=tools)
        leaves = [leaf for leaf in tree.leaves() if verify and finished(tree.steps(leaf)[-1])]

        async def judged(leaf: int) -> Verdict:
            assert verify is not None
            with judging():
                return await verify(messages, tree.steps(leaf))

        verdicts = await together(judged(leaf) for leaf in leaves)
        told[sampling.seed] = prompted.prompt, dict(zip(leaves, verdicts, strict=True))
        return tree

    stream = rollout(
        problems, engine, search=draw, grade=grade, verify=verify, sampling=sampling, concurrency=concurrency
    )
    async with aclosing(stream) as groups:
        async for traces in groups:
            prompt, verdicts = told.pop(derive(sampling.seed, traces[0].problem_id))
            yield [_with(trace, verdicts) for trace in traces], prompt


def _with(trace: Trace, verdicts: Mapping[int, Verdict]) -> Trace:
    found = verdicts.get(trace.nodes[-1]) if trace.nodes else None
    return trace if found is None else replace(trace, verdicts={**trace.verdicts, JUDGE: found})


@dataclass(frozen=True)
class Drawn:
    """One problem's thoughts, as they are replayed; rows of N in the order they were drawn."""

    problem_id: str
    thoughts_N: tuple[Thought | None, ...]
    """`None` where it did not come to its own end; `Thought.node` is its place here."""
    right_N: tuple[bool | None, ...]
    """`None` where it could not be graded."""
    tokens_N: tuple[int, ...]
    judge_N: tuple[int, ...]
    """What its verdict cost."""
    prompt: int = 0

    @property
    def solved(self) -> float:
        """pass@1: the share of right ones among those that were graded; not-a-number where none was."""
        graded = [right for right in self.right_N if right is not None]
        return sum(graded) / len(graded) if graded else float("nan")


def banked(traces: Iterable[Trace], prompts: Mapping[str, int], max_tokens: int) -> tuple[Drawn, ...]:
    """Traces of `fill`, those of a problem one after another, as they are replayed; faults of the engine left out.

    A step whose tokens the engine does not tell is booked at `max_tokens`, as a search's account would.
    """
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.stop != "error":
            groups.setdefault(trace.problem_id, []).append(trace)
    found = []
    for problem_id, group in groups.items():
        verdicts = [trace.verdicts.get(JUDGE) for trace in group]
        thoughts = [
            Thought(place, trace.steps, answer_of(trace.text), None if verdict is None else verdict.score)
            if finished(trace.steps[-1])
            else None
            for place, (trace, verdict) in enumerate(zip(group, verdicts, strict=True))
        ]
        found.append(
            Drawn(
                problem_id,
                tuple(thoughts),
                tuple(None if trace.reward is None else trace.reward >= RIGHT for trace in group),
                tuple(sum(spent(step, max_tokens) for step in trace.steps) for trace in group),
                tuple(0 if verdict is None else verdict.cost for verdict in verdicts),
                prompts.get(problem_id, 0),
            )
        )
    return tuple(found)


def prices(bank: Sequence[Drawn]) -> tuple[int, int, int]:
    """Tokens of a thought, and of a thought with its verdict, that nine in ten do not exceed; the dearest verdict."""
    if not bank:
        raise ValueError("the bank is empty: the engine gave no thought")
    tokens_N = np.concatenate([drawn.tokens_N for drawn in bank])
    judge_N = np.concatenate([drawn.judge_N for drawn in bank])
    high, judged = (np.quantile(each, 0.9, method="inverted_cdf") for each in (tokens_N, tokens_N + judge_N))
    return max(1, int(high)), max(1, int(judged)), int(judge_N.max())


def orders(size: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """`count` orders of `size` thoughts: first the one they were drawn in, then random ones, always the same."""
    rng = np.random.default_rng(seed)
    return np.stack([np.arange(size), *(rng.permutation(size) for _ in range(count - 1))])


@dataclass(frozen=True, slots=True)
class Replay:
    """What a strategy would have come to."""

    right: float
    """1, 0, or not-a-number where what it chose could not be graded."""
    tokens: int
    judge: int
    samples: int


def replayed(
    drawn: Drawn, order: Sequence[int], rule: Parallel, sizes: Sequence[tuple[int, int]], *, least: int = 0
) -> list[Replay]:
    """`rule` over the thoughts in this order, for each (most thoughts, most tokens) of `sizes`, its verdicts counted.

    The first `least` thoughts are drawn in any case. The thought that passes the budget is cut there, and lost.
    """
    most = min(max([least, *(n for n, _ in sizes)]), len(order))
    enough = _enough(drawn, order[:most], rule)
    judge_N = drawn.judge_N if rule.judged else (0,) * len(drawn.judge_N)
    found = []
    for n, limit in sizes:
        tokens = judge = 0
        kept: list[Thought] = []
        samples = max(least, min(n, enough))
        for place, at in enumerate(order[:samples]):
            cost, verdict = drawn.tokens_N[at], judge_N[at]
            if place >= least and tokens + judge + cost + verdict > limit:
                tokens, samples = max(tokens, limit - judge), place + (tokens + judge < limit)
                break
            tokens, judge = tokens + cost, judge + verdict
            if (thought := drawn.thoughts_N[at]) is not None:
                kept.append(thought)
        right = drawn.right_N[rule.choose(kept).node] if kept else False
        found.append(Replay(float("nan") if right is None else float(right), tokens, judge, min(samples, len(order))))
    return found


def _enough(drawn: Drawn, order: Sequence[int], rule: Parallel) -> int:
    """After how many thoughts `rule` stops; all of them where it does not."""
    if rule.stop is not None:
        thoughts: list[Thought] = []
        for place, at in enumerate(order):
            if (thought := drawn.thoughts_N[at]) is not None:
                thoughts.append(thought)
                if rule.stop(thoughts):
                    return place + 1
    return len(order)
