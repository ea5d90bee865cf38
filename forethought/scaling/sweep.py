"""Searches run at a grid of token budgets: what each answered and spent, one record a problem, kept as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forethought.engines.usage import counting
from forethought.rollout import Grade, Search, rollout
from forethought.scaling.measure import RIGHT
from forethought.search.seeds import derive
from forethought.types import Budget, Engine, Messages, Problem, Sampling, Trace, Tree, Verdict
from forethought.verify.verdict import Verify


@dataclass(frozen=True, slots=True)
class Record:
    """One search of one problem, a line of the run's file."""

    strategy: str
    budget: int
    problem: str
    seed: int
    right: bool | None
    """`None` where the answer could not be graded, or the engine failed. A search in which no thought finished is
    wrong."""
    tokens: int
    """Drawn by the generator."""
    judge: int
    """Computed to judge."""
    seconds: float
    """From the first call to the last, other problems being searched at the same time."""


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to the end of a file of JSON Lines, on a line of their own whatever a kill has left there."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, 2) - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(("\n" if torn else "").encode() + text.encode())


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of such a file; a line that a kill cut short is left out, and so its work is done again."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


@dataclass(frozen=True, slots=True)
class Bill:
    """What one search has cost, and what became of it."""

    tokens: int
    judge: int
    seconds: float
    answered: bool
    """Did a thought finish?"""
    failed: bool
    """Did none, and the engine's faults have a part in that?"""


def answering(search: Search, bills: dict[int | None, Bill]) -> Search:
    """`search` whose tree is cut down to the thought it answers with; its price stands in `bills` by its seed.

    Where none finished, to the first there is, faults of the engine last: so `rollout` gives one trace a problem.
    """

    async def one(
        messages: Messages, engine: Engine, *, budget: Budget, verify: Verify | None, sampling: Sampling
    ) -> Tree:
        judged = 0

        async def booked(messages: Messages, steps: Any) -> Verdict:
            nonlocal judged
            assert verify is not None
            verdict = await verify(messages, steps)
            judged += verdict.cost
            return verdict

        with counting() as usage:
            tree = await search(
                messages, engine, budget=budget, verify=None if verify is None else booked, sampling=sampling
            )
        faults = [leaf for leaf in tree.leaves() if tree.steps(leaf)[-1].stop == "error"]
        answered = tree.best is not None
        bills[sampling.seed] = Bill(
            tree.budget.used - judged, judged, usage.seconds, answered, not answered and bool(faults)
        )
        alive = [leaf for leaf in tree.leaves() if leaf not in faults]
        leaf = tree.best or next(iter(alive + faults), 0)
        return _alone(tree, leaf) if leaf else replace(tree, nodes=tree.nodes[:1])

    return one


def _alone(tree: Tree, leaf: int) -> Tree:
    """The path to `leaf` as a tree."""
    root = replace(tree.nodes[0], children=(1,))
    path = [tree.nodes[index] for index in tree.path(leaf)]
    nodes = [
        replace(node, parent=place, children=(place + 2,) if place + 1 < len(path) else ())
        for place, node in enumerate(path)
    ]
    return replace(tree, nodes=(root, *nodes), best=len(path) if tree.best is not None else None)


async def swept(
    problems: Iterable[Problem],
    engine: Engine,
    search: Search,
    *,
    strategy: str,
    budget: int,
    seed: int,
    grade: Grade,
    verify: Verify | None,
    sampling: Sampling,
    concurrency: int = 64,
) -> AsyncGenerator[tuple[Record, Trace]]:
    """`search` of each problem under `budget` tokens, and the thought it answered with, in the problems' order.

    `sampling.seed` and `seed`, which numbers the repetition, say which samples are drawn; each budget has its own, so
    that no judge is spared what it has read at another. `ValueError` as `rollout`.
    """
    own = derive(sampling.seed or 0, strategy, budget, seed)
    bills: dict[int | None, Bill] = {}
    stream = rollout(
        problems,
        engine,
        search=answering(search, bills),
        grade=grade,
        verify=verify,
        sampling=replace(sampling, seed=own),
        budget=Budget(tokens=budget),
        concurrency=concurrency,
    )
    async with aclosing(stream) as groups:
        async for (trace,) in groups:
            bill = bills.pop(derive(own, trace.problem_id))
            right = None if trace.reward is None else trace.reward >= RIGHT
            if not bill.answered:
                right = None if bill.failed else False
            record = Record(
                strategy, budget, trace.problem_id, seed, right, bill.tokens, bill.judge, round(bill.seconds, 4)
            )
            yield record, trace
