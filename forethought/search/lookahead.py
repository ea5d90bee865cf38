"""Beam search that judges a step by where it leads (arXiv 2408.03314, section 5.2: lookahead search)."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from forethought.search.beam import levels, shape
from forethought.search.budget import UNLIMITED
from forethought.search.work import PLAIN, Options, Work
from forethought.thought.marks import STEP
from forethought.types import Budget, Engine, Messages, Sampling, Tree
from forethought.verify.verdict import Verify


async def lookahead(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 16,
    branch: int | None = 4,
    rounds: int = 40,
    k: int = 3,
    **options: Unpack[Options],
) -> Tree:
    """As `beam`, but a step's score is the verdict on the thought k greedy steps further on (or at its end).

    Those steps are booked and thrown away: up to k + 1 times the tokens of `beam`. A simulation that runs into a limit
    or a fault is judged as far as it came.
    """
    width, branch = shape(n, branch, rounds, verify)
    if k < 0:
        raise ValueError(f"k is {k}; look 0 or more steps ahead")
    work = Work(messages, engine, budget, verify, sampling, mark=STEP, **options)
    greedy = replace(work.sampling, temperature=0.0)

    async def grow(parent: int) -> int | None:
        node = work.tree.add(parent)
        async with work.hold(1 + k, judge=True) as hold:
            if hold is None:
                return None
            seen = (*work.tree.steps(parent), *await work.draw(hold, node))
            for _ in range(k):
                if not work.leads(seen[-1]) or not hold.room:
                    break
                steps = await work.sample(hold, seen, greedy)
                if not work.leads(steps[-1]) and not work.ends(steps[-1]):
                    break
                seen = (*seen, *steps)
            if work.alive(node):
                await work.judge(hold, node, seen)
        return node

    return await work.finish(levels(work, grow, width, branch, rounds))
