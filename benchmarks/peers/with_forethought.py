"""forethought's turn: the http engine and the judge endpoint, as `forethought solve` opens them."""

from __future__ import annotations

import asyncio
from functools import partial

from forethought.engines.http import HttpEngine
from forethought.search.beam import beam
from forethought.search.best_of_n import best_of_n
from forethought.search.mix import Search
from forethought.types import Sampling, user
from forethought.verify.remote import endpoint
from peers.driver import BRANCH, MAX_TOKENS, MODEL, ROUNDS, STEP_TOKENS, WIDTH, N, Round, compete

SEARCHES: dict[str, Search] = {
    "best-of-n": partial(best_of_n, n=N, sampling=Sampling(MAX_TOKENS)),
    "beam": partial(beam, n=WIDTH * BRANCH, branch=BRANCH, rounds=ROUNDS, sampling=Sampling(STEP_TOKENS)),
}


async def answers(told: Round) -> list[str]:
    """The best thought on each question, empty where none finished."""
    places = asyncio.Semaphore(told.at_once)
    async with HttpEngine(told.url, MODEL, logprobs=False) as engine, endpoint(f"{told.url}/score") as judge:

        async def one(question: str) -> str:
            async with places:
                tree = await SEARCHES[told.search](user(question), engine, verify=judge)
            if faults := [node.step.text for node in tree.nodes if node.step and node.step.stop == "error"]:
                raise RuntimeError(f"{len(faults)} draws failed: {faults[0]}")
            return "" if tree.best is None else "".join(step.text for step in tree.steps(tree.best))

        return await asyncio.gather(*map(one, told.questions))


if __name__ == "__main__":
    compete(lambda told: asyncio.run(answers(told)))
