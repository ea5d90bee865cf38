"""The http engine's token ids: prompts as ids, and log-probabilities of what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import ASKED, Answer, Body, Server, chat, choice, sample, use

from forethought.engines.http import HttpEngine
from forethought.engines.http_wire import HttpUsage
from forethought.types import Sampling, Step


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def letters(payload: Body) -> Answer:
    """`/tokenize` as vLLM and SGLang have it: a token is a letter, 1 begins a sequence, 2 and 3 begin turns."""
    if "messages" in payload:
        turns = [token for message in payload["messages"] for token in (2, *ids(message["content"]))]
        tokens = [1, *turns, 3]
    else:
        tokens = [1] * payload["add_special_tokens"] + ids(payload["prompt"])
    return {"count": len(tokens), "max_model_len": 128, "tokens": tokens}


ASKED_IDS = [1, 2, *ids("2 + 2 = ?"), 3]


def completion(text: str, **more: Any) -> Body:
    told = {"index": 0, "text": text, "finish_reason": "length", **more}
    return {"choices": [told], "usage": {"prompt_tokens": 20, "completion_tokens": 2}}


# --- prompts as token ids ---


def test_a_prefix_goes_as_the_tokens_it_was_sampled_as(server: Server) -> None:
    server.routes["/tokenize"] = letters
    server.answer = lambda payload, number: completion(" 4", token_ids=[900, 901])
    step = sample(server, None, Step("= ", tokens=(500, 501)), Step("Wait", sampled=False), Step(""), api="tokens")
    assert (step.text, step.tokens) == (" 4", (900, 901))
    path, payload, _ = server.asked[0]
    assert path == "/v1/completions"
    assert payload["prompt"] == [*ASKED_IDS, 500, 501, *ids("Wait")]
    assert payload["return_token_ids"] is True
    assert "messages" not in payload


def test_a_conversation_is_tokenized_once_for_all_that_ask_together_or_later(server: Server) -> None:
    server.routes["/tokenize"] = letters
    server.answer = lambda payload, number: completion("4")

    async def work(engine: HttpEngine) -> None:
        for _ in range(2):
            tasks = [asyncio.create_task(engine.sample(ASKED, (), Sampling(seed=seed))) for seed in range(8)]
            await asyncio.sleep(0)
            tasks[0].cancel()  # it asked first: the others' answer must not go with it
            await asyncio.wait(tasks)
            assert [task.cancelled() for task in tasks] == [True] + [False] * 7
            assert all(task.result().text == "4" for task in tasks[1:])

    use(server, work, api="tokens")
    assert server.routed == ["/tokenize"]
    assert [payload["prompt"] for payload in server.payloads] == [ASKED_IDS] * 14


def test_llama_cpp_is_asked_for_its_template_first(server: Server) -> None:
    def tokenize(payload: Body) -> Answer:
        text = payload.get("content", "")
        return {"tokens": [1] * (payload.get("add_special", False) and bool(text)) + ids(text)}

    server.routes["/tokenize"] = tokenize
    server.routes["/apply-template"] = lambda payload: {"prompt": f"<u>{payload['messages'][0]['content']}<a>"}
    sample(server, None, Step("Wait"), api="tokens")
    assert server.payloads[0]["prompt"] == [1, *ids("<u>2 + 2 = ?<a>"), *ids("Wait")]


class Letters:
    """What the engine uses of a Hugging Face tokenizer."""

    chat_template = None
    eos_token_id = 0

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + ids(text)

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        raise AssertionError("this model has no chat template")

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, token_ids))


def test_a_tokenizer_of_ours_needs_nothing_of_the_servers(server: Server) -> None:
    server.answer = lambda payload, number: completion("4")
    sample(server, None, Step("= "), Step("x", tokens=(7,)), api="tokens", tokenizer=Letters())
    assert [path for path, _, _ in server.asked] == ["/v1/completions"]
    assert server.payloads[0]["prompt"] == [1, *ids("2 + 2 = ?\n= "), 7]


def test_a_server_that_tells_no_ids_is_named(server: Server) -> None:
    server.answer = lambda payload, number: (404, {"detail": "Not Found"})
    with pytest.raises(ValueError, match=r"does not tell the token ids .* give the model's tokenizer, or api='chat'"):
        sample(server, api="tokens")
    assert [path for path, _, _ in server.asked] == ["/tokenize", "/apply-template"]


def test_an_unknown_model_and_a_wrong_key_are_named_before_anything_is_drawn(server: Server) -> None:
    server.routes["/tokenize"] = lambda payload: (404, {"error": {"message": "The model `qwem` does not exist."}})
    with pytest.raises(ValueError, match="no model 'qwem'; did you mean 'qwen'"):
        sample(server, api="tokens", model="qwem")
    server.routes["/tokenize"] = lambda payload: (401, {"error": "Unauthorized"})
    with pytest.raises(ValueError, match=r"refuses the key \(401\)"):
        sample(server, api="tokens")
    assert server.asked == []


def test_a_server_whose_tokenizer_is_gone_is_a_step_that_says_so(server: Server) -> None:
    server.routes["/tokenize"] = lambda payload: (503, b"loading")
    step = sample(server, api="tokens", retries=1)
    assert step.stop == "error"
    assert "/tokenize: status 503: loading, asked 2 times" in step.text


def test_samples_of_unlike_tokens_are_unlike_even_where_their_texts_are_equal(server: Server) -> None:
    server.routes["/tokenize"] = letters
    server.answer = lambda payload, number: completion("4")

    async def work(engine: HttpEngine) -> None:
        cut = [Step("= 4", tokens=(7,)), Step("= 4", tokens=(8, 9)), Step("= 4", tokens=(7,), value=0.5)]
        greedy = Sampling(temperature=0)
        await asyncio.gather(*(engine.sample(ASKED, [step], greedy) for step in cut))

    use(server, work, api="tokens")
    assert sorted(payload["prompt"][len(ASKED_IDS) :] for payload in server.payloads) == [[7], [8, 9]]


# --- log-probabilities ---


def ranks(*entries: tuple[int, float, int]) -> Body:
    """One place of vLLM's prompt_logprobs: token ids as strings, each with its log-probability, rank and text."""
    return {
        str(token): {"logprob": value, "rank": rank, "decoded_token": chr(token) if token < 256 else "\ufffd"}
        for token, value, rank in entries
    }


STEPS = [Step("é=", tokens=(700, 701, 61)), Step("", tokens=(2,)), Step("4", sampled=False)]


def test_logprobs_by_token_are_the_steps_own(server: Server) -> None:
    prompt = [*ASKED_IDS, 700, 701, 61, 2, ord("4")]
    server.routes["/tokenize"] = letters
    # The prompt's token comes first, last, or alone, and never by its rank; a zero is clamped to -9999.
    places = [
        *(ranks((token, -50.0, 900)) for token in ASKED_IDS[1:]),
        ranks((700, -2.0, 3), (9, -0.1, 1)),
        ranks((9, -0.1, 1), (701, -3.0, 2)),
        ranks((61, -4.0, 5)),
        ranks((2, 0.0, 1)),
        ranks((ord("4"), -9999.0, 32000)),
    ]

    def answer(payload: Body, number: int) -> Answer:
        assert payload["prompt"] == prompt
        assert (payload["prompt_logprobs"], payload["max_tokens"], payload["echo"]) == (0, 1, True)
        return completion("x", prompt_logprobs=[None, *places])

    server.answer = answer

    async def work(engine: HttpEngine) -> HttpUsage:
        rows = await engine.logprobs(ASKED, STEPS)
        assert rows == ((-2.0, -3.0, -4.0), (0.0,), (-9999.0,))
        return engine.usage

    assert use(server, work, api="tokens") == HttpUsage(scored=20, sampled=2, requests=3)


def test_logprobs_by_token_from_an_echo(server: Server) -> None:
    server.routes["/tokenize"] = letters
    values = [None, *(-float(at) for at in range(1, len(ASKED_IDS) + 6))]
    told = {"text_offset": [-1] * len(values), "token_logprobs": values}  # SGLang counts no offsets
    server.answer = lambda payload, number: completion("x", logprobs=told)
    rows = use(server, lambda engine: engine.logprobs(ASKED, STEPS), api="tokens")
    assert rows == ((-12.0, -13.0, -14.0), (-15.0,), (-16.0,))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({}, "gave log-probabilities of 0 of the prompt's 17 tokens"),
        ({"logprobs": {"content": [{"id": 4, "logprob": -1.0}]}}, "of 0 of the prompt's 17"),  # llama.cpp
        ({"prompt_logprobs": [None, ranks((5, -1.0, 1))]}, "of 2 of the prompt's 17"),
        ({"prompt_logprobs": [None] + [ranks((5, -1.0, 1))] * 16}, "left out a token's log-probability"),
    ],
)
def test_a_server_without_them_by_token_is_named(server: Server, more: Body, named: str) -> None:
    server.routes["/tokenize"] = letters
    server.answer = lambda payload, number: completion("x", **more)
    with pytest.raises(ValueError, match=named):
        use(server, lambda engine: engine.logprobs(ASKED, STEPS), api="tokens")


def test_logprobs_by_echo(server: Server) -> None:
    text = "2 + 2 = ?\n"
    told = {
        "text_offset": [0, 5, 10, 11, 13, 14],
        "token_logprobs": [None, -9.0, -0.1, -0.2, -0.3, -7.0],  # the last one is drawn, not read
    }
    server.answer = lambda payload, number: completion("", logprobs=told)
    steps = [Step("="), Step(" 4\n")]
    rows = use(server, lambda engine: engine.logprobs(ASKED, steps), api="completions")
    assert rows == ((-0.1,), (-0.2, -0.3))
    payload = server.payloads[0]
    assert (payload["prompt"], payload["echo"], payload["logprobs"]) == (text + "= 4\n", True, 1)


def test_logprobs_by_prompt_logprobs_of_a_chat(server: Server) -> None:
    pieces = ["<bos>", "2 + 2 = ?", "<assistant>", "=", " 4"]
    rows: list[Any] = [{"5": {"logprob": -float(at), "rank": 1, "decoded_token": pieces[at]}} for at in range(1, 5)]
    server.answer = lambda payload, number: {**chat("x"), "prompt_logprobs": [None, *rows]}
    assert use(server, lambda engine: engine.logprobs(ASKED, [Step("= "), Step("4")])) == ((-3.0, -4.0), ())
    assert server.payloads[0]["prompt_logprobs"] == 0
    assert use(server, lambda engine: engine.logprobs(ASKED, [Step("")])) == ((),)
    with pytest.raises(ValueError, match=r"do not spell the steps: ask with api='tokens'"):
        use(server, lambda engine: engine.logprobs(ASKED, [Step("= 5")]))
    rows[2] = {"9": {"logprob": -0.1, "rank": 1, "decoded_token": "+"}, **rows[2]}
    with pytest.raises(ValueError, match="does not tell which it is"):
        use(server, lambda engine: engine.logprobs(ASKED, [Step("= 4")]))
    server.answer = lambda payload, number: {
        **chat("x"),
        "prompt_logprobs": [None, *rows],
        "prompt_token_ids": [1, 5, 5, 5, 5],
    }
    assert use(server, lambda engine: engine.logprobs(ASKED, [Step("= 4")])) == ((-3.0, -4.0),)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_server_without_them_is_named(server: Server, api: Any) -> None:
    server.answer = lambda payload, number: {"choices": [{"text": "", **choice("")}]}
    with pytest.raises(ValueError, match="gives no log-probabilities of a prompt"):
        use(server, lambda engine: engine.logprobs(ASKED, [Step("4")]), api=api)
