"""The server that all contestants of `benchmarks/search_vs_peers.py` are asked over, and how they are spoken to."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from aiohttp import web
from local_engines import tiny_engine

from forethought.thought.tokens import render
from forethought.types import Step, user
from forethought.verify.heads import Head
from forethought.verify.scalar import process

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from model_server import Config, Server  # noqa: E402 -- the line above finds it
from peers.driver import RATE, ROUNDS, WIDTH, Round  # noqa: E402
from peers.with_forethought import answers  # noqa: E402
from search_vs_peers import Tally, child, table  # noqa: E402

ASKED = [{"role": "user", "content": "1+1=?"}]
LETTERS = list("abcdefghijklmnopqrstuvwxyz")


@contextlib.asynccontextmanager
async def serving(latency: float = 0.0) -> AsyncIterator[aiohttp.ClientSession]:
    """A server over a model that knows nothing and a head of random weights."""
    engine, scorer = tiny_engine(), tiny_engine()
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0))
    judge = process(scorer, Head("process", tuple(weight.tolist()), aggregate="mean"))

    def forget() -> None:
        engine._loop.tree.clear()

    runner = web.AppRunner(Server(engine, judge, Config("", "", latency), forget).app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield session
    finally:
        await runner.cleanup()


def over(work: Callable[[aiohttp.ClientSession], Awaitable[Any]], latency: float = 0.0) -> Any:
    async def run() -> Any:
        async with serving(latency) as session:
            return await asyncio.wait_for(work(session), 60)

    return asyncio.run(run())


async def chat(session: aiohttp.ClientSession, turns: Any = ASKED, status: int = 200, **fields: Any) -> Any:
    payload = {"messages": turns, "max_tokens": 48, "seed": 0, **fields}
    async with session.post("/v1/chat/completions", json=payload) as answer:
        assert answer.status == status
        return await answer.json()


async def score(session: aiohttp.ClientSession, *steps: str) -> Any:
    async with session.post("/score", json={"messages": ASKED, "steps": list(steps)}) as answer:
        return await answer.json()


async def told(session: aiohttp.ClientSession) -> Any:
    async with session.get("/stats") as answer:
        return await answer.json()


def test_n_choices_are_answered_and_the_tokens_of_prompt_and_choices_reported() -> None:
    answer = over(lambda session: chat(session, n=3))
    drawn = [choice["token_ids"] for choice in answer["choices"]]
    assert len({tuple(tokens) for tokens in drawn}) == 3
    prompt = len(render(tiny_engine().tokenizer, user("1+1=?"), ())[0])
    assert answer["usage"]["prompt_tokens"] == prompt
    assert answer["usage"]["completion_tokens"] == sum(map(len, drawn))


def test_a_stop_string_is_told_and_shown_only_where_it_is_asked_for() -> None:
    async def both(session: aiohttp.ClientSession) -> list[Any]:
        fields: dict[str, Any] = {"stop": LETTERS, "temperature": 1.0}
        return [await chat(session, **fields), await chat(session, **fields, include_stop_str_in_output=True)]

    hidden, shown = (answer["choices"][0] for answer in over(both))
    assert hidden["finish_reason"] == shown["finish_reason"] == "stop"
    assert shown["stop_reason"] in LETTERS
    assert shown["message"]["content"] == hidden["message"]["content"] + shown["stop_reason"]


def test_the_newer_name_of_max_tokens_is_honoured_and_a_cut_is_a_length() -> None:
    answer = over(lambda session: chat(session, max_tokens=None, max_completion_tokens=5, n=4))
    assert all(len(choice["token_ids"]) <= 5 for choice in answer["choices"])
    assert "length" in {choice["finish_reason"] for choice in answer["choices"]}


def test_a_final_message_is_gone_on_with_only_where_no_new_turn_is_opened() -> None:
    turns = [*ASKED, {"role": "assistant", "content": "abc"}]

    async def three(session: aiohttp.ClientSession) -> list[Any]:
        went_on = await chat(session, turns, continue_final_message=True, add_generation_prompt=False)
        return [went_on, await chat(session, turns), await chat(session, turns, 400, continue_final_message=True)]

    went_on, new_turn, refused = over(three)
    prompt = len(render(tiny_engine().tokenizer, user("1+1=?"), (Step("abc"),))[0])
    assert went_on["usage"]["prompt_tokens"] == prompt
    assert new_turn["usage"]["prompt_tokens"] == prompt + 2  # the end of the old turn, the opening of the new one
    assert "add_generation_prompt" in refused["error"]["message"]


def test_a_thought_has_one_score_however_it_was_cut_and_optillm_gets_ten_times_that() -> None:
    async def three(session: aiohttp.ClientSession) -> list[Any]:
        rated = [*ASKED, {"role": "assistant", "content": "ab\ncd\nef"}, {"role": "user", "content": RATE}]
        return [
            await score(session, "ab\ncd\nef"),
            await score(session, "ab\n", "cd\n", "ef"),
            await chat(session, rated),
        ]

    whole, cut, rating = over(three)
    assert 0 < whole["score"] < 1
    assert cut["score"] == pytest.approx(whole["score"], abs=1e-5)
    assert float(rating["choices"][0]["message"]["content"]) == pytest.approx(10 * whole["score"], abs=1e-4)


def test_calls_in_flight_and_their_tokens_are_counted_until_a_reset_forgets_all() -> None:
    async def work(session: aiohttp.ClientSession) -> list[Any]:
        stats = []
        for _ in range(2):
            answers = await asyncio.gather(*(chat(session) for _ in range(4)), score(session, "ab\n"))
            drawn = sum(answer["usage"]["completion_tokens"] for answer in answers[:4])
            stats.append((await told(session), drawn))
            async with session.post("/reset") as answer:
                assert answer.status == 200
        return [*stats, await told(session)]

    (first, drawn), (second, _), last = over(work, latency=50)
    prompt = len(render(tiny_engine().tokenizer, user("1+1=?"), ())[0])
    assert (first["requests"], first["judgements"], first["most"]) == (5, 1, 5)
    assert 1 < first["mean"] <= 5
    assert (first["prompt"], first["generated"]) == (4 * prompt, drawn)
    assert first["scored"] == prompt + 3
    assert first["prefilled"] == second["prefilled"] > 0  # nothing is left of the first time in the cache
    assert (last["requests"], last["generated"], last["mean"]) == (0, 0, 0)


def test_a_call_waits_for_the_latency() -> None:
    async def work(session: aiohttp.ClientSession) -> float:
        began = asyncio.get_running_loop().time()
        await score(session, "ab\n")
        return asyncio.get_running_loop().time() - began

    assert over(work, latency=200) >= 0.2


@pytest.mark.parametrize(("search", "most"), [("best-of-n", 1), ("beam", WIDTH * ROUNDS)])
def test_our_own_driver_answers_and_asks_for_equal_draws_at_once(search: str, most: int) -> None:
    async def work(session: aiohttp.ClientSession) -> Any:
        url = str(session._build_url("")).rstrip("/")
        return await answers(Round(url, search, 1, ["1+1=?"])), await told(session)

    texts, stats = over(work)
    assert [type(text) for text in texts] == [str]
    assert 1 <= stats["requests"] - stats["judgements"] <= most


def test_what_a_library_prints_does_not_stand_among_the_answers() -> None:
    script = "from peers.driver import compete\ncompete(lambda told: [print('noise') or told.search])"
    line = '{"url": "", "search": "beam", "at_once": 1, "questions": []}\n'
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BENCHMARKS, input=line, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ('["beam"]\n', "noise\n")


def test_a_contestant_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def work() -> None:
        async with child("it", Path(sys.executable), "no_such_module", tmp_path) as it:
            await it.hear()

    with pytest.raises(RuntimeError, match=r"it gave no answer(.|\n)*no_such_module"):
        asyncio.run(work())


def test_a_race_is_theirs_over_ours_against_the_goal_of_its_peer(capsys: pytest.CaptureFixture[str]) -> None:
    counts = dict.fromkeys(
        ("requests", "judgements", "most", "mean", "prompt", "prefilled", "generated", "scored"), 8.0
    )
    ours, theirs = Tally([1.0, 2.0, 3.0], [1.0, 0.0], [counts]), Tally([8.0, 12.0, 10.0], [1.0, 1.0], [counts])
    (figure,) = table("beam", "one", 4, {"forethought": ours, "llm_reasoners": theirs})
    assert (figure["name"], figure["ratio"], figure["goal"]) == ("beam/one/llm_reasoners", 5.0, 5.0)
    (figure,) = table("beam", "together", 4, {"forethought": ours, "its_hub": theirs})
    assert figure["goal"] == 1.0
    assert "50.0%" in capsys.readouterr().out


def test_a_negative_latency_is_refused() -> None:
    with pytest.raises(ValueError, match="latency is -1"):
        Config("model", "scorer", latency=-1)
