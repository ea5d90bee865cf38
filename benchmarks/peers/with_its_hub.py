"""its-hub's turn: `BestOfN` and `BeamSearch` over its `OpenAICompatibleLanguageModel`.

Its defaults but these, in its favour: no limit on concurrent calls (32 in `LMOrchestrator`), scores of one call asked
for all at once on one kept session, and a `stop_token` by which its beam knows an end without `finish_reason`.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import aiohttp
from its_hub.core.algorithms.beam_search import BeamSearch  # type: ignore[import-not-found]  # in a venv of its own
from its_hub.core.algorithms.bon import BestOfN  # type: ignore[import-not-found]
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel  # type: ignore[import-not-found]
from its_hub.core.lms.step_generation import StepGeneration  # type: ignore[import-not-found]
from its_hub.core.orchestrator import LMOrchestrator  # type: ignore[import-not-found]

from peers.driver import ANSWER, BRANCH, MARK, MAX_TOKENS, MODEL, ROUNDS, WIDTH, N, Round, compete


class Scorer:
    """The server's scorer, as its-hub's outcome and process reward models are asked."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, f"{url}/score"

    async def one(self, question: str, thought: str) -> float:
        """The score of one thought."""
        payload = {"messages": [{"role": "user", "content": question}], "steps": [thought]}
        async with self._session.post(self._url, json=payload) as answer:
            score = (await answer.json())["score"]
        return 0.0 if score is None else float(score)

    async def ascore(self, given: Any, steps: list[str] | None = None, orchestrator: Any = None) -> list[float]:
        """Of (conversations) for best-of-n, of (prompt, thoughts) for the beam."""
        if steps is None:
            pairs = [(turns[0].content, turns[-1].content) for turns in given]
        else:
            pairs = [(given, thought) for thought in steps]
        return await asyncio.gather(*(self.one(question, thought) for question, thought in pairs))


async def answers(told: Round) -> list[str]:
    """The best thought on each question."""
    places = asyncio.Semaphore(told.at_once)
    lm = OpenAICompatibleLanguageModel(
        endpoint=f"{told.url}/v1", api_key="none", model_name=MODEL, temperature=1.0, max_completion_tokens=MAX_TOKENS
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, lm:
        scorer = Scorer(session, told.url)
        steps = StepGeneration(
            max_steps=ROUNDS, step_token=MARK, stop_token=ANSWER, temperature=1.0, include_stop_str_in_output=True
        )
        searches = {
            "best-of-n": (BestOfN(scorer, LMOrchestrator(max_concurrency=-1)), N),
            "beam": (BeamSearch(steps, scorer, beam_width=WIDTH), WIDTH * BRANCH),
        }
        search, budget = searches[told.search]

        async def one(question: str) -> str:
            async with places:
                return str((await search.ainfer(lm, question, budget))["content"])

        return await asyncio.gather(*map(one, told.questions))


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # its beam calls a method that it deprecates itself
    compete(lambda told: asyncio.run(answers(told)))
