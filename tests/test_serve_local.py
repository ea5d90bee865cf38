"""A tiny model served from its weights: exact counts, tokens as they are drawn, a schema held, a context's end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from local_engines import tiny_engine
from serving import Running, served, server

from forethought.engines.local import LocalEngine
from forethought.thought.tokens import prompt_tokens
from forethought.types import user

ASKED: Any = [{"role": "user", "content": "2 + 2 = ?"}]
SCHEMA = {
    "type": "object",
    "properties": {"sure": {"enum": ["yes", "no"]}},
    "required": ["sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny_engine(dtype="fp32")


@pytest.fixture(scope="module")
def running(engine: LocalEngine) -> Iterator[Running]:
    """Untrained, in a context of 128 characters: thoughts run to their limit, answers are gibberish of that length."""
    with server(served(engine, efforts={"low": 24, "none": 0}, answer_tokens=16, thought_tokens=8)) as there:
        yield there


def test_the_usage_is_what_the_engine_counted(engine: LocalEngine, running: Running) -> None:
    for name in ("small", "small:majority"):
        before = engine.usage.copy()
        reply = running.client.chat.completions.create(model=name, messages=ASKED, seed=3)
        spent = engine.usage.copy() - before
        usage = reply.usage
        assert usage is not None
        assert usage.completion_tokens == spent.sampled <= 24 + 16
        assert usage.prompt_tokens == len(prompt_tokens(engine.tokenizer, user("2 + 2 = ?")))


def test_a_prompt_that_was_read_before_is_cached(running: Running) -> None:
    asked: Any = [{"role": "user", "content": "never asked before"}]
    cached = []
    for _ in range(2):
        usage = running.client.chat.completions.create(model="small", messages=asked).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens - (usage.prompt_tokens_details.cached_tokens or 0))
    # The last token of a prompt is always computed, and so may be the turn's mark before it.
    assert cached[0] > cached[1]
    assert cached[1] <= 2


def test_an_answer_is_streamed_token_by_token(running: Running) -> None:
    asked: dict[str, Any] = {"model": "small", "messages": ASKED, "seed": 5, "reasoning_effort": "none"}
    whole = running.client.chat.completions.create(**asked)
    chunks: Any = running.client.chat.completions.create(**asked, stream=True, logprobs=True)
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices[0].delta.content]
    assert "".join(delta.delta.content for delta in deltas) == whole.choices[0].message.content
    assert len(deltas) > 4
    assert all(delta.logprobs.content for delta in deltas)


def test_an_answer_is_held_to_a_schema_behind_a_free_thought(running: Running) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    for seed in range(3):
        reply = running.client.chat.completions.create(model="small", messages=ASKED, seed=seed, response_format=form)
        assert json.loads(reply.choices[0].message.content or "")["sure"] in ("yes", "no")
    made = running.client.responses.create(
        model="small", input="?", text={"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
    )
    assert set(json.loads(made.output_text)) == {"sure"}


def test_a_schema_that_cannot_be_held_is_a_400_before_anything_is_drawn(engine: LocalEngine, running: Running) -> None:
    before = engine.usage.requests
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "wat"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        running.client.chat.completions.create(model="small", messages=ASKED, response_format=form)
    assert (caught.value.code, engine.usage.requests) == ("invalid_json_schema", before)


def test_a_prompt_longer_than_the_context_is_a_400(running: Running) -> None:
    long: Any = [{"role": "user", "content": "x" * 200}]
    with pytest.raises(openai.BadRequestError, match="holds 128 tokens") as caught:
        running.client.chat.completions.create(model="small", messages=long)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_a_context_that_is_nearly_full_leaves_room_for_an_answer(running: Running) -> None:
    nearly: Any = [{"role": "user", "content": "x" * 90}]
    reply = running.client.chat.completions.create(model="small", messages=nearly, max_completion_tokens=1000)
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 128 - 90
    assert reply.choices[0].finish_reason in ("length", "stop")


def test_thoughts_side_by_side_may_be_more_than_the_context_holds(engine: LocalEngine) -> None:
    spent = {}
    for longest in (40, 200):  # in a context of 128 the longer ones are cut so that an answer finds room
        config: Any = {"efforts": {"low": 800}, "answer_tokens": 16, "thought_tokens": longest}
        with server(served(engine, **config)) as there:
            for name in ("small", "small:majority"):
                reply = there.client.chat.completions.create(model=name, messages=ASKED, seed=3)
                assert reply.usage is not None
                spent[name, longest] = reply.usage.completion_tokens
    for longest in (40, 200):
        assert spent["small", longest] < 128 < spent["small:majority", longest] <= 800 + 16
