"""llm-reasoners' turn: `BeamSearch` with a world model whose states are the steps so far.

What a user of it writes is written in its favour: the next steps of a path are one request with `n`, each step is
scored once, and its OpenAI client, which by default sleeps three seconds before each request, is not used. A thread a
question; inside one it calls one after another.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import httpx
import openai  # type: ignore[import-not-found, unused-ignore]  # in a venv of its own

from peers.driver import BRANCH, MARK, MODEL, ROUNDS, STEP_TOKENS, WIDTH, Round, compete

for name in ("torch", "transformers"):  # imported by its base for annotations alone
    sys.modules[name] = ModuleType(name)
sys.modules["transformers"].StoppingCriteriaList = object  # type: ignore[attr-defined]  # a module made here

from reasoners.algorithm import BeamSearch  # type: ignore[import-not-found]  # noqa: E402 -- after them

State = tuple[str, ...]


class World:
    """States are the steps so far; a step that does not end in the mark is the last."""

    def init_state(self) -> State:
        return ()

    def step(self, state: State, action: str) -> tuple[State, dict[str, Any]]:
        return (*state, action), {}

    def is_terminal(self, state: State) -> bool:
        return bool(state) and not state[-1].endswith(MARK)


class Search:
    """Next steps from the server's model, rewards from its scorer."""

    def __init__(self, question: str, client: openai.OpenAI, scorer: httpx.Client) -> None:
        self._turns = [{"role": "user", "content": question}]
        self._client, self._scorer = client, scorer

    def get_actions(self, state: State) -> list[str]:
        extra: dict[str, Any] = {"include_stop_str_in_output": True}
        turns = list(self._turns)
        if state:
            turns.append({"role": "assistant", "content": "".join(state)})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        answer = self._client.chat.completions.create(
            model=MODEL,
            messages=turns,  # type: ignore[arg-type]  # plain objects
            n=BRANCH,
            stop=MARK,
            temperature=1.0,
            max_tokens=STEP_TOKENS,
            extra_body=extra,
        )
        return [choice.message.content or "" for choice in answer.choices]

    def fast_reward(self, state: State, action: str) -> tuple[float, dict[str, Any]]:
        return 0.0, {}

    def reward(self, state: State, action: str, **_: Any) -> tuple[float, dict[str, Any]]:
        answer = self._scorer.post("/score", json={"messages": self._turns, "steps": [*state, action]})
        return answer.raise_for_status().json()["score"] or 0.0, {}


def answers(told: Round) -> list[str]:
    """The best thought on each question, empty where none finished."""
    limits = httpx.Limits(max_connections=None)
    with (
        openai.OpenAI(base_url=f"{told.url}/v1", api_key="none") as client,
        httpx.Client(base_url=told.url, limits=limits, timeout=600) as scorer,
        ThreadPoolExecutor(told.at_once) as threads,
    ):

        def one(question: str) -> str:
            search = BeamSearch(beam_size=WIDTH, max_depth=ROUNDS)
            return "".join(search(World(), Search(question, client, scorer)).terminal_state or ())

        return list(threads.map(one, told.questions))


if __name__ == "__main__":
    compete(answers)
