"""/v1/completions as OpenAI's own client sees it: a bare text gone on with, here and on an upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from http_server import Server
from local_engines import tiny_engine
from serving import Running, Talking, served, server

from forethought.engines.http import HttpEngine
from forethought.engines.local import LocalEngine
from forethought.engines.scripted import always
from forethought.types import Sampling, Step

ASKED: dict[str, Any] = {"model": "small", "prompt": "2+2=", "max_tokens": 12, "temperature": 0.7, "seed": 5}


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny_engine(dtype="fp32")


@pytest.fixture(scope="module")
def running(engine: LocalEngine) -> Iterator[Running]:
    with server(served(engine)) as there:
        yield there


def test_a_text_is_gone_on_with_as_it_is(engine: LocalEngine, running: Running) -> None:
    sampling = Sampling(12, 0.7, 1.0, (), 5)
    step = asyncio.run(tiny_engine(dtype="fp32").sample((), (Step("2+2=", sampled=False),), sampling))
    made = running.client.completions.create(**ASKED, logprobs=1)
    choice = made.choices[0]
    assert choice.text == step.text
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (4, len(step.tokens))
    assert choice.finish_reason == ("length" if step.stop == "length" else "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    pairs = zip(step.tokens, step.logprobs, strict=True)
    seen = [logprob for token, logprob in pairs if engine.decode([token])]  # special tokens have no text
    assert choice.logprobs.token_logprobs == pytest.approx(seen, abs=1e-4)
    assert choice.logprobs.text_offset == list(range(4, 4 + len(choice.text)))


def test_a_stream_has_the_same_text_in_pieces_and_what_it_cost(running: Running) -> None:
    whole = running.client.completions.create(**ASKED, n=2)
    chunks: list[Any] = list(
        running.client.completions.create(**ASKED, n=2, logprobs=0, stream=True, stream_options={"include_usage": True})
    )
    texts, reasons = ["", ""], ["", ""]
    for chunk in chunks[:-1]:
        (one,) = chunk.choices
        if one.logprobs is not None:
            begin = 4 + len(texts[one.index])
            assert one.logprobs.text_offset == list(range(begin, begin + len(one.text)))
        texts[one.index] += one.text
        reasons[one.index] = one.finish_reason or reasons[one.index]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert texts[0] == running.client.completions.create(**ASKED).choices[0].text != texts[1]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens if whole.usage else None


def test_a_stop_ends_it_and_echo_repeats_the_prompt(running: Running) -> None:
    text = running.client.completions.create(**ASKED).choices[0].text
    stopped = running.client.completions.create(**ASKED, stop=text[2]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(text[2])], "stop")
    assert running.client.completions.create(**ASKED, echo=True).choices[0].text == "2+2=" + text
    pieces: Any = running.client.completions.create(**ASKED, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == "2+2=" + text


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        ({"prompt": ""}, "unsupported_value", "prompt"),
        ({"prompt": ["a", "b"]}, "unsupported_value", "prompt"),
        ({"prompt": [1, 2]}, "unsupported_value", "prompt"),
        ({"prompt": "x" * 128}, "context_length_exceeded", "prompt"),
        ({"model": "small:majority"}, "unsupported_value", "model"),
        ({"logprobs": 2}, "unsupported_value", "logprobs"),
        ({"echo": True, "logprobs": 0}, "unsupported_value", "echo"),
        ({"n": 2, "temperature": 0}, "invalid_value", "n"),
        ({"suffix": "x"}, "unsupported_parameter", "suffix"),
        ({"best_of": 2}, "unsupported_parameter", "best_of"),
        ({"top_k": 2}, "unknown_parameter", "top_k"),
    ],
)
def test_what_cannot_be_done_is_refused(running: Running, given: Any, code: str, param: str) -> None:
    reply = httpx.post(f"{running.url}/v1/completions", json={**ASKED, **given})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize(
    ("shows", "prompt", "drawn", "text"),
    [
        (False, "2+2=", " ok <think>secret</think> 4 ", " ok  4 "),
        (False, "<think>", "secret</think> 4 ", " 4 "),
        (True, "2+2=", " ok <think>secret</think> 4 ", " ok <think>secret</think> 4 "),
        (True, "<think>", "secret</think> 4 ", "secret</think> 4 "),
    ],
)
def test_a_thought_in_it_stays_hidden_unless_thoughts_are_shown(
    shows: bool, prompt: str, drawn: str, text: str
) -> None:
    with server(served(Talking(always(drawn)), show_thoughts=shows)) as there:
        made = there.client.completions.create(model="small", prompt=prompt, max_tokens=64)
        pieces = there.client.completions.create(model="small", prompt=prompt, max_tokens=64, stream=True)
        assert made.choices[0].text == text
        assert "".join(chunk.choices[0].text for chunk in pieces) == text


def test_a_failing_engine_is_a_502() -> None:
    with server(served(Talking(always(OSError("secret"))))) as there:
        with pytest.raises(openai.InternalServerError) as caught:
            there.client.completions.create(model="small", prompt="?")
        with pytest.raises(openai.APIError):
            list(there.client.completions.create(model="small", prompt="?", stream=True))
        assert there.app.state.house.gate.inside == 0
    assert "secret" not in str(caught.value.body)


def test_an_upstream_is_handed_the_request() -> None:
    with Server() as behind:
        behind.answer = lambda payload, number: {
            "id": "x",
            "choices": [{"index": 0, "text": " 4<think>secret</think>", "finish_reason": "stop"}],
        }
        with server(served(HttpEngine(behind.url, "qwen"))) as there:
            made = there.client.completions.create(model="small", prompt=["2+2="], suffix="!", extra_body={"top_k": 3})
    assert made.choices[0].text == " 4"
    assert behind.payloads == [{"model": "qwen", "prompt": ["2+2="], "suffix": "!", "top_k": 3}]
