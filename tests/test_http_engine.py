"""The http engine: what is asked, why a step ended, which samples leave together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import ASKED, NEVER, Answer, Body, Server, chat, choice, many, sample, samples, use

from forethought.engines.http import HttpEngine
from forethought.engines.http_body import CONTINUE
from forethought.engines.usage import Usage, counting, judging
from forethought.types import Sampling, Step, user


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


# --- one request ---


def test_what_is_asked(server: Server) -> None:
    step = sample(server, Sampling(max_tokens=5, temperature=0.5, top_p=0.9, seed=3), api_key="k", extra={"top_k": 2})
    assert step == Step(text="4", stop="end")
    path, payload, headers = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer k"
    assert payload == {
        "model": "qwen",
        "messages": [{"role": "user", "content": "2 + 2 = ?"}],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "top_k": 2,
        "return_token_ids": True,
        "logprobs": True,
    }


def test_a_prefix_is_gone_on_with(server: Server) -> None:
    sample(server, None, Step("2 + 2"), Step("Wait", sampled=False), Step(""))
    payload = server.payloads[0]
    assert payload["messages"][1:] == [{"role": "assistant", "content": "2 + 2Wait"}]
    assert (payload["continue_final_message"], payload["add_generation_prompt"]) == (True, False)


def test_a_server_that_cannot_go_on_is_asked_to_in_words(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    def answer(payload: Body, number: int) -> Answer:
        unknown = {"error": {"message": "Unrecognized request argument supplied: continue_final_message"}}
        return (400, unknown) if "continue_final_message" in payload else chat("= 4")

    server.answer = answer

    async def twice(engine: HttpEngine) -> frozenset[str]:
        for _ in range(2):
            assert (await engine.sample(ASKED, [Step("2 + 2 ")], Sampling())).text == "= 4"
        return engine.lacks

    with caplog.at_level(logging.WARNING):
        assert use(server, twice) == {"continue_final_message"}
    assert len(server.asked) == 3  # refused once, never asked again
    assert server.payloads[-1]["messages"][1:] == [
        {"role": "assistant", "content": "2 + 2 "},
        {"role": "user", "content": CONTINUE},
    ]
    assert "add_generation_prompt" not in server.payloads[-1]
    assert len(caplog.records) == 1


def test_completions_get_plain_text(server: Server) -> None:
    server.answer = lambda payload, number: {"choices": [{"text": " 4", "finish_reason": "length"}]}
    step = sample(server, None, Step("= "), api="completions")
    assert (step.text, step.stop) == (" 4", "length")
    assert server.asked[0][0] == "/v1/completions"
    assert server.payloads[0]["prompt"] == "2 + 2 = ?\n= "


def test_unicode_survives(server: Server) -> None:
    server.answer = lambda payload, number: chat(payload["messages"][0]["content"])
    assert use(server, lambda e: e.sample(user("né 🙂 \u2028 ∑"), (), Sampling())).text == "né 🙂 \u2028 ∑"


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_tokens_and_logprobs_are_kept_as_the_server_gives_them(server: Server, api: Any) -> None:
    told: Body = {"content": [{"token": "4", "logprob": -0.1}, {"token": "", "logprob": -0.2}]}
    if api == "completions":
        told = {"tokens": ["4", ""], "token_logprobs": [-0.1, -0.2]}
    server.answer = lambda payload, number: {
        "choices": [{"text": "4", **choice("4", logprobs=told, token_ids=[19, 2])}],
    }
    step = sample(server, Sampling(temperature=1.0), api=api)
    assert (step.tokens, step.logprobs) == ((19, 2), (-0.1, -0.2))
    # Elsewhere than at temperature 1 the server's log-probabilities are not those of the draw.
    hot = sample(server, Sampling(temperature=0.7), api=api)
    assert (hot.tokens, hot.logprobs) == ((19, 2), ())
    assert [payload["logprobs"] for payload in server.payloads] == [True if api == "chat" else 1] * 2
    sample(server, logprobs=False)
    assert "logprobs" not in server.payloads[-1]


def test_logprobs_without_ids_leave_tokens_empty(server: Server) -> None:
    server.answer = lambda payload, number: chat("4", logprobs={"content": [{"token": "4", "logprob": -0.1}]})
    step = sample(server)
    assert (step.tokens, step.logprobs) == ((), (-0.1,))


def test_ids_are_found_where_llama_cpp_puts_them(server: Server) -> None:
    told = [{"id": 19, "token": "4", "logprob": -0.1}, {"id": 2, "token": "", "logprob": -0.2}]
    server.answer = lambda payload, number: chat("4", logprobs={"content": told})
    assert sample(server).tokens == (19, 2)
    assert sample(server, Sampling(temperature=0.7)) == Step(text="4", tokens=(19, 2))


def test_a_server_that_refuses_logprobs_is_asked_without(server: Server) -> None:
    refusal = {"error": {"message": "Unsupported parameter", "param": None}}
    server.answer = lambda payload, number: (400, refusal) if "logprobs" in payload else chat("4")

    async def work(engine: HttpEngine) -> frozenset[str]:
        assert (await engine.sample(ASKED, (), Sampling())).text == "4"
        return engine.lacks

    assert use(server, work) == {"logprobs", "return_token_ids"}  # the words did not say which


# --- why a step ended ---


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("stop", "end"),
        ("eos_token", "end"),
        ("tool_calls", "end"),
        ("length", "length"),
        ("content_filter", "error"),
        ("abort", "error"),
        (None, "error"),
    ],
)
def test_finish_reasons_are_not_folded(server: Server, reason: str | None, stop: str) -> None:
    server.answer = lambda payload, number: chat("4", reason)
    step = sample(server)
    assert step.stop == stop
    assert step.sampled == (stop != "error")
    if stop == "error":
        assert repr(reason) in step.text


@pytest.mark.parametrize(
    ("text", "more", "expected", "stop"),
    [
        ("a\n", {"stop_reason": "\n"}, "a\n", "stop"),  # vLLM that keeps the string
        ("a", {"stop_reason": "\n"}, "a\n", "stop"),  # and one that does not
        ("a", {"stop_reason": None}, "a", "end"),
        ("a", {"stop_reason": 151645}, "a", "end"),
        ("a", {"matched_stop": "\n"}, "a\n", "stop"),  # SGLang
        ("a", {"matched_stop": 2}, "a", "end"),
        ("a\n", {}, "a\n", "stop"),
        ("a", {}, "a\n", "stop"),  # not told: going on costs a call, giving up the thought costs the thought
    ],
)
def test_a_stop_string_is_told_from_an_end(server: Server, text: str, more: Body, expected: str, stop: str) -> None:
    server.answer = lambda payload, number: chat(text, **more)
    step = sample(server, Sampling(stop=("\n",)))
    assert (step.text, step.stop) == (expected, stop)
    assert server.payloads[0]["stop"] == ["\n"]
    assert server.payloads[0]["include_stop_str_in_output"] is True


def test_a_server_that_shows_stop_strings_is_remembered(server: Server) -> None:
    server.answer = lambda payload, number: chat(["a\n", "b"][number])

    async def work(engine: HttpEngine) -> list[str]:
        return [(await engine.sample(ASKED, (), Sampling(stop=("\n",)))).stop for _ in range(2)]

    assert use(server, work) == ["stop", "end"]


def test_several_stop_strings_need_a_server_that_tells(server: Server) -> None:
    with pytest.raises(ValueError, match="give one stop"):
        sample(server, Sampling(stop=("\n", "</s>")))


@pytest.mark.parametrize(
    ("message", "prefix", "expected"),
    [
        ({"content": "4", "reasoning_content": "\n2+2\n"}, "", "<think>\n2+2\n</think>4"),
        ({"content": "4", "reasoning": "2+2"}, "", "<think>2+2</think>4"),
        ({"content": None, "reasoning_content": "2+"}, "", "<think>2+"),  # cut inside: it stays open
        ({"content": "4", "reasoning_content": "+2"}, "<think>2", "+2</think>4"),
        ({"content": "4", "reasoning_content": "+2"}, "<think>2</think>", "<think>+2</think>4"),
        ({"content": "4", "reasoning_content": None}, "", "4"),
    ],
)
def test_hidden_reasoning_is_put_back(server: Server, message: Body, prefix: str, expected: str) -> None:
    server.answer = lambda payload, number: chat(None, "length", message=message)
    assert sample(server, None, Step(prefix)).text == expected


# --- coalescing ---


def test_equal_samples_leave_as_one_request(server: Server) -> None:
    server.answer = many
    steps = samples(server, *[Sampling(temperature=0.8)] * 8)
    assert [payload.get("n") for payload in server.payloads] == [8]
    assert [step.text for step in steps] == [f"0.{index} seed None" for index in range(8)]


def test_meters_share_one_requests_cost_by_who_asked(server: Server) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 15}}
    server.answer = lambda payload, number: many(payload, number) | {"usage": usage}

    async def metered(engine: HttpEngine) -> Usage:
        with counting() as meter:
            await engine.sample(ASKED, (), Sampling())
        return meter

    async def go(engine: HttpEngine) -> tuple[Usage, Usage, Usage]:
        with judging():
            first, second = await asyncio.gather(metered(engine), metered(engine))
        return first, second, engine.usage

    first, second, engine = use(server, go)
    assert (first.prefilled, first.reused, second.prefilled, second.reused) == (5, 15, 0, 0)
    assert first.sampled + second.sampled == engine.sampled == 9
    assert first.judged + second.judged == 5 + 9


def test_a_seed_is_one_draw_whatever_is_asked_for_beside_it(server: Server) -> None:
    server.answer = many
    steps = samples(server, *(Sampling(seed=seed) for seed in (12, 11, 10, 40, 11)))
    assert sorted((payload["seed"], payload.get("n", 1)) for payload in server.payloads) == [
        (10, 1),
        (11, 1),
        (12, 1),
        (40, 1),
    ]
    assert [step.text.split(" ", 1)[1] for step in steps] == [f"seed {seed}" for seed in (12, 11, 10, 40, 11)]


def test_greedy_samples_are_one_draw(server: Server) -> None:
    steps = samples(server, Sampling(temperature=0, seed=1), Sampling(temperature=0, seed=2), Sampling(temperature=0))
    assert [step.text for step in steps] == ["4"] * 3
    assert ["n" in payload for payload in server.payloads] == [False]


def test_different_samples_are_kept_apart(server: Server) -> None:
    async def work(engine: HttpEngine) -> None:
        first, second = Sampling(), Sampling(max_tokens=9)
        await asyncio.gather(
            engine.sample(ASKED, (), first),
            engine.sample(ASKED, (), second),
            engine.sample(ASKED, [Step("a")], first),
            engine.sample(user("3 + 3 = ?"), (), first),
        )
        await engine.sample(ASKED, (), first)  # a later turn of the loop

    use(server, work)
    assert len(server.asked) == 5
    assert not [payload for payload in server.payloads if "n" in payload]


@pytest.mark.parametrize(
    "refusal",
    [
        (400, {"error": {"message": "Only one completion choice is allowed", "param": "n"}}),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "extra fields not permitted"}]}),
        None,
    ],
    ids=["400", "422", "one choice"],
)
def test_where_n_is_refused_samples_are_asked_singly_ever_after(server: Server, refusal: Any) -> None:
    def answer(payload: Body, number: int) -> Answer:
        return refusal if refusal and "n" in payload else chat(f"{number}")

    server.answer = answer

    async def work(engine: HttpEngine) -> list[str]:
        texts = []
        for _ in range(2):
            steps = await asyncio.gather(*(engine.sample(ASKED, (), Sampling()) for _ in range(4)))
            texts += [step.text for step in steps]
        assert engine.lacks == {"n"}
        return texts

    texts = use(server, work)
    assert len(set(texts)) == 8  # nobody got another's draw
    assert len(server.asked) == 8 + (refusal is not None)
    assert sum("n" in payload for payload in server.payloads) == 1


def test_a_search_that_gives_up_frees_the_server(server: Server) -> None:
    server.answer = lambda payload, number: NEVER

    async def work(engine: HttpEngine) -> None:
        tasks = [asyncio.create_task(engine.sample(ASKED, (), Sampling())) for _ in range(3)]
        while not server.in_flight:
            await asyncio.sleep(0.005)
        tasks[0].cancel()
        await asyncio.sleep(0.05)
        assert server.in_flight == 1  # two still wait for that request
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert await asyncio.to_thread(server.hung_up.acquire, timeout=5)
        assert (engine.usage.requests, engine.usage.failed, server.in_flight) == (1, 1, 0)

    use(server, work)
