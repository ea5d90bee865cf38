"""A server's answer told piece by piece: the same step as when it comes whole, whatever the server makes of it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from http_server import ASKED, Answer, Body, Server, chat, use

from forethought.engines.http import HttpEngine
from forethought.engines.http_body import Api, step_of
from forethought.engines.http_stream import Broken, Reader
from forethought.engines.usage import Usage, counting
from forethought.types import Sampling, Step

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


def lines(*chunks: Any) -> bytes:
    body = "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks)
    return f": hello\r\n\r\n{body}data: [DONE]\n\n".encode()


def delta(content: str | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    fields = {name: more.pop(name) for name in ("reasoning_content", "reasoning") if name in more}
    return {"choices": [{"index": 0, "delta": {"content": content, **fields}, "finish_reason": reason, **more}]}


def token(text: str, logprob: float) -> dict[str, Any]:
    return {"content": [{"token": text, "logprob": logprob}]}


def streamed(
    server: Server, sampling: Sampling | None = None, *prefix: Step, **options: Any
) -> tuple[Step, Any, Usage]:
    """The step, what was heard, and the bill."""
    heard: list[tuple[str, float]] = []

    async def work(engine: HttpEngine) -> Step:
        return await engine.stream(ASKED, prefix, sampling or Sampling(), lambda *piece: heard.append(piece))

    with counting() as usage:
        step = use(server, work)
    return step, heard, usage


def test_tokens_are_told_as_they_come_and_make_the_step() -> None:
    with Server() as server:
        server.answer = lambda payload, number: lines(
            delta(""), delta("fo", logprobs=token("fo", -0.5), token_ids=[4]),
            delta("ur", logprobs=token("ur", -0.25), token_ids=[5]), delta(None, "stop", stop_reason=None),
            {"choices": [], "usage": USAGE},
        )  # fmt: skip
        step, heard, usage = streamed(server, Sampling(stop=("\n",)), Step("2+2="))
        payload = server.payloads[0]
    assert heard == [("fo", -0.5), ("ur", -0.25)]
    assert step == Step("four", (4, 5), (-0.5, -0.25), "end")
    assert (usage.prefilled, usage.reused, usage.sampled, usage.requests) == (5, 2, 3, 1)
    assert (payload["stream"], payload["stream_options"]) == (True, {"include_usage": True})
    assert payload["messages"][-1] == {"role": "assistant", "content": "2+2="}


def test_at_another_temperature_no_log_probability_is_told() -> None:
    with Server() as server:
        server.answer = lambda payload, number: lines(delta("4", "stop", logprobs=token("4", -0.5)))
        step, heard, _ = streamed(server, Sampling(temperature=0.5))
    assert (step.text, step.logprobs) == ("4", ())
    assert heard[0][0] == "4"
    assert math.isnan(heard[0][1])


@pytest.mark.parametrize(
    ("prefix", "told"), [((), "<think>a b</think>4"), ((Step("<think>\n", sampled=False),), "a b</think>4")]
)
def test_a_thought_in_a_field_of_its_own_is_told_between_marks(prefix: tuple[Step, ...], told: str) -> None:
    with Server() as server:
        server.answer = lambda payload, number: lines(
            delta(reasoning_content="a "), delta(reasoning="b"), delta("4"), delta(None, "stop")
        )
        step, heard, _ = streamed(server, None, *prefix)
    assert "".join(text for text, _ in heard) == step.text == told


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_however_it_is_cut_it_is_the_step_that_it_would_be_whole(api: Api) -> None:
    if api == "chat":
        chunks = [delta("ünd", logprobs=token("ünd", -1.0)), delta(" so", "length", logprobs=token(" so", -2.0))]
    else:
        told = [{"tokens": [text], "token_logprobs": [value]} for text, value in (("ünd", -1.0), (" so", -2.0))]
        chunks = [
            {"choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": logprobs}]}
            for text, reason, logprobs in zip(("ünd", " so"), (None, "length"), told, strict=True)
        ]
    body = "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks).encode()
    for size in (1, 2, 7, 10_000):
        heard: list[tuple[str, float]] = []
        reader = Reader(api, "", lambda *piece, heard=heard: heard.append(piece), tells=True)

        async def pieces(size: int = size) -> AsyncIterator[bytes]:
            for at in range(0, len(body), size):
                yield body[at : at + size]

        assert asyncio.run(reader.read(pieces())) == b""
        step = step_of(reader.data()["choices"][0], api, "", Sampling(), False)
        assert step == Step("ünd so", (), (-1.0, -2.0), "length")
        assert heard == [("ünd", -1.0), (" so", -2.0)]


def test_a_server_that_streams_nothing_is_heard_at_the_end() -> None:
    with Server() as server:
        server.answer = lambda payload, number: chat("four")
        step, heard, usage = streamed(server)
    assert (step.text, usage.sampled) == ("four", 3)
    assert [text for text, _ in heard] == ["four"]


def test_what_a_server_refuses_is_left_out() -> None:
    def answer(payload: Body, number: int) -> Answer:
        for name in ("stream_options", "stream"):
            if name in payload:
                return 400, {"error": {"message": f"Unrecognized request argument supplied: {name}"}}
        return chat("four")

    with Server() as server:
        server.answer = answer
        step, heard, _ = streamed(server)
        assert [sorted({"stream", "stream_options"} & payload.keys()) for payload in server.payloads] == [
            ["stream", "stream_options"], ["stream"], []]  # fmt: skip
    assert (step.text, [text for text, _ in heard]) == ("four", ["four"])


@pytest.mark.parametrize(
    "broken",
    [lines(delta("fo"), {"error": {"message": "out of memory"}}), lines(delta("fo")), b"data: {}\n\ndata: {\n\n"],
)
def test_a_stream_that_breaks_off_is_an_error_and_not_asked_for_again(broken: bytes) -> None:
    with Server() as server:
        server.answer = lambda payload, number: broken
        step, _, _ = streamed(server)
        assert len(server.asked) == 1
    assert step.stop == "error"


def test_an_unavailable_server_is_asked_again_until_a_stream_begins() -> None:
    with Server() as server:
        server.answer = lambda payload, number: (503, {"error": "busy"}) if number < 2 else lines(delta("4", "stop"))
        step, heard, _ = streamed(server)
        assert len(server.asked) == 3
    assert (step.text, len(heard)) == ("4", 1)


def test_a_piece_that_is_not_json_is_named() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"data: {oh\n"

    with pytest.raises(Broken, match="not JSON"):
        asyncio.run(Reader("chat", "", lambda *piece: None, tells=True).read(pieces()))


def test_given_up_it_closes_its_connection() -> None:
    async def work(engine: HttpEngine) -> None:
        task = asyncio.create_task(engine.stream(ASKED, (), Sampling(), lambda *piece: None))
        while not server.in_flight:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    with Server() as server:
        server.answer = lambda payload, number: 3600.0
        use(server, work)
        assert server.hung_up.acquire(timeout=20)
