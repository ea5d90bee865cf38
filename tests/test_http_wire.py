"""The http engine's wire: thousands in flight, connections used again, what was counted, one loop after another."""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import http_server
import pytest
from http_server import ASKED, Server, chat, sample, samples, use

from forethought.engines.http import HttpEngine, connect
from forethought.engines.http_wire import HttpUsage
from forethought.types import Engine, Sampling, Step


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def test_two_thousand_requests_are_in_flight_at_once_without_a_thread_each(server: Server) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    many = min(2000, most // 2 - 200)  # both ends of a connection are files of this process
    server.holding = []
    threads = threading.active_count()

    async def work(engine: HttpEngine) -> list[Step]:
        tasks = [asyncio.create_task(engine.sample(ASKED, (), Sampling(seed=seed))) for seed in range(many)]
        while server.in_flight < many:
            await asyncio.sleep(0.02)
        assert threading.active_count() == threads
        await asyncio.to_thread(server.release)
        await asyncio.gather(*tasks)
        again = [engine.sample(ASKED, (), Sampling(seed=seed)) for seed in range(500)]
        return [task.result() for task in tasks] + await asyncio.gather(*again)

    steps = use(server, work, max_concurrent=many)
    assert [step.text for step in steps] == ["4"] * (many + 500)
    assert len(server.asked) == many + 500
    assert server.most_in_flight == many
    assert server.connections == many


@pytest.mark.bench
def test_five_thousand_in_flight_cost_a_core_less_than_a_millisecond_each() -> None:
    command = [sys.executable, http_server.__file__, "0.05"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stub:
        assert stub.stdout is not None
        url, before = stub.stdout.readline().strip(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        async def run() -> list[Step]:
            async with HttpEngine(url, "qwen", max_concurrent=5000) as engine:
                return await asyncio.gather(*(engine.sample(ASKED, (), Sampling(seed=seed)) for seed in range(5000)))

        wall, own = time.perf_counter(), time.process_time()
        steps = asyncio.run(run())
        wall, own = time.perf_counter() - wall, time.process_time() - own
        stub.communicate()
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"5000 requests: {5000 / wall:.0f} a second, {own / 5:.2f} ms of this process each, {more:.0f} MiB more memory"
    )
    assert [step.text for step in steps] == ["4"] * 5000
    assert own < 5
    assert more < 200


def test_max_concurrent_is_kept_and_connections_are_used_again(server: Server) -> None:
    server.answer = lambda payload, number: 0.01
    seeds = range(0, 40, 2)
    steps = samples(server, *(Sampling(seed=seed) for seed in seeds), max_concurrent=3)
    assert [step.text for step in steps] == ["4"] * 20
    assert sorted(payload["seed"] for payload in server.payloads) == list(seeds)
    assert server.most_in_flight == 3
    assert server.connections == 3


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {
                "prompt_tokens": 70,
                "completion_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            HttpUsage(prefilled=6, reused=64, sampled=3, requests=1, reasoning=2),
        ),
        (
            {
                "prompt_tokens": 7,
                "completion_tokens": 3,
                "prompt_tokens_details": None,
                "reasoning_tokens": 1,
            },  # SGLang
            HttpUsage(prefilled=7, sampled=3, requests=1, reasoning=1),
        ),
        (None, HttpUsage(requests=1, unreported=1)),
        ({"prompt_tokens": 7}, HttpUsage(requests=1, unreported=1)),
    ],
)
def test_usage_is_the_servers_and_never_guessed(server: Server, told: Any, expected: HttpUsage) -> None:
    server.answer = lambda payload, number: {**chat("4"), "usage": told}

    async def work(engine: HttpEngine) -> HttpUsage:
        assert engine.usage == HttpUsage()
        await engine.sample(ASKED, (), Sampling())
        before = engine.usage.copy()
        await engine.sample(ASKED, (), Sampling())
        assert before == expected
        return engine.usage - before

    assert use(server, work) == expected


def test_one_engine_works_in_one_loop_after_another(server: Server, caplog: pytest.LogCaptureFixture) -> None:
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
    gc.collect()
    assert not caplog.records  # the loop that ended without `close` left nothing to complain of


def test_an_address_names_server_and_model(server: Server) -> None:
    engine = connect(f"{server.url}/v1#llama", retries=0)
    assert (engine.name, engine.url) == ("llama", f"{server.url}/v1")


def test_a_key_is_sent_and_none_where_there_is_none(server: Server) -> None:
    sample(server)
    sample(server, api_key="k")
    assert [headers.get("Authorization") for _, _, headers in server.asked] == [None, "Bearer k"]
