"""optillm's turn: `best_of_n_sampling`, called as its proxy calls it; a thread a question, as in the proxy.

It asks for all thoughts in one request with `n`, and for their ratings one after another.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai  # type: ignore[import-not-found, unused-ignore]  # in a venv of its own
from optillm.bon import best_of_n_sampling  # type: ignore[import-not-found]

from peers.driver import MAX_TOKENS, MODEL, N, Round, compete


def answers(told: Round) -> list[str]:
    """The best thought on each question."""
    with openai.OpenAI(base_url=f"{told.url}/v1", api_key="none") as client:

        def one(question: str) -> str:
            return str(best_of_n_sampling("", question, client, MODEL, N, {"max_tokens": MAX_TOKENS})[0])

        with ThreadPoolExecutor(told.at_once) as threads:
            return list(threads.map(one, told.questions))


if __name__ == "__main__":
    compete(answers)
