"""Beam search over steps, guided by a verifier (arXiv 2408.03314, section 5.2), and many narrow ones side by side:
diverse verifier tree search (Beeching et al. 2024, Scaling test-time compute with open models)."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Unpack

from forethought.search.budget import UNLIMITED
from forethought.search.mix import abreast
from forethought.search.work import PLAIN, Options, Work, together
from forethought.thought.marks import STEP
from forethought.types import Budget, Engine, Messages, Sampling, Tree
from forethought.verify.verdict import Verify


async def beam(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 16,
    branch: int | None = 4,
    rounds: int = 40,
    **options: Unpack[Options],
) -> Tree:
    """n candidates a round: `branch` next steps of each of the n / `branch` best so far; `branch=None` is sqrt(n).

    `sampling.max_tokens` is for one step. A finished thought keeps its place in the beam, which is that much narrower
    from then on; the search ends when all places are so taken, or after `rounds` steps. A step that says what a
    sibling said is kept only where there are too few others, one that could not be judged only where too few could.
    """
    width, branch = shape(n, branch, rounds, verify)
    work = Work(messages, engine, budget, verify, sampling, mark=STEP, **options)
    return await work.finish(levels(work, work.grow, width, branch, rounds))


async def dvts(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 16,
    branch: int | None = 4,
    rounds: int = 40,
    at_once: int | None = None,
    **options: Unpack[Options],
) -> Tree:
    """n / `branch` beams of width 1, none of which waits for another; see `mix.abreast` for `at_once` and the budget.

    As many samples a round as `beam` of the same n, but no subtree can crowd out the others.
    """
    width, branch = shape(n, branch, rounds, verify)
    search = partial(beam, n=branch, branch=branch, rounds=rounds)
    return await abreast(
        messages,
        engine,
        budget=budget,
        verify=verify,
        sampling=sampling,
        search=search,
        n=width,
        at_once=at_once,
        **options,
    )


def shape(n: int, branch: int | None, rounds: int, verify: Verify | None) -> tuple[int, int]:
    """(width, branch) of a beam search; a `ValueError` where it cannot be."""
    branch = math.isqrt(max(n, 1)) if branch is None else branch
    if branch < 1 or n < branch or n % branch:
        raise ValueError(f"n is {n} and branch {branch}; n must be a multiple of branch, which is at least 1")
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; a thought needs at least 1 step")
    if verify is None:
        raise ValueError("this search follows a verifier's scores, and verify is None; without one, take best_of_n")
    return n // branch, branch


async def levels(
    work: Work, grow: Callable[[int], Coroutine[Any, Any, int | None]], width: int, branch: int, rounds: int
) -> None:
    """Beam search with `grow`, which draws and judges one child of a node."""
    beam = [0] * width
    for _ in range(rounds):
        grown = await together(grow(node) for node in beam for _ in range(branch))
        kept = ranked(work, grown)[:width]
        beam = [node for node in kept if work.open(node)]
        width -= len(kept) - len(beam)
        if work.ask() or not beam:
            return


def ranked(work: Work, nodes: list[int | None]) -> list[int]:
    """Those from which a thought goes on or where it ended, best first."""
    keys: dict[int, tuple[bool, bool, float]] = {}
    said: set[tuple[int, str]] = set()
    for node in nodes:
        if node is not None and work.alive(node) and (step := work.tree.places[node].move):
            place = work.tree.places[node]
            keys[node] = (place.parent, step.text) in said, place.value is None, -(place.value or 0.0)
            said.add((place.parent, step.text))
    return sorted(keys, key=keys.__getitem__)
