"""n thoughts drawn at once, and the best of them: by a verifier's score (arXiv 2110.14168, section 4), by a vote
(self-consistency, arXiv 2203.11171), or by both (weighted, arXiv 2206.02336)."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any, Unpack

from forethought.search.budget import UNLIMITED
from forethought.search.work import PLAIN, Options, Work, in_order
from forethought.types import Budget, Engine, Messages, Sampling, Tree
from forethought.verify.verdict import Verify


async def best_of_n(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 8,
    at_once: int | None = None,
    **options: Unpack[Options],
) -> Tree:
    """n chains of one sample each below one root, all asked for at once; chain i is the same whatever n.

    `verify` scores each finished chain (`Node.value`). `choose` says which is best: `choose.highest` (the highest
    score; without scores, the vote), `choose.majority` or `choose.weighted`. A thought that did not finish (length,
    budget, error) is never best, and where none finished `best` is `None`.

    `stop` is asked about chains 0 to i when all of them have ended; from then on no chain is started, and those under
    way come to their end. It saves only what has not been started: keep `at_once` below n (1 is the least spend).

    Under a token budget too small for all, a chain waits for the ones before it to give back what they did not use;
    the last may start with less than `sampling.max_tokens`, and when that is what cut it its `stop` is `budget`.
    When the seconds run out, calls in flight are cancelled and booked at the most they can have cost. `ValueError`s
    of the engine (a prompt longer than the context) and of a verifier propagate.
    """
    if n < 1:
        raise ValueError(f"n is {n}; best-of-n needs at least 1 chain")
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once is {at_once}; at least 1 chain must be under way, or None for all")
    work = Work(messages, engine, budget, verify, sampling, **options)

    def chains() -> Iterator[Coroutine[Any, Any, int | None]]:
        for _ in range(n):
            if work.stopped:
                return
            yield work.grow(0)

    def taken(node: int | None) -> None:
        if node is not None:
            work.ask(node)

    return await work.finish(in_order(chains(), at_once, taken))
