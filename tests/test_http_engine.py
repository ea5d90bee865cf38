"""The http engine against a small real server that behaves as badly as real ones do."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import pytest

from forethought.engines.http import HttpEngine, connect
from forethought.engines.http_body import CONTINUE, dispensable
from forethought.engines.http_wire import Usage, base_url
from forethought.types import Engine, Sampling, Step, user

T = TypeVar("T")
Body = dict[str, Any]
Answer = Body | bytes | tuple[int, Any] | tuple[int, Any, dict[str, str]] | None
"""An object (200), raw bytes (200), (status, what), (status, what, headers), or None: hang up without a word."""

ASKED = user("2 + 2 = ?")


class Server(ThreadingHTTPServer):
    """Answers each POST with `answer(payload, number of the request from 0)` and keeps what was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Callable[[Body, int], Answer] = lambda payload, number: chat("4")
        self.names = ["qwen", "llama"]
        self.asked: list[tuple[str, Body, dict[str, str]]] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def payloads(self) -> list[Body]:
        return [payload for _, payload, _ in self.asked]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is nothing to print."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": name} for name in self.server.names]}, {})

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            number = len(server.asked)
            server.asked.append((self.path, payload, dict(self.headers)))
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            answer = server.answer(payload, number)
        finally:
            with server.lock:
                server.in_flight -= 1
        if answer is None:
            self.close_connection = True
        elif isinstance(answer, tuple):
            self.reply(answer[0], answer[1], answer[2] if len(answer) == 3 else {})
        else:
            self.reply(200, answer, {})

    def reply(self, status: int, what: Any, headers: dict[str, str]) -> None:
        data = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def choice(text: str | None, reason: str | None = "stop", index: int = 0, **more: Any) -> Body:
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    return {"index": index, "message": message, "finish_reason": reason, **more}


def chat(text: str | None, reason: str | None = "stop", **more: Any) -> Body:
    return {"choices": [choice(text, reason, **more)], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def many(payload: Body, number: int) -> Body:
    """As many choices as were asked for, listed backwards as a server may."""
    count = payload.get("n", 1)
    choices = [choice(f"{number}.{index} seed {payload.get('seed')}", index=index) for index in range(count)]
    return {"choices": choices[::-1], "usage": {"prompt_tokens": 7, "completion_tokens": 3 * count}}


def use(server: Server, work: Callable[[HttpEngine], Awaitable[T]], **options: Any) -> T:
    """Run `work` with an engine in a loop of its own, in a few seconds at most."""

    async def run() -> T:
        async with (
            asyncio.timeout(10),
            HttpEngine(server.url, options.pop("model", "qwen"), **{"backoff": 0.001, **options}) as engine,
        ):
            return await work(engine)

    return asyncio.run(run())


def sample(server: Server, sampling: Sampling | None = None, *prefix: Step, **options: Any) -> Step:
    return use(server, lambda engine: engine.sample(ASKED, prefix, sampling or Sampling()), **options)


def samples(server: Server, *samplings: Sampling, **options: Any) -> list[Step]:
    async def work(engine: HttpEngine) -> list[Step]:
        return await asyncio.gather(*(engine.sample(ASKED, (), sampling) for sampling in samplings))

    return use(server, work, **options)


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


def test_consecutive_seeds_leave_together_and_equal_ones_share_a_draw(server: Server) -> None:
    server.answer = many
    steps = samples(server, *(Sampling(seed=seed) for seed in (12, 11, 10, 40, 11)))
    assert sorted((payload["seed"], payload.get("n", 1)) for payload in server.payloads) == [(10, 3), (40, 1)]
    assert [step.text.split(".", 1)[1] for step in steps] == [
        "2 seed 10",
        "1 seed 10",
        "0 seed 10",
        "0 seed 40",
        "1 seed 10",
    ]


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
            steps = await asyncio.gather(*(engine.sample(ASKED, (), Sampling(seed=seed)) for seed in range(4)))
            texts += [step.text for step in steps]
        assert engine.lacks == {"n"}
        return texts

    texts = use(server, work)
    assert len(set(texts)) == 8  # nobody got another's draw
    assert len(server.asked) == 8 + (refusal is not None)
    assert sum("n" in payload for payload in server.payloads) == 1
    single = [payload["seed"] for payload in server.payloads if "n" not in payload]
    assert sorted(single[-4:]) == [0, 1, 2, 3]


def test_a_search_that_gives_up_frees_the_server(server: Server) -> None:
    gate = threading.Event()
    server.answer = lambda payload, number: chat("4") if gate.wait(5) else None

    async def work(engine: HttpEngine) -> None:
        tasks = [asyncio.create_task(engine.sample(ASKED, (), Sampling())) for _ in range(3)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        await asyncio.sleep(0.05)
        assert engine._tasks  # two still wait for that request
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(0.01)
        assert not engine._tasks

    use(server, work)
    gate.set()


# --- servers that fail ---


def after(failures: int, failure: Answer) -> Callable[[Body, int], Answer]:
    return lambda payload, number: failure if number < failures else chat("4")


@pytest.mark.parametrize(
    "failure",
    [(429, {"error": "slow down"}), (503, b"warming up"), b"<html>", b"", b"[]", {"choices": []}, b"\xff{", None],
)
def test_a_passing_fault_is_asked_again(server: Server, failure: Answer) -> None:
    server.answer = after(2, failure)

    async def work(engine: HttpEngine) -> Usage:
        assert (await engine.sample(ASKED, (), Sampling())).text == "4"
        return engine.usage

    assert use(server, work) == Usage(requests=3, failed=2, prompt=7, completion=3)


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
    gate = threading.Event()
    server.answer = lambda payload, number: chat("late") if gate.wait(5) else None
    step = sample(server, timeout=0.05, retries=1)
    gate.set()
    assert step.stop == "error"
    assert "no answer within 0.05 s, asked 2 times" in step.text


def test_no_server_is_a_step_that_says_so(server: Server) -> None:
    server.server_close()
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
    ],
)
def test_bad_settings_are_refused(url: str, options: Body, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        HttpEngine(url, options.pop("model", "qwen"), **options)


# --- the wire ---


def test_max_concurrent_is_kept_and_connections_are_used_again(server: Server) -> None:
    def slowly(payload: Body, number: int) -> Answer:
        time.sleep(0.01)
        return chat(f"{payload['seed']}")

    server.answer = slowly
    seeds = range(0, 40, 2)
    steps = samples(server, *(Sampling(seed=seed) for seed in seeds), max_concurrent=3)
    assert [step.text for step in steps] == [str(seed) for seed in seeds]
    assert server.most_in_flight == 3
    assert server.connections == 3


def test_usage_is_the_servers_and_never_guessed(server: Server) -> None:
    told = {"prompt_tokens": 7, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}
    server.answer = lambda payload, number: {**chat("4"), "usage": [told, None][number]}

    async def work(engine: HttpEngine) -> list[Usage]:
        usages = [engine.usage]
        for _ in range(2):
            await engine.sample(ASKED, (), Sampling())
            usages.append(engine.usage)
        return usages

    none, one, two = use(server, work)
    assert none == Usage()
    assert one == Usage(requests=1, prompt=7, completion=3, reasoning=2)
    assert two == Usage(requests=2, unreported=1, prompt=7, completion=3, reasoning=2)
    assert str(one) == "7 prompt and 3 completion tokens in 1 requests"
    assert "an unknown number in 1 of them" in str(two)


def test_one_engine_works_in_one_loop_after_another(server: Server) -> None:
    engine = HttpEngine(server.url, "qwen", backoff=0.001)
    assert isinstance(engine, Engine)

    async def ask(close: bool) -> str:
        async with asyncio.timeout(5):
            step = await engine.sample(ASKED, (), Sampling())
            if close:
                await engine.close()
            return step.text

    assert [asyncio.run(ask(close)) for close in (True, False, True)] == ["4"] * 3
    assert len(server.asked) == 3


def test_an_address_names_server_and_model(server: Server) -> None:
    engine = connect(f"{server.url}/v1#llama", retries=0)
    assert (engine.name, engine.url) == ("llama", f"{server.url}/v1")


# --- log-probabilities of what is there ---


def test_logprobs_by_echo(server: Server) -> None:
    text = "2 + 2 = ?\n"
    told = {
        "text_offset": [0, 5, 10, 11, 13, 14],
        "token_logprobs": [None, -9.0, -0.1, -0.2, -0.3, -7.0],  # the last one is drawn, not read
    }
    server.answer = lambda payload, number: {"choices": [{"text": "", "finish_reason": "length", "logprobs": told}]}
    steps = [Step("="), Step(" 4\n")]
    rows = use(server, lambda engine: engine.logprobs(ASKED, steps), api="completions")
    assert rows == ((-0.1,), (-0.2, -0.3))
    payload = server.payloads[0]
    assert (payload["prompt"], payload["echo"], payload["logprobs"]) == (text + "= 4\n", True, 1)


def test_logprobs_by_prompt_logprobs(server: Server) -> None:
    pieces = ["<bos>", "2 + 2 = ?", "<assistant>", "=", " 4"]
    rows = [None, *({"5": {"logprob": -float(at), "decoded_token": pieces[at]}} for at in range(1, 5))]
    server.answer = lambda payload, number: {**chat("x"), "prompt_logprobs": rows}
    assert use(server, lambda engine: engine.logprobs(ASKED, [Step("= "), Step("4")])) == ((-3.0, -4.0), ())
    assert server.payloads[0]["prompt_logprobs"] == 0
    assert use(server, lambda engine: engine.logprobs(ASKED, [Step("")])) == ((),)
    with pytest.raises(ValueError, match="do not spell"):
        use(server, lambda engine: engine.logprobs(ASKED, [Step("= 5")]))


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_server_without_them_is_named(server: Server, api: Any) -> None:
    server.answer = lambda payload, number: {"choices": [{"text": "", **choice("")}]}
    with pytest.raises(ValueError, match="gives no log-probabilities of a prompt"):
        use(server, lambda engine: engine.logprobs(ASKED, [Step("4")]), api=api)
