"""n thoughts drawn at once, and the best of them: by a verifier's score (arXiv 2110.14168, section 4), else by a vote
(self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from forethought.search.budget import UNLIMITED, Account, spent
from forethought.search.seeds import derive
from forethought.search.tree import Growth, finished
from forethought.types import Budget, Engine, Messages, Sampling, Step, Tree, Verdict
from forethought.verify.vote import answer_of, vote

Verify = Callable[[Messages, tuple[Step, ...]], Awaitable[Verdict]]
"""A judge at test time: it sees the conversation and one thought, and no answer."""

PLAIN = Sampling()


@dataclass(slots=True)
class _Chain:
    sampling: Sampling
    held: int
    """Tokens reserved for its sample and its judge and not yet settled."""
    risk: int = 0
    """Of those, what the call in flight may be spending right now."""
    step: Step | None = None
    verdict: Verdict | None = None


async def best_of_n(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 8,
    verify_tokens: int = 0,
    answer: Callable[[str], str | None] = answer_of,
) -> Tree:
    """n chains of one sample each below one root, all asked for at once; chain i is the same whatever n.

    `verify` scores each finished chain (`Node.value`); `verify_tokens` is the most that one such call computes, and is
    reserved with the sample, so that a chain that starts can also be judged within the budget. `Tree.best` is the
    highest score; without scores it is the first thought with the majority's answer, as `answer` reads it. A thought
    that did not finish (length, budget, error) is never best, and where none finished `best` is `None`.

    Under a token budget too small for all, a chain waits for the ones before it to give back what they did not use;
    the last may start with less than `sampling.max_tokens`, and when that is what cut it its `stop` is `budget`.
    When the seconds run out, calls in flight are cancelled and booked at the most they can have cost. `ValueError`s
    of the engine (a prompt longer than the context) and of a verifier propagate.
    """
    if n < 1:
        raise ValueError(f"n is {n}; best-of-n needs at least 1 chain")
    if verify_tokens < 0:
        raise ValueError(f"verify_tokens is {verify_tokens}; it is the most a call of verify computes, 0 or more")
    account = Account(budget)
    judging = verify_tokens if verify else 0
    chains: list[_Chain] = []
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            while len(chains) < n and (granted := _grant(account, sampling.max_tokens, judging, waiting=bool(running))):
                drawn = replace(sampling, max_tokens=granted - judging, seed=derive(sampling.seed, len(chains)))
                chains.append(_Chain(drawn, granted))
                running.add(asyncio.create_task(_run(chains[-1], messages, engine, verify, judging, account)))
            if not running:
                break
            when = asyncio.FIRST_COMPLETED if len(chains) < n else asyncio.FIRST_EXCEPTION
            done, running = await asyncio.wait(running, timeout=account.seconds_left, return_when=when)
            if failed := [error for task in done if (error := task.exception())]:
                raise failed[0]
            if account.expired:
                break
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for chain in chains:
            if chain.held:
                account.settle(chain.held, chain.risk, calls=int(chain.risk > 0))
    return _grow(messages, engine.name, account.snapshot(), chains, sampling.max_tokens, n, answer)


def _grant(account: Account, most: int, judging: int, waiting: bool) -> int:
    """Tokens for the next chain and its judge; 0 where it must wait for others to settle, or can never start."""
    if waiting and account.left is not None and account.left < most + judging:
        return 0
    granted = account.reserve(most + judging)
    if granted > judging:
        return granted
    account.settle(granted, 0, calls=0)
    return 0


async def _run(
    chain: _Chain, messages: Messages, engine: Engine, verify: Verify | None, judging: int, account: Account
) -> None:
    """Draw the chain's sample and have it judged, each booked as it comes; what is cut off stays in `held`."""
    chain.risk = chain.sampling.max_tokens
    step = await engine.sample(messages, (), chain.sampling)
    chain.step, chain.risk = step, 0
    chain.held -= chain.sampling.max_tokens
    account.settle(chain.sampling.max_tokens, spent(step, chain.sampling.max_tokens))
    if verify and finished(step):
        chain.risk = judging
        chain.verdict = await verify(messages, (step,))
        account.settle(judging, chain.verdict.cost)
    else:
        account.settle(judging, 0, calls=0)
    chain.held = chain.risk = 0


def _grow(
    messages: Messages,
    policy: str,
    budget: Budget,
    chains: Sequence[_Chain],
    most: int,
    n: int,
    answer: Callable[[str], str | None],
) -> Tree:
    tree = Growth(messages, policy)
    faults: list[str] = []
    for chain in chains:
        if (step := chain.step) is None:
            continue
        granted = chain.sampling.max_tokens
        if step.stop == "length" and granted < most and spent(step, granted) >= granted:
            step = replace(step, stop="budget")
        if step.stop == "error":
            faults.append(step.text)
        node = tree.add(0, step, chain.verdict.score if chain.verdict else None)
        if (value := tree.places[node].value) is not None:
            tree.back_up(node, value)
    cut = sum(chain.step is None for chain in chains)
    notes = [f"{len(faults)} of {n} samples failed: {faults[0]}"] if faults else []
    notes += [f"{cut} of {n} samples cut off after {budget.seconds} seconds"] if cut else []
    notes += [f"{n - len(chains)} of {n} samples not started: the budget was spent"] if len(chains) < n else []
    return tree.freeze(budget, _best(tree, answer), "; ".join(notes))


def _best(tree: Growth, answer: Callable[[str], str | None]) -> int | None:
    """The finished leaf to answer with: highest value, else most votes, else the first; ties to the earlier."""
    ended = {i: place.step for i, place in enumerate(tree.places) if place.step and finished(place.step)}
    values = {i: value for i in ended if (value := tree.places[i].value) is not None}
    if values:
        return max(values, key=values.__getitem__)
    winner = vote([answer(step.text) for step in ended.values()]).index
    return list(ended)[winner or 0] if ended else None
