"""A real server in a thread, and engines that think aloud, for the tests of `serve`."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI
from openai import OpenAI

from forethought.engines.scripted import LOGPROB, Script, Scripted
from forethought.pages.app import create
from forethought.serve.config import ModelConfig, ServerConfig
from forethought.serve.models import Models, Served
from forethought.thought.marks import CLOSE, OPEN
from forethought.types import Messages, Sampling, Step
from forethought.verify.verdict import Verify

THOUGHT = f"{OPEN}\ntwo and two\nmake four\n{CLOSE}"


class Talking(Scripted):
    """A scripted engine that tells its answers letter by letter, `pause` seconds apart."""

    pause = 0.0

    async def stream(
        self,
        messages: Messages,
        prefix: Sequence[Step],
        sampling: Sampling,
        heard: Callable[[str, float], None],
        schema: str | None = None,
    ) -> Step:
        step = await self.sample(messages, prefix, sampling)
        for letter in step.text if step.stop != "error" else "":
            await asyncio.sleep(self.pause)
            heard(letter, LOGPROB)
        return step

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))


def thinker(answer: str = "It is 4.", thought: str = THOUGHT) -> Script:
    """Thinks, and answers once its thought is closed."""

    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
        written = "".join(step.text for step in prefix)
        if CLOSE in written:
            return answer
        return thought if CLOSE in sampling.stop else f"{thought}\n{answer}"

    return script


def served(engine: Any, verify: Verify | None = None, **config: Any) -> Served:
    """`engine` as the model `small`, its effort `low` unless told otherwise."""
    told = {"name": "small", "model": "tiny", "effort": "low", "instruct": "no", **config}
    if verify is not None:
        told["verify"] = "given"
    return Served(ModelConfig(**told), engine, verify)


@dataclass
class Running:
    """A server that stands, and a client of it."""

    app: FastAPI
    url: str
    client: OpenAI


@contextmanager
def server(
    *models: Served, key: str = "nobody-asks-for-one", examples: Sequence[str] = (), **config: Any
) -> Iterator[Running]:
    """Serve, pages and all, on a free port of the loopback until the block is left."""
    app = create(ServerConfig(**config), Models(models), examples=examples)
    listening = socket.create_server(("127.0.0.1", 0))
    runner = uvicorn.Server(uvicorn.Config(app, log_level="info", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    wait(lambda: runner.started or not thread.is_alive(), "the server did not start")
    assert runner.started, "the server ended as it started"
    client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)
    try:
        yield Running(app, url, client)
    finally:
        client.close()
        runner.should_exit = True
        thread.join(30)


@contextmanager
def process(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`forethought serve` with these words in a process of its own, and its address; killed at the end."""
    command = [sys.executable, "-c", "from forethought.cli import main; main()", "serve", "--port", "0", *words]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    assert child.stderr is not None
    said, found = [], None
    try:
        for line in child.stderr:
            said.append(line)
            if found := re.search(r"http://[\d.]+:\d+", line.partition("running on")[2]):
                threading.Thread(target=child.stderr.read, daemon=True).start()  # or it would block on a full pipe
                break
        assert found, "".join(said)
        yield child, found[0]
    finally:
        child.kill()
        child.wait()


def wait(until: Callable[[], object], otherwise: str, seconds: float = 60.0) -> None:
    """Until it is so; a failure of that name where it never is."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, otherwise
        time.sleep(0.005)
