"""Who may come in, how often and with how much; what a configuration says; the page held against the tables."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving import Talking, served, server, thinker, wait

from forethought.cli.serve import serve
from forethought.engines.scripted import always
from forethought.serve.config import ModelConfig, ServerConfig, read
from forethought.serve.errors import ApiError
from forethought.serve.limits import Caller, Gate, Keys, Rates
from forethought.serve.models import Models, opened
from forethought.serve.seal import Seal
from forethought.serve.wire import CHAT, COMPLETIONS, RESPONSES

ASKED: Any = [{"role": "user", "content": "2 + 2 = ?"}]
KEY, OTHER = "sk-alice-0123456789", "sk-bob-0123456789"


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys.txt"
    path.write_text(f"# clients\nalice {KEY}\nbob {OTHER} 2\n")
    return str(path)


def test_only_a_known_key_opens_the_door(keys: str) -> None:
    with server(served(Talking(thinker())), keys=keys, key=KEY) as there:
        assert there.client.chat.completions.create(model="small", messages=ASKED).choices[0].message.content
        with pytest.raises(openai.AuthenticationError, match="Incorrect"):
            there.client.with_options(api_key="sk-nobody-0123456789").models.list()
        for path in ("/v1/models", "/metrics"):
            assert httpx.get(f"{there.url}{path}").status_code == 401
        assert httpx.get(f"{there.url}/health").status_code == 200


def test_a_key_has_its_rate(keys: str) -> None:
    with server(served(Talking(thinker())), keys=keys, key=OTHER) as there:
        left = [there.client.models.with_raw_response.list().headers["x-ratelimit-remaining-requests"] for _ in "12"]
        with pytest.raises(openai.RateLimitError) as caught:
            there.client.models.list()
        assert there.client.with_options(api_key=KEY).models.list().data
    assert left == ["1", "0"]
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_bucket_fills_with_time() -> None:
    now = 0.0
    rates, caller = Rates(lambda: now), Caller("bob", 60)
    for _ in range(60):
        rates.take(caller)
    with pytest.raises(ApiError):
        rates.take(caller)
    now = 1.0
    rates.take(caller)
    with pytest.raises(ApiError):
        rates.take(caller)


def test_others_responses_are_not_there(keys: str, tmp_path: Path) -> None:
    with server(served(Talking(thinker())), keys=keys, key=KEY, store=str(tmp_path / "db")) as there:
        made = there.client.responses.create(model="small", input="?")
        with pytest.raises(openai.NotFoundError):
            there.client.with_options(api_key=OTHER).responses.retrieve(made.id)


def test_a_body_that_is_too_large_is_not_read() -> None:
    engine = Talking(thinker())
    with server(served(engine), body_bytes=1000) as there:
        body = b'{"model": "small", "messages": "' + b"x" * 2000
        for content in (body, iter([body[:900], body[900:]])):
            headers = {"content-type": "application/json"}
            reply = httpx.post(f"{there.url}/v1/chat/completions", content=content, headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert engine.calls == 0


def test_no_more_come_in_than_there_is_room_for() -> None:
    engine = Talking(thinker(), delay=0.5)
    with server(served(engine), running=1, waiting=1) as there:

        async def ask(client: openai.AsyncOpenAI) -> str:
            try:
                reply = await client.chat.completions.create(model="small", messages=ASKED)
            except openai.RateLimitError as error:
                return str(error.code)
            return str(reply.choices[0].message.content)

        async def four() -> list[str]:
            async with openai.AsyncOpenAI(base_url=f"{there.url}/v1", api_key="x", max_retries=0) as client:
                return await asyncio.gather(*(ask(client) for _ in range(4)))

        assert sorted(asyncio.run(four())) == ["It is 4."] * 2 + ["server_busy"] * 2
        assert there.app.state.house.gate.inside == 0
    assert engine.most_in_flight == 1


def test_a_place_is_given_back_once() -> None:
    async def come_and_go() -> int:
        gate = Gate(1, 0)
        ticket = gate.ticket()
        with pytest.raises(ApiError, match="busy"):
            gate.ticket()
        async with ticket:
            pass
        ticket.leave()
        ticket.leave()
        return gate.inside

    assert asyncio.run(come_and_go()) == 0


def test_a_seal_is_for_one_caller_one_model_and_keys_can_change() -> None:
    old, new = b"a" * 32, b"b" * 32
    sealed = Seal([old]).close("the thought", caller="alice", model="small")
    assert Seal([new, old]).open(sealed, caller="alice", model="small") == "the thought"
    for seal, caller, model in (
        (Seal([new]), "alice", "small"),
        (Seal([old]), "bob", "small"),
        (Seal([old]), "alice", "m"),
    ):
        with pytest.raises(ApiError, match="cannot be read"):
            seal.open(sealed, caller=caller, model=model)
    with pytest.raises(ApiError):
        Seal([old]).open("not base64!", caller="alice", model="small")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("alice", "name key"),
        ("alice short", "16 or more"),
        (f"a {KEY}\na {OTHER}", "name of its own"),
        (f"a {KEY} operator 5", "name key"),
        (f"a {KEY} chief", "name key"),
        ("# nobody", "no key"),
    ],
)
def test_a_bad_file_of_keys_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match=named):
        Keys.read(path)
    with pytest.raises(ValueError, match=r"32 bytes in base64|no key"):
        Seal.read(path)


def test_a_key_may_be_the_operators(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"alice {KEY} 5 operator\nbob {OTHER} operator\noperator {KEY}x 7\n")
    keys = Keys.read(path, 3)
    assert keys.caller(KEY) == Caller("alice", 5, operator=True)
    assert keys.caller(OTHER) == Caller("bob", 3, operator=True)
    assert keys.caller(f"{KEY}x") == Caller("operator", 7, operator=False)


def test_a_file_says_what_is_served(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(
        '[server]\nport = 9\n[models.tiny]\n[models.big]\nmodel = "tiny"\nsearch = "best_of_n"\nverify = "confidence"\n'
        "seconds = 5\nefforts = { low = 7 }\neffort = 'low'\n"
    )
    config, models = read(path)
    assert config.port == 9
    assert models[0] == ModelConfig("tiny", "tiny")
    assert (models[1].model, models[1].search, models[1].seconds, models[1].efforts) == (
        "tiny", "best-of-n", 5, {"low": 7})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1", "did you mean 'port'"),
        ("[server]\nport = 'x'", "must be a int"),
        ("[server]\nhost = '0.0.0.0'", "file of keys"),
        ("[servers]", "'servers'"),
        ("[models.a]\nsearch = 'mcts'", "verifier's scores"),
        ("[models.a]\nsearch = 'chess'", "no search"),
        ("[models.a]\neffort = 'huge'", "effort is 'huge'"),
        ("[models.'a:b']", "colon"),
        ("[models.a]\nshow_thoughts = 1", "must be a bool"),
        ("[", "not TOML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=named):
        read(path)


def test_keys_and_values_take_what_the_file_says_or_what_the_engine_takes_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("forethought.engines.local.engine.CACHE_BYTES", 3 << 30)

    async def taken() -> list[int]:
        configs = ModelConfig("a", "tiny"), ModelConfig("b", "tiny", dtype="fp32", cache_gib=0.5)
        async with opened(configs) as there:
            engines: list[Any] = [there.served[name].engine for name in "ab"]
            return [engine._loop.cache_bytes for engine in engines]

    assert asyncio.run(taken()) == [3 << 30, 1 << 29]


def test_what_cannot_be_opened_is_refused_before_anything_listens() -> None:
    async def open_(*configs: ModelConfig) -> None:
        async with opened(configs):
            pass

    for configs, named in (
        ((), "no model"),
        ((ModelConfig("a", "tiny"), ModelConfig("a", "tiny")), "two models"),
        ((ModelConfig("a", "tiny", summary="b"),), "summary"),
        ((ModelConfig("a", "no-such-model"),), "unknown model"),
    ):
        with pytest.raises(ValueError, match=named):
            asyncio.run(open_(*configs))


def test_the_command_refuses_what_it_cannot_serve(tmp_path: Path) -> None:
    for words, named in (
        ([], "no model to serve"),
        (["--model", "tiny", "--host", "0.0.0.0"], "file of keys"),
        (["--model", "tiny", "--search", "mcts"], "verifier's scores"),
        (["--config", str(tmp_path / "none.toml")], "cannot be read"),
        (["--model", "tiny", "--tools", "abacus"], "no tool 'abacus'"),
    ):
        with pytest.raises(ValueError, match=named):
            serve(words)


def test_a_name_means_a_model_and_a_search() -> None:
    models = Models([served(Talking(always("4")), search="majority")])
    assert [models.find(name)[1] for name in ("small", "small:revise", "small:unanimous_window")] == [
        "majority", "revise", "unanimous-window"]  # fmt: skip
    assert ServerConfig().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "fates"), [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSES), ("/v1/completions", COMPLETIONS)]
)
def test_the_page_has_every_parameter(path: str, fates: dict[str, str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "serve.md").read_text()
    section = page.partition(f"### `POST {path}`")[2].partition("\n### ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)) == fates


def test_every_parameter_has_the_fate_that_the_table_gives_it() -> None:
    needs = {"n": 1, "stop": "x", "stream_options": {}, "reasoning_effort": "low"}
    with server(served(Talking(thinker()))) as there:
        for name, fate in CHAT.items():
            if fate == "supported":
                continue
            body = {"model": "small", "messages": ASKED, **needs, name: "x"}
            reply = httpx.post(f"{there.url}/v1/chat/completions", json=body)
            assert (reply.status_code == 200) == (fate == "ignored"), name
            assert fate != "ignored" or name in reply.headers["x-forethought-ignored"]
        wait(lambda: there.app.state.house.gate.inside == 0, "a place was not given back")
