"""Nothing that a client sends makes the server fail: bodies by hand, and hundreds drawn from its OpenAPI schema."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from local_engines import tiny_engine
from schemathesis import GenerationMode
from serving import Running, Talking, served, server, thinker

from forethought.serve.wire import CHAT, COMPLETIONS, RESPONSES
from forethought.thought import tokens

JSON = {"content-type": "application/json"}
FATES = {"/v1/chat/completions": CHAT, "/v1/responses": RESPONSES, "/v1/completions": COMPLETIONS}
MUST = {"messages", "input", "prompt"}
TURN = b'"messages": [{"role": "user", "content": "?"}]'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    store = tmp_path_factory.mktemp("store") / "responses.sqlite"
    with server(served(Talking(thinker())), store=str(store), running=64) as there:
        yield there


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", b'{"model": "small", "messages": [{"role": "user", "content": "\\ud800"}]}'),
        ("chat/completions", b'{"model": "small", "messages": [{"role": "user", "content": [{"text": "\\udfff"}]}]}'),
        ("chat/completions", b'{"model": "\\ud800", ' + TURN + b"}"),
        ("chat/completions", b'{"model": "small", "temperature": NaN, ' + TURN + b"}"),
        ("chat/completions", b'{"model": "small", "\\ud800": 1, ' + TURN + b"}"),
        ("chat/completions", b"[" * 100_000),
        ("chat/completions", b"\xff\xfe"),
        ("chat/completions", b"null"),
        ("responses", b'{"model": "small", "input": [{"role": "user", "content": [{"text": "\\ud800"}]}]}'),
        ("responses", b'{"model": "small", "input": "?", "text": {"format": {"type": "text", "x": NaN}}}'),
        ("responses", b'{"model": "small", "input": "?", "instructions": "\\udc00"}'),
        ("responses", b'{"model": "small", "input": "?", "max_output_tokens": 1' + b"0" * 5000 + b"}"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused(running: Running, path: str, body: bytes) -> None:
    reply = httpx.post(f"{running.url}/v1/{path}", content=body, headers=JSON)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_long_conversation_is_encoded_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, threads = tiny_engine(), dict[int, str]()

    def told(tokenizer: Any, messages: Any) -> tuple[int, ...]:
        threads[len(messages[0]["content"])] = threading.current_thread().name
        return (1,) * 999

    monkeypatch.setattr("forethought.thought.tokens.prompt_tokens", told)
    with server(served(engine)) as there:
        for length in (10, tokens.LONG):
            body = {"model": "small", "messages": [{"role": "user", "content": "x" * length}]}
            reply = httpx.post(f"{there.url}/v1/chat/completions", json=body)
            assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert threads[tokens.LONG].startswith("forethought-encode")
    assert not threads[10].startswith("forethought-encode")


def test_no_request_that_the_schema_allows_or_nearly_allows_is_answered_with_a_5xx(running: Running) -> None:
    schema = schemathesis.openapi.from_dict(httpx.get(f"{running.url}/openapi.json").json())
    answered: Counter[tuple[str, int]] = Counter()
    operations: Any = schema.get_all_operations()
    for found in operations:
        operation = found.ok()
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:
            _try(running, operation.as_strategy(generation_mode=mode), answered, mode is GenerationMode.POSITIVE)
    assert not [answer for answer in answered if answer[1] >= 500]
    asked = {label for label, status in answered if status == 200}
    assert {f"POST {path}" for path in FATES} <= asked, "nothing got as far as the model"
    assert answered.total() > 200


def _try(running: Running, cases: Any, answered: Counter[tuple[str, int]], sensible: bool) -> None:
    """Ask with the cases that are drawn; sensible ones name the model that there is, and few parameters."""

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=cases, few=strategies.sets(strategies.sampled_from(sorted({*CHAT, *RESPONSES})), max_size=6))
    def one(case: Any, few: set[str]) -> None:
        label = case.operation.label
        if sensible and case.operation.path in FATES and isinstance(case.body, dict):
            kept = few & FATES[case.operation.path].keys() | MUST
            case.body = {name: value for name, value in case.body.items() if name in kept} | {"model": "small"}
        reply = case.call(base_url=running.url, timeout=60)
        answered[label, reply.status_code] += 1
        assert reply.status_code < 500, (label, case.body, reply.text)

    one()
