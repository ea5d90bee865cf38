"""The chat API as OpenAI's own client sees it, over a real server and a scripted engine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from http_server import Server, choice
from serving import THOUGHT, Running, Talking, served, server, thinker, wait

from forethought.engines.http import HttpEngine
from forethought.engines.scripted import Scripted, always, endless
from forethought.serve.models import Served
from forethought.types import Messages, Sampling, Step, Verdict

JSON = {"content-type": "application/json"}
ASKED: Any = [{"role": "user", "content": "2 + 2 = ?"}]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A model that thinks 38 letters and answers in 8."""
    with server(served(Talking(thinker()))) as there:
        yield there


def test_the_thought_is_hidden_and_counted(running: Running) -> None:
    reply = running.client.chat.completions.create(model="small", messages=ASKED)
    message, usage = reply.choices[0].message, reply.usage
    assert (message.role, message.content, reply.choices[0].finish_reason) == ("assistant", "It is 4.", "stop")
    assert "two" not in reply.model_dump_json()
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (
        len(THOUGHT) + 8,
        len(THOUGHT),
    )
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_tells_the_answer_letter_by_letter_and_then_what_it_cost(running: Running) -> None:
    stream = running.client.chat.completions.create(
        model="small", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [delta for delta in deltas if delta] == ["I", "t", " i", "s", " 4", "."]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert (chunks[-1].choices, chunks[-1].usage and chunks[-1].usage.completion_tokens) == ([], len(THOUGHT) + 8)


def test_choices_are_searched_side_by_side() -> None:
    engine = Talking(thinker(), delay=0.05)
    with server(served(engine)) as there:
        reply = there.client.chat.completions.create(model="small", messages=ASKED, n=3)
        streamed = there.client.chat.completions.create(model="small", messages=ASKED, n=2, stream=True)
        texts = {0: "", 1: ""}
        for chunk in streamed:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [each.message.content for each in reply.choices] == ["It is 4."] * 3
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 3 * (len(THOUGHT) + 8)
    assert texts == {0: "It is 4.", 1: "It is 4."}
    assert engine.most_in_flight == 3


def test_a_seed_names_its_choices() -> None:
    engine = Talking(thinker())
    with server(served(engine)) as there:
        for n in (1, 2):
            there.client.chat.completions.create(model="small", messages=ASKED, n=n, seed=7)
    seeds = [sampling.seed for _, prefix, sampling in engine.asked if not prefix]
    assert len(set(seeds)) == 2
    assert seeds.count(seeds[0]) == 2


@pytest.mark.parametrize("search", ["majority", "adaptive-consistency", "force", "revise"])
def test_a_search_is_asked_for_by_name(running: Running, search: str) -> None:
    reply = running.client.chat.completions.create(model=f"small:{search}", messages=ASKED)
    assert reply.choices[0].message.content == "It is 4."
    assert reply.model == f"small:{search}"


def test_a_judge_chooses_and_its_tokens_are_told() -> None:
    said = Scripted(always("ok"), name="judge")

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        await said.sample(messages, steps, Sampling())
        return Verdict(1.0 if "four" in "".join(step.text for step in steps) else 0.0, cost=2)

    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
        return f"<think>\n{'four' if call == 2 else 'five'}\n</think>\nNo. {call}"

    with server(served(Talking(script), judge, thought_tokens=64)) as there:
        reply = there.client.chat.completions.create(model="small:best_of_n", messages=ASKED)
    assert reply.choices[0].message.content == "No. 2"
    assert reply.usage is not None
    details = reply.usage.completion_tokens_details
    assert getattr(details, "judge_tokens", None) == said.tokens == 2 * 4


@pytest.mark.parametrize(("effort", "thinking"), [("low", 256), ("medium", 1024), ("high", 4096)])
def test_effort_is_a_budget_and_an_answer_is_forced_behind_it(effort: Any, thinking: int) -> None:
    engine = Talking(endless())
    with server(served(engine, answer_tokens=20)) as there:
        reply = there.client.chat.completions.create(model="small", messages=ASKED, reasoning_effort=effort)
    (_, _, thought), (_, prefix, answer) = engine.asked
    assert (thought.max_tokens, answer.max_tokens) == (thinking, 20)
    assert prefix[-1].text == "\n</think>\n"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == thinking + 20


def test_no_more_is_drawn_than_max_completion_tokens() -> None:
    engine = Talking(endless())
    with server(served(engine)) as there:
        for limit in (1, 2, 3, 50, 5000):
            for name in ("small", "small:majority", "small:force"):
                before = engine.tokens
                reply = there.client.chat.completions.create(model=name, messages=ASKED, max_completion_tokens=limit)
                assert reply.choices[0].message.content
                assert reply.usage is not None
                assert reply.usage.completion_tokens == engine.tokens - before <= limit


def test_effort_none_answers_at_once() -> None:
    engine = Talking(always("4"))
    with server(served(engine)) as there:
        reply = there.client.chat.completions.create(model="small", messages=ASKED, reasoning_effort="none")
    assert (reply.choices[0].message.content, engine.calls) == ("4", 1)
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_stop_string_ends_the_answer_and_not_the_thought() -> None:
    with server(served(Talking(thinker("one two three")))) as there:
        for stream in (False, True):
            reply: Any = there.client.chat.completions.create(
                model="small", messages=ASKED, stop=["two"], stream=stream
            )
            text = (
                "".join(c.choices[0].delta.content or "" for c in reply) if stream else reply.choices[0].message.content
            )
            assert text == "one"


def test_log_probabilities_are_the_answers(running: Running) -> None:
    reply = running.client.chat.completions.create(model="small", messages=ASKED, logprobs=True)
    told = reply.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert "".join(token.token for token in told.content) == "It is 4."
    assert all(math.isclose(token.logprob, -0.5) for token in told.content)


def test_thoughts_are_shown_where_the_operator_allows_it() -> None:
    with server(served(Talking(thinker()), show_thoughts=True)) as there:
        reply = there.client.chat.completions.create(model="small", messages=ASKED)
    assert getattr(reply.choices[0].message, "reasoning_content", None) == "two and two\nmake four"


@pytest.mark.parametrize(
    ("given", "status", "code", "param"),
    [
        ({"model": "smal"}, 404, "model_not_found", "model"),
        ({"model": "small:mcts"}, 400, "unsupported_value", "model"),
        ({"model": "small:chess"}, 404, "model_not_found", "model"),
        ({"messages": []}, 400, "invalid_type", "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "invalid_type", "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "unsupported_value", None),
        ({"temperature": 3}, 400, "invalid_type", "temperature"),
        ({"max_completion_tokens": 0}, 400, "invalid_type", "max_completion_tokens"),
        ({"reasoning_effort": "huge"}, 400, "unsupported_value", "reasoning_effort"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "invalid_value", "stop"),
        ({"n": 2, "temperature": 0}, 400, "invalid_value", "n"),
        ({"model": "small:majority", "temperature": 0}, 400, "invalid_value", "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "unsupported_parameter", "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_value", "response_format"),
        ({"response_format": {"type": "yaml"}}, 400, "invalid_value", "response_format"),
        ({"temprature": 1}, 400, "unknown_parameter", "temprature"),
    ],
)
def test_what_is_wrong_is_named(running: Running, given: Any, status: int, code: str, param: str | None) -> None:
    asked: Any = {"model": "small", "messages": ASKED, **given}
    reply = httpx.post(f"{running.url}/v1/chat/completions", json=asked)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    if param:
        assert error["param"] == param


def test_the_client_raises_its_own_errors(running: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean `small`"):
        running.client.chat.completions.create(model="smal", messages=ASKED)
    assert (
        httpx.post(f"{running.url}/v1/chat/completions", content=b"{", headers=JSON).json()["error"]["code"]
        == "invalid_json"
    )
    assert httpx.get(f"{running.url}/v1/nothing").json()["error"]["code"] == "unknown_url"


def test_what_is_ignored_is_said(running: Running) -> None:
    raw = running.client.chat.completions.with_raw_response.create(
        model="small", messages=ASKED, user="me", service_tier="auto", frequency_penalty=0
    )
    assert raw.headers["x-forethought-ignored"] == "service_tier, user"


def test_a_failing_engine_is_a_502_that_tells_nothing() -> None:
    with server(served(Scripted(always(OSError("secret trouble"))))) as there:
        with pytest.raises(openai.InternalServerError) as caught:
            there.client.chat.completions.create(model="small", messages=ASKED)
        with pytest.raises(openai.APIError) as streamed:
            list(there.client.chat.completions.create(model="small", messages=ASKED, stream=True))
    assert caught.value.status_code == 502
    assert "secret" not in str(caught.value.body) + str(streamed.value.body)


def test_models_health_and_metrics(running: Running) -> None:
    names = [model.id for model in running.client.models.list()]
    assert names[0] == "small"
    assert "small:majority" in names
    assert "small:mcts" not in names
    assert running.client.models.retrieve("small:majority").id == "small:majority"
    assert httpx.get(f"{running.url}/health").json()["status"] == "ok"
    running.client.chat.completions.create(model="small", messages=ASKED)
    text = httpx.get(f"{running.url}/metrics").text
    assert 'forethought_tokens_total{kind="reasoning",model="small"}' in text
    assert 'forethought_requests_total{path="/v1/chat/completions",status="200"}' in text


def upstream(there: Server, **config: Any) -> Served:
    return served(HttpEngine(there.url, "qwen", backoff=0.001), **config)


def test_an_upstream_is_searched_and_its_thoughts_hidden() -> None:
    with Server() as behind:
        behind.answer = lambda payload, number: {
            "choices": [choice("\n4", "stop", message={"reasoning_content": "secretly two and two"}, stop_reason=None)],
            "usage": {"prompt_tokens": 7, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2}},
        }
        with server(upstream(behind)) as there:
            reply = there.client.chat.completions.create(model="small:majority", messages=ASKED)
    assert reply.choices[0].message.content == "4"
    assert "secretly" not in reply.model_dump_json()
    usage = reply.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 9)
    assert usage.prompt_tokens_details.cached_tokens == 2


def test_tools_are_handed_to_an_upstream_and_thoughts_taken_out() -> None:
    tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    with Server() as behind:
        behind.answer = lambda payload, number: {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "qwen",
            "choices": [
                choice("<think>hm secret</think>ok", message={"tool_calls": [call], "reasoning_content": "secret"})
            ],
        }
        with server(upstream(behind)) as there:
            reply = there.client.chat.completions.create(model="small", messages=ASKED, tools=tools)
        asked = behind.asked[-1][1]
    assert (asked["model"], asked["tools"]) == ("qwen", tools)
    assert reply.model == "small"
    assert reply.choices[0].message.content == "ok"
    assert reply.choices[0].message.tool_calls
    assert "secret" not in reply.model_dump_json()


def test_an_upstreams_stream_is_handed_on_without_its_thoughts() -> None:
    pieces = ["<th", "ink>sec", "ret</thi", "nk>\n\nfo", "ur"]
    lines = [
        {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "qwen", "choices": [
            {"index": 0, "delta": {"content": text, "reasoning_content": "secret"}, "finish_reason": None}]}
        for text in pieces
    ] + [{"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "qwen",
          "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]  # fmt: skip
    body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
    with Server() as behind:
        behind.answer = lambda payload, number: body.encode()
        with server(upstream(behind)) as there:
            chunks = list(
                there.client.chat.completions.create(
                    model="small", messages=ASKED, stream=True, reasoning_effort="none"
                )
            )
        assert "reasoning_effort" not in behind.asked[-1][1]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "four"
    assert "sec" not in "".join(chunk.model_dump_json() for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_an_upstreams_refusal_is_told_and_its_key_is_not() -> None:
    with Server() as behind, server(upstream(behind)) as there:
        behind.answer = lambda payload, number: (400, {"error": {"message": "no such tool", "code": "bad_tool"}})
        with pytest.raises(openai.BadRequestError, match="no such tool"):
            there.client.chat.completions.create(model="small", messages=ASKED, reasoning_effort="none")
        behind.answer = lambda payload, number: (401, {"error": {"message": "key sk-secret is wrong"}})
        with pytest.raises(openai.InternalServerError) as caught:
            there.client.chat.completions.create(model="small", messages=ASKED, reasoning_effort="none")
        assert "sk-secret" not in str(caught.value.body)


def test_a_client_that_goes_away_ends_its_search() -> None:
    engine = Talking(thinker(), delay=30.0)
    with server(served(engine)) as there:
        for stream in (False, True):
            body = {"model": "small", "messages": ASKED, "stream": stream}
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{there.url}/v1/chat/completions", json=body, timeout=httpx.Timeout(10, read=0.5))
            wait(lambda: engine.in_flight == 0, "the search went on", 10)
            wait(lambda: there.app.state.house.gate.inside == 0, "its place was not given back", 10)
    assert engine.calls == 2


def test_silence_is_filled_with_how_far_the_search_has_come() -> None:
    engine = Talking(thinker(), delay=0.3)
    with server(served(engine), heartbeat=0.05) as there:
        body = {"model": "small", "messages": ASKED, "stream": True}
        lines = httpx.post(f"{there.url}/v1/chat/completions", json=body).text.splitlines()
    comments = [line for line in lines if line.startswith(":")]
    assert f": thinking: 1 steps, {len(THOUGHT)} tokens" in comments
    assert lines[-2] == "data: [DONE]"
