"""Wide and deep: searches side by side under one budget, and chains of revisions so (arXiv 2408.03314, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

from forethought.search.budget import UNLIMITED
from forethought.search.revise import Remark, again, revise
from forethought.search.seeds import derive
from forethought.search.work import PLAIN, Options, Work, in_order
from forethought.thought.marks import STEP
from forethought.types import Budget, Engine, Messages, Sampling, Tree
from forethought.verify.verdict import Verify

Search = Callable[..., Coroutine[Any, Any, Tree]]
"""Any search of the house, its own knobs bound."""


async def abreast(
    messages: Messages,
    engine: Engine,
    *,
    search: Search,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 4,
    at_once: int | None = None,
    **options: Unpack[Options],
) -> Tree:
    """n runs of `search` below one root, run i with its own seed and an equal share of what the ones before have left.

    `at_once` of them are under way together (`None`: all); fewer leave later ones what earlier ones did not use. No
    run waits for another's steps. Where there are scores, `choose` is given each run's best thought, chosen alike
    within the run; where there are none, all finished thoughts, for a vote within a run is one of too few.
    `stop` is asked after each run, about all thoughts of the runs so far; from then on none is started.
    """
    if n < 1:
        raise ValueError(f"n is {n}; at least 1 search must run")
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once is {at_once}; at least 1 search must be under way, or None for all")
    work = Work(messages, engine, budget, verify, sampling, mark=STEP, **options)
    options.pop("stop", None)
    account, bests = work.account, set[int]()

    def starts() -> Iterator[Coroutine[Any, Any, tuple[int, Tree]]]:
        for i in range(n):
            if work.stopped:
                return
            share = None if account.left is None else account.left // (n - i)
            if account.expired or share == 0:
                work.notes.append(f"{n - i} of {n} searches not started: the budget was spent")
                return
            yield run(i, account.reserve(share) if share else 0, account.seconds_left)

    async def run(i: int, share: int, seconds: float | None) -> tuple[int, Tree]:
        own, seeded = Budget(share or None, seconds), replace(sampling, seed=derive(sampling.seed, i))
        return share, await search(messages, engine, budget=own, verify=verify, sampling=seeded, **options)

    def taken(result: tuple[int, Tree]) -> None:
        share, tree = result
        account.settle(share, tree.budget.used, tree.budget.calls)
        base = work.tree.graft(tree)
        if tree.best is not None:
            bests.add(base + tree.best)
        if tree.note:
            work.notes.append(tree.note)
        work.ask()

    await in_order(starts(), at_once, taken)
    thoughts = work.thoughts()
    if any(thought.score is not None for thought in thoughts):
        thoughts = [thought for thought in thoughts if thought.node in bests]
    return work.freeze(thoughts)


async def mix(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 4,
    depth: int = 4,
    remark: Remark = again,
    at_once: int | None = None,
    **options: Unpack[Options],
) -> Tree:
    """n chains side by side, each of `depth` attempts that revise one another: see `abreast` and `revise.revise`."""
    search = partial(revise, n=depth, remark=remark)
    return await abreast(
        messages,
        engine,
        budget=budget,
        verify=verify,
        sampling=sampling,
        search=search,
        n=n,
        at_once=at_once,
        **options,
    )
