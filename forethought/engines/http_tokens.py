"""Prompts as token ids for a server: by a tokenizer that is given, or by the server's own.

| server | conversation | text |
|---|---|---|
| vLLM, SGLang | `/tokenize` with `messages` | `/tokenize` with `prompt` |
| llama.cpp | `/apply-template`, then as text | `/tokenize` with `content` |

A field that belongs to another server is ignored, so that one request serves all three.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any

from forethought.engines.http_wire import Refused, Wire
from forethought.thought.tokens import Tokenizer, prompt_tokens, step_tokens
from forethought.types import Messages, Step

MOST = 4096
"""Most conversations and texts whose ids are remembered."""
ABSENT = (400, 404, 405, 422, 501)
"""What a server answers where it does not know the path, or not these fields."""

Ids = tuple[int, ...]


class Prompts:
    """Token ids of conversations and steps. What a server was asked once, by any number at once, is remembered."""

    def __init__(self, wire: Wire, model: str, tokenizer: Tokenizer | None) -> None:
        self._wire = wire
        self._model = model
        self._tokenizer = tokenizer
        self._known: dict[tuple[str, str], Ids] = {}
        self._asked: dict[tuple[asyncio.AbstractEventLoop, tuple[str, str]], asyncio.Task[Ids]] = {}

    async def render(self, messages: Messages, steps: Sequence[Step]) -> tuple[Ids, list[tuple[int, int]]]:
        """Token ids of the conversation and all steps, and for each step its (start, end) in them.

        Steps are the tokens they were sampled as; one that came without is its text's. Raises `ValueError` where the
        server tells no ids and there is no tokenizer, and what `Wire.post` raises.
        """
        tokens, spans = list(await self._prompt(messages)), []
        for step in steps:
            start = len(tokens)
            tokens += await self._step(step)
            spans.append((start, len(tokens)))
        return tuple(tokens), spans

    async def _prompt(self, messages: Messages) -> Ids:
        key = ("messages", json.dumps(messages))
        if key not in self._known and self._tokenizer is not None:
            self._remember(key, prompt_tokens(self._tokenizer, messages))
        return self._known[key] if key in self._known else await self._once(key, self._conversation(messages))

    async def _step(self, step: Step) -> Ids:
        if step.tokens or not step.text:
            return step.tokens
        if self._tokenizer is not None:
            return step_tokens(self._tokenizer, step)
        key = ("text", step.text)
        return self._known[key] if key in self._known else await self._once(key, self._text(step.text, special=False))

    async def _once(self, key: tuple[str, str], asking: Coroutine[Any, Any, Ids]) -> Ids:
        """The answer to `asking`, shared by all who ask at the same time: one who gives up takes it from nobody."""
        loop = asyncio.get_running_loop()
        if (loop, key) in self._asked:
            asking.close()
        else:
            task = self._asked[loop, key] = loop.create_task(asking)

            def settled(_: asyncio.Task[Ids]) -> None:
                del self._asked[loop, key]
                if not task.cancelled() and task.exception() is None:
                    self._remember(key, task.result())

            task.add_done_callback(settled)
        return await asyncio.shield(self._asked[loop, key])

    def _remember(self, key: tuple[str, str], ids: Ids) -> None:
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = ids

    async def _conversation(self, messages: Messages) -> Ids:
        turns = [dict(message) for message in messages]
        ids = await self._told(
            "/tokenize", {"model": self._model, "messages": turns, "add_generation_prompt": True}, "tokens"
        )
        if ids:  # llama.cpp looks for `content` alone, and finds no token in none
            return _ids(ids)
        text = await self._told("/apply-template", {"messages": turns}, "prompt")
        if text is None:
            raise ValueError(
                f"{self._wire.root} does not tell the token ids of a conversation (POST /tokenize with messages, or "
                "/apply-template); give the model's tokenizer, or api='chat'"
            )
        return await self._text(str(text), special=True)

    async def _text(self, text: str, *, special: bool) -> Ids:
        """`special`: put before it what the model wants at the start of a sequence."""
        vllm = {"model": self._model, "prompt": text, "add_special_tokens": special}
        llama_cpp = {"content": text, "add_special": special, "parse_special": True}
        return _ids(await self._told("/tokenize", vllm | llama_cpp, "tokens"))

    async def _told(self, path: str, payload: dict[str, Any], name: str) -> Any:
        """What the answer has under `name`; `None` where the server does not know the path or the fields."""
        try:
            return (await self._wire.post(self._wire.root + path, payload, holds=name))[name]
        except Refused as refused:
            if refused.status in ABSENT and self._model not in refused.message:
                return None
            raise


def _ids(told: Any) -> Ids:
    if not isinstance(told, list) or not all(isinstance(token, int) for token in told):
        raise ValueError(
            f"the server's /tokenize gave no token ids of a text but {str(told)[:80]}; give the model's tokenizer"
        )
    return tuple(told)
