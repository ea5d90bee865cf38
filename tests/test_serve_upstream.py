"""An upstream behind the server: its answer streamed behind a search, and functions over the responses API."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from http_server import Answer, Body, Server, choice
from serving import Talking, served, server, thinker, wait

from forethought.engines.http import HttpEngine
from forethought.serve.models import Served

ASKED: Any = [{"role": "user", "content": "2 + 2 = ?"}]
ADD: Any = {"type": "function", "name": "add", "description": "adds", "parameters": {"type": "object"}, "strict": True}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 4},
}


def upstream(there: Server, **config: Any) -> Served:
    return served(HttpEngine(there.url, "qwen", backoff=0.001), **config)


def lines(*chunks: Any) -> bytes:
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n").encode()


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def calls(*made: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, name, arguments in made
    ]


def answering(payload: Body, number: int) -> Answer:
    """A call of a function as long as nothing came of one; then the answer."""
    given = [turn["content"] for turn in payload["messages"] if turn["role"] == "tool"]
    if given:
        return {"choices": [choice(f"<think>secret</think>It is {given[-1]}.")], "usage": USAGE}
    message = {"tool_calls": calls(("c1", "add", '{"a": 2}'), ("c2", "add", "{}")), "reasoning_content": "secret"}
    return {"choices": [choice("Let me add.", "tool_calls", message=message)], "usage": USAGE}


@pytest.fixture
def behind() -> Iterator[Server]:
    with Server() as there:
        yield there


def test_an_answer_behind_a_search_is_streamed_as_the_upstream_draws_it(behind: Server) -> None:
    def answer(payload: Body, number: int) -> Answer:
        if not payload.get("stream"):
            return {"choices": [choice("<think>two and", "length")], "usage": USAGE}
        rows = [{"content": [{"token": text, "logprob": -0.5}]} for text in ("fo", "ur")]
        pieces = [delta(content=text) for text in ("fo", "ur")]
        for piece, row in zip(pieces, rows, strict=True):
            piece["choices"][0]["logprobs"] = row
        return lines(*pieces, delta("stop"), {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})

    behind.answer = answer
    with server(upstream(behind, thought_tokens=128)) as there:
        chunks: Any = there.client.chat.completions.create(
            model="small:majority", messages=ASKED, stream=True, logprobs=True, stream_options={"include_usage": True}
        )
        told = list(chunks)
        events: Any = there.client.responses.create(model="small:majority", input="?", stream=True)
        texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    deltas = [chunk.choices[0] for chunk in told if chunk.choices and chunk.choices[0].delta.content]
    assert [one.delta.content for one in deltas] == ["fo", "ur"] == texts
    assert [one.logprobs.content[0].logprob for one in deltas] == [-0.5, -0.5]
    assert told[-1].usage.completion_tokens == 2 * 9 + 2
    assert told[-1].usage.completion_tokens_details.reasoning_tokens == 2 * 9
    assert behind.payloads[-1]["messages"][-1]["content"] == "<think>two and\n</think>\n"


def test_functions_are_called_and_what_they_gave_is_read(behind: Server) -> None:
    behind.answer = answering
    with server(upstream(behind)) as there:
        asked: list[Any] = list(ASKED)
        create: Any = there.client.responses.create
        first = create(model="small", input=asked, tools=[ADD], tool_choice={"type": "function", "name": "add"})
        asked += [item.model_dump(exclude_none=True) for item in first.output]
        asked += [{"type": "function_call_output", "call_id": item.call_id, "output": text} for item, text in
                  zip(first.output[1:], ("4", "5"), strict=True)]  # fmt: skip
        second = create(model="small", input=asked, tools=[ADD], max_output_tokens=50, parallel_tool_calls=False)
    sent, again = behind.payloads
    function = {name: ADD[name] for name in ("name", "description", "parameters", "strict")}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert (again["max_tokens"], again["parallel_tool_calls"]) == (50, False)
    assert [(item.type, getattr(item, "arguments", None)) for item in first.output] == [
        ("message", None), ("function_call", '{"a": 2}'), ("function_call", "{}")]  # fmt: skip
    assert (first.status, first.tools[0].name, first.output_text) == ("completed", "add", "Let me add.")
    made = calls(("c1", "add", '{"a": 2}'), ("c2", "add", "{}"))
    assert again["messages"] == [
        *ASKED,
        {"role": "assistant", "content": "Let me add.", "tool_calls": made},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "tool", "tool_call_id": "c2", "content": "5"},
    ]  # fmt: skip
    assert second.output_text == "It is 5."
    assert second.usage.input_tokens_details.cached_tokens == 2
    assert (second.usage.output_tokens, second.usage.output_tokens_details.reasoning_tokens) == (9, 4)
    assert "secret" not in first.model_dump_json() + second.model_dump_json()


def test_a_conversation_with_calls_goes_on_from_the_store(behind: Server, tmp_path: Path) -> None:
    behind.answer = answering
    local = served(Talking(thinker()), name="here")
    with server(upstream(behind), local, store=str(tmp_path / "db")) as there:
        create: Any = there.client.responses.create
        first = create(model="small", input="2 + 2 = ?", tools=[ADD], background=True)
        wait(lambda: there.client.responses.retrieve(first.id).status == "completed", "it was never made")
        given = [{"type": "function_call_output", "call_id": name, "output": "4"} for name in ("c1", "c2")]
        second = create(model="small", input=given, previous_response_id=first.id)
        assert second.output_text == "It is 4."
        with pytest.raises(openai.BadRequestError, match="a server of its own"):
            create(model="here", input=given, previous_response_id=first.id)
        with pytest.raises(openai.BadRequestError, match="not supported by this model"):
            create(model="here", input="?", tools=[ADD])
    roles = [turn["role"] for turn in behind.payloads[1]["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]


def test_a_stream_tells_text_and_calls_as_they_come(behind: Server) -> None:
    def call(index: int, **fields: Any) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, **fields}])

    behind.answer = lambda payload, number: lines(
        delta(role="assistant", content=""), delta(content="<think>sec"), delta(content="ret</think>Let "),
        delta(content="me.", reasoning_content="secret"),
        call(0, id="c1", type="function", function={"name": "add", "arguments": ""}),
        call(0, function={"arguments": '{"a"'}), call(0, function={"arguments": ": 2}"}),
        call(1, id="c2", type="function", function={"name": "add", "arguments": "{}"}),
        delta("tool_calls"), {"choices": [], "usage": USAGE},
    )  # fmt: skip
    with (
        server(upstream(behind)) as there,
        there.client.responses.stream(model="small", input="?", tools=[ADD]) as stream,
    ):
        events: list[Any] = list(stream)
        final: Any = stream.get_final_response()
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "Let me."
    assert [(item.call_id, item.arguments) for item in final.output[1:]] == [("c1", '{"a": 2}'), ("c2", "{}")]
    assert final.usage.output_tokens == 9
    assert "secret" not in "".join(event.model_dump_json(warnings=False) for event in events)


def test_a_schema_is_the_upstreams_to_hold(behind: Server) -> None:
    behind.answer = lambda payload, number: {"choices": [choice('{"sure":', "length")], "usage": USAGE}
    form: Any = {"type": "json_schema", "name": "sure", "schema": {"type": "object"}, "strict": True}
    with server(upstream(behind)) as there:
        made = there.client.responses.create(
            model="small", input="?", text={"format": form}, reasoning={"effort": "high"}, instructions="Be sure."
        )
    assert (made.status, made.output_text) == ("incomplete", '{"sure":')
    (payload,) = behind.payloads
    inner = {"name": "sure", "schema": {"type": "object"}, "strict": True}
    assert payload["response_format"] == {"type": "json_schema", "json_schema": inner}
    assert payload["reasoning_effort"] == "high"
    assert payload["messages"][0] == {"role": "system", "content": "Be sure."}


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "unsupported_value", "tools[0]"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"),
        ({"tools": "add"}, "invalid_value", "tools"),
        ({"tools": [ADD], "tool_choice": {"type": "mcp"}}, "unsupported_value", "tool_choice"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "missing_required_parameter", "input[0]"),
        ({"input": [{"type": "function_call_output"}]}, "missing_required_parameter", "input[0].call_id"),
    ],
)
def test_what_is_no_function_is_refused_before_it_is_sent(behind: Server, given: Any, code: str, param: str) -> None:
    with server(upstream(behind)) as there:
        reply = httpx.post(f"{there.url}/v1/responses", json={"model": "small", "input": "?", **given})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param)
    assert behind.asked == []


@pytest.mark.parametrize(
    "broken",
    [
        lines(delta(content="Let ")),
        lines(delta(content="Let "), {"error": {"message": "secret trouble"}}),
        lines(delta(tool_calls=[{"index": 0, "id": "c", "function": {"arguments": "{}"}}]), delta("tool_calls")),
        b"data: oh",
    ],
)
def test_an_upstream_that_breaks_off_is_a_failed_response(behind: Server, broken: bytes) -> None:
    behind.answer = lambda payload, number: broken
    with server(upstream(behind)) as there:
        events: list[Any] = list(there.client.responses.create(model="small", input="?", tools=[ADD], stream=True))
        assert there.app.state.house.gate.inside == 0
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "engine_error"
    assert "secret" not in events[-1].model_dump_json(warnings=False)


def garbage(field: str) -> list[Any]:
    pieces = [3, {"content": 3}, {"tool_calls": 3}, {"tool_calls": [3]}, {"tool_calls": [{"function": 3}]}]
    choices = [[3], 3, "abc", [{field: 3}], [{"index": [], field: {}}], *([{field: piece}] for piece in pieces[1:])]
    return [
        *({"choices": choice, "usage": 3} for choice in choices),
        {"choices": [{field: {"content": "\ud800"}}]},
        {"choices": [{field: {"content": "4"}, "logprobs": math.nan}]},
        {"error": {"message": "Incorrect API key: secret"}, "choices": []},
    ]


@pytest.mark.parametrize("answer", garbage("message"))
def test_an_upstream_that_answers_garbage_is_an_error_of_its_own(behind: Server, answer: Any) -> None:
    behind.answer = lambda payload, number: answer
    with server(upstream(behind)) as there:
        asked = {"model": "small", "input": "?", "tools": [ADD]}
        assert httpx.post(f"{there.url}/v1/responses", json=asked).status_code == 502
        chat = {"model": "small", "messages": ASKED, "seed": 1, "tools": [ADD]}
        reply = httpx.post(f"{there.url}/v1/chat/completions", json=chat)
        assert reply.status_code in (200, 502)  # what can be looked through for thoughts is the client's to read
        assert "secret" not in reply.text
        assert there.app.state.house.gate.inside == 0


@pytest.mark.parametrize("chunk", garbage("delta"))
def test_a_stream_of_garbage_is_an_error_told_in_it(behind: Server, chunk: Any) -> None:
    behind.answer = lambda payload, number: lines(chunk)
    with server(upstream(behind)) as there:
        events: list[Any] = list(there.client.responses.create(model="small", input="?", tools=[ADD], stream=True))
        assert events[-1].type == "response.failed"
        chat = {"model": "small", "messages": ASKED, "tools": [ADD], "stream": True}
        assert "secret" not in httpx.post(f"{there.url}/v1/chat/completions", json=chat).text
        searched: list[Any] = list(there.client.responses.create(model="small", input="?", stream=True))
        assert searched[-1].type == "response.failed"
        assert there.app.state.house.gate.inside == 0


def test_an_upstreams_refusal_is_told(behind: Server) -> None:
    behind.answer = lambda payload, number: (400, {"error": {"message": "no such tool", "code": "bad_tool"}})
    with server(upstream(behind)) as there, pytest.raises(openai.BadRequestError, match="no such tool"):
        there.client.responses.create(model="small", input="?", tools=[ADD])
