"""Tokens told as they are drawn, and text held to a JSON schema."""

from __future__ import annotations

import asyncio
import json

import pytest
from local_engines import run, tiny_engine

from forethought.engines.local.stops import Spelling
from forethought.types import Sampling, Step, user

SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}, "sure": {"enum": ["yes", "no"]}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}


def test_a_stream_tells_each_token_before_the_step_and_draws_the_same() -> None:
    engine, told = tiny_engine(), []

    async def ask() -> tuple[Step, Step, int]:
        sampling = Sampling(max_tokens=40, seed=3)
        drawing = asyncio.create_task(engine.stream(user("hi"), (), sampling, lambda *token: told.append(token)))
        while len(told) < 5:
            assert not drawing.done(), "nothing was told before the end"
            await asyncio.sleep(0.001)
        early = len(told)
        return await drawing, await engine.sample(user("hi"), (), sampling), early

    streamed, sampled, early = run(ask())
    assert (streamed.tokens, streamed.text, streamed.stop) == (sampled.tokens, sampled.text, sampled.stop)
    assert 5 <= early <= len(told)
    assert "".join(text for text, _ in told) == streamed.text
    assert tuple(logprob for _, logprob in told) == streamed.logprobs


def test_a_character_of_several_tokens_is_told_when_it_is_whole() -> None:
    letters = "aé€b"

    def decode(tokens: object) -> str:
        return bytes(tokens).decode(errors="replace")  # type: ignore[call-overload, no-any-return]  # bytes as tokens

    spelling = Spelling(decode)
    assert [spelling.text(byte) for byte in letters.encode()] == ["a", "", "é", "", "", "€", "b"]


@pytest.mark.parametrize("seed", range(4))
def test_a_schema_is_held_beside_free_rows(seed: int) -> None:
    engine = tiny_engine()

    async def ask() -> tuple[Step, Step]:
        held = engine.stream(user("?"), (), Sampling(max_tokens=90, seed=seed), lambda *_: None, json.dumps(SCHEMA))
        return await asyncio.gather(held, engine.sample(user("?"), (), Sampling(max_tokens=20, seed=seed)))

    step, free = run(ask())
    if step.stop == "end":
        held = json.loads(step.text)
        assert set(held) == {"sum", "sure"}
        assert isinstance(held["sum"], int)
        assert held["sure"] in ("yes", "no")
    else:  # an integer may be as long as it likes
        assert (step.stop, step.text[:7]) == ("length", '{"sum":')
    assert not free.text.startswith("{")


def test_a_schema_that_cannot_be_held_is_refused_at_once() -> None:
    engine = tiny_engine()
    for wrong in ('{"type": "wat"}', "{"):
        with pytest.raises(ValueError, match="schema"):
            run(engine.stream(user("?"), (), Sampling(), lambda *_: None, wrong))
    assert engine.usage.requests == 0
