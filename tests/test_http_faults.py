"""The http engine against servers that fail, and users who must change something."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from http_server import ASKED, NEVER, Answer, Body, Server, chat, sample, samples, use

from forethought.engines.http import HttpEngine
from forethought.engines.http_body import dispensable
from forethought.engines.http_wire import HttpUsage, base_url
from forethought.types import Sampling, Step


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


# --- servers that fail ---


def after(failures: int, failure: Answer) -> Callable[[Body, int], Answer]:
    return lambda payload, number: failure if number < failures else chat("4")


@pytest.mark.parametrize(
    "failure",
    [(429, {"error": "slow down"}), (503, b"warming up"), b"<html>", b"", b"[]", {"choices": []}, b"\xff{", None],
)
def test_a_passing_fault_is_asked_again(server: Server, failure: Answer) -> None:
    server.answer = after(2, failure)

    async def work(engine: HttpEngine) -> HttpUsage:
        assert (await engine.sample(ASKED, (), Sampling())).text == "4"
        return engine.usage

    assert use(server, work) == HttpUsage(prefilled=7, sampled=3, requests=3, failed=2)


@pytest.mark.parametrize(
    ("failure", "named"),
    [
        ((500, {"error": {"message": "CUDA out of memory"}}), "CUDA out of memory"),
        (b"<html>hello", "<html>hello"),
        (b"", "not JSON"),
        (None, "disconnected"),
    ],
)
def test_a_lasting_fault_is_a_step_that_says_so(server: Server, failure: Answer, named: str) -> None:
    server.answer = lambda payload, number: failure
    steps = samples(server, Sampling(), Sampling(), retries=2)
    for step in steps:
        assert (step.stop, step.sampled) == ("error", False)
        assert named in step.text
        assert "3 times" in step.text
    assert len(server.asked) == 3


def test_retry_after_is_waited_for(server: Server) -> None:
    server.answer = after(1, (429, {}, {"Retry-After": "0.2"}))
    start = time.monotonic()
    assert sample(server).text == "4"
    assert time.monotonic() - start >= 0.2


def test_a_server_that_hangs_is_given_up(server: Server) -> None:
    server.answer = lambda payload, number: NEVER
    step = sample(server, timeout=0.05, retries=1)
    assert step.stop == "error"
    assert "no answer within 0.05 s, asked 2 times" in step.text


def test_a_request_has_one_deadline_for_all_of_its_attempts(server: Server) -> None:
    server.answer = lambda payload, number: (503, b"loading", {"Retry-After": "0.05"}) if number < 2 else NEVER
    start = time.monotonic()
    step = sample(server, deadline=0.4, retries=9)
    assert 0.4 <= time.monotonic() - start < 5
    assert (step.stop, step.sampled) == ("error", False)
    assert (
        step.text == f"{server.url}/v1/chat/completions: status 503: loading; its deadline of 0.4 s passed, "
        "asked 3 times"
    )
    assert server.hung_up.acquire(timeout=5)


def test_waiting_for_a_connection_is_not_held_against_a_request(server: Server) -> None:
    server.answer = lambda payload, number: 0.15
    steps = samples(server, *(Sampling(seed=seed) for seed in range(4)), max_concurrent=1, deadline=0.4)
    assert [step.text for step in steps] == ["4"] * 4


def test_a_request_past_its_deadline_leaves_the_others_alone(server: Server) -> None:
    server.answer = lambda payload, number: NEVER if payload["seed"] == 1 else chat("4")
    steps = samples(server, *(Sampling(seed=seed) for seed in range(3)), deadline=0.3)
    assert [step.stop for step in steps] == ["end", "error", "end"]
    assert "no answer; its deadline of 0.3 s passed" in steps[1].text


def test_no_server_is_a_step_that_says_so(server: Server) -> None:
    server.stop()
    step = sample(server, retries=1)
    assert step.stop == "error"
    assert server.url in step.text


# --- what the user must change ---


def test_a_wrong_key_is_named(server: Server) -> None:
    server.answer = lambda payload, number: (401, {"error": {"message": "Invalid API key"}})
    with pytest.raises(ValueError, match=r"refuses the key \(401\): Invalid API key; give the api_key"):
        samples(server, Sampling(), Sampling(), api_key="wrong")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [404, 400])
def test_an_unknown_model_gets_the_nearest_name(server: Server, status: int) -> None:
    server.answer = lambda payload, number: (status, {"error": {"message": "The model 'qwem' does not exist"}})
    with pytest.raises(ValueError, match="no model 'qwem'; did you mean 'qwen'"):
        sample(server, model="qwem")


def test_a_wrong_path_is_named(server: Server) -> None:
    server.answer = lambda payload, number: (404, b"Not Found")
    with pytest.raises(ValueError, match=r"/v1/chat/completions is not there \(404\): Not Found"):
        sample(server)


def test_a_prompt_that_is_too_long_is_refused_at_once(server: Server) -> None:
    words = "This model's maximum context length is 128 tokens; reduce max_tokens or max_completion_tokens."
    server.answer = lambda payload, number: (400, {"error": {"message": words}})
    with pytest.raises(ValueError, match="maximum context length is 128"):
        sample(server)
    assert len(server.asked) == 1


def test_a_field_that_stays_refused_is_not_blamed(server: Server) -> None:
    server.answer = lambda payload, number: (400, {"error": "no"})

    async def work(engine: HttpEngine) -> frozenset[str]:
        with pytest.raises(ValueError, match=r"refuses the request \(400\): no"):
            await engine.sample(ASKED, [Step("a")], Sampling(stop=("\n",)))
        return engine.lacks

    assert use(server, work) == frozenset()


def test_max_tokens_gives_way_where_its_other_name_is_wanted(server: Server) -> None:
    words = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    server.answer = lambda payload, number: (400, {"error": words}) if "max_tokens" in payload else chat("4")
    assert sample(server, Sampling(max_tokens=5)).text == "4"
    assert server.payloads[-1]["max_completion_tokens"] == 5


def test_only_what_a_refusal_names_is_left_out() -> None:
    payload = {"n": 2, "return_token_ids": True, "seed": 1, "logprobs": True}
    assert dispensable(payload, "Unknown parameter: 'seed'.", {}) == {"seed"}
    assert dispensable(payload, '{"loc": ["body", "return_token_ids"]}', {}) == {"return_token_ids"}
    assert dispensable(payload, "n must be 1 when using greedy sampling", {}) == {"n"}
    assert dispensable(payload, "I can't, and won't\\n", {"n": 2}) == {"return_token_ids"}
    assert dispensable({"seed": 1}, "no", {}) == frozenset()


def test_a_redirect_is_named(server: Server) -> None:
    server.answer = lambda payload, number: (301, b"", {"Location": "https://elsewhere/v1"})
    with pytest.raises(ValueError, match=r"\(301\): it is at https://elsewhere/v1"):
        sample(server)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("https://x.org/api", "https://x.org/api/v1"),
        ("https://x.org/v1beta/openai/", "https://x.org/v1beta/openai"),
    ],
)
def test_urls_come_with_and_without_version(url: str, expected: str) -> None:
    assert base_url(url) == expected


@pytest.mark.parametrize(
    ("url", "options", "named"),
    [
        ("localhost:8000", {}, "'localhost:8000' is no address"),
        ("http://x", {"model": ""}, "model is empty"),
        ("http://x", {"api": "responses"}, "api is 'responses'"),
        ("http://x", {"max_concurrent": 0}, "max_concurrent is 0"),
        ("http://x", {"timeout": 0}, "timeout 0"),
        ("http://x", {"deadline": 0.0}, "deadline is 0.0"),
        ("http://x", {"max_concurrent": 1 << 40}, r"this process may open \d+ files: lower it, or raise the limit"),
        ("http://x", {"tokenizer": object()}, "api is 'chat', which sends text; say api='tokens'"),
    ],
)
def test_bad_settings_are_refused(url: str, options: Body, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        HttpEngine(url, options.pop("model", "qwen"), **options)
