"""The server under load: 64 clients that stream for five minutes, a quarter of them leaving midway, some malformed.

    make bench BENCH=server_load ARGS="--json"
    python benchmarks/server_load.py --quick

Each client asks with a prompt, seed, temperature, stop string, limit and schema of its own. What it is answered alone,
before the load, it must be answered under it. Goals: no error of ours, no answer by another's settings, memory that
does not grow by more than 5 % from the first minute to the last, the first event within 200 ms for 95 % of requests to
an idle server, an event loop that is never blocked for 100 ms.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import tyro
from race import machine
from watched_server import BLOCKED, NAME

GROWTH, FIRST = 1.05, 0.2
"""Goals: memory in the last minute over that in the first; seconds to the first event, idle, at 95 %."""
WILD = 0.1
"""Share of requests that are malformed."""


@dataclass(frozen=True)
class Config:
    """Load one server over the tiny model, and hold it to its goals."""

    seconds: float = 300.0
    """Of load."""
    clients: int = 64
    """At one time."""
    leaving: float = 0.25
    """Share of clients that break off every stream."""
    seed: int = 0
    quick: bool = False
    """Some seconds: does it work? The figures mean little."""
    json: bool = False
    """Print one last line of JSON."""


@dataclass
class Seen:
    """What clients saw."""

    requests: Counter[str] = field(default_factory=Counter)
    """By how they ended: answered, left, refused as they should be."""
    errors: list[str] = field(default_factory=list)
    """Whatever a client must not see: a 5xx, a refusal of a good request, a stream that breaks off."""
    mixed: list[str] = field(default_factory=list)
    """Answers that are not as their own settings make them."""
    idle: list[float] = field(default_factory=list)
    """Seconds to the first event, asked alone."""
    loaded: list[float] = field(default_factory=list)
    """The same under load."""


@dataclass(frozen=True)
class Plan:
    """One request of one client."""

    path: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """For the notes."""
        return f"{self.path.rpartition('/')[2]} of {self.body['user']}"

    def wrong(self, text: str, alone: str | None) -> str:
        """What in this answer is not as this request asked, `alone` being what it was answered by an idle server."""
        if (form := self.body.get("response_format")) is not None:
            own = form["json_schema"]["schema"]["properties"]["name"]["enum"]
            return "" if json.loads(text)["name"] in own else f"{text!r} is not of {own}"
        if any(stop in text for stop in self.body.get("stop", ())):
            return f"{text!r} has the stop string {self.body['stop']}"
        return "" if alone is None or text == alone else f"{text!r} is {alone!r} when asked alone"


def plans(client: int) -> tuple[Plan, ...]:
    """What client number `client` asks: nobody else asks any of it."""
    draw = random.Random(client)
    user, question = f"client {client}", f"{client}: " + "".join(draw.choices("0123456789+*", k=8 + client % 24))
    common = {"model": NAME, "user": user, "stream": True, "temperature": (0.0, 0.5, 0.8, 1.2)[client % 4]}
    turns = [{"role": "user", "content": question}]
    stops = draw.sample("abcdefghijklmnopqrstuvwxyz", 1 + client % 4)
    chat = {**common, "messages": turns, "seed": client, "max_completion_tokens": 32 + client % 48}
    schema = {"type": "object", "properties": {"name": {"enum": [user]}}, "required": ["name"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "own", "schema": schema}}
    return (
        Plan("/v1/chat/completions", {**chat, "stop": stops}),
        Plan("/v1/chat/completions", {**chat, "reasoning_effort": "none", "top_p": 0.5 + client % 5 / 10}),
        Plan("/v1/chat/completions", {**chat, "response_format": form, "max_completion_tokens": 96}),
        # This API has no seed: only greedy answers can be told.
        Plan("/v1/responses", {**common, "temperature": 0.0, "input": question, "max_output_tokens": 32 + client % 48,
                               "reasoning": {"summary": "auto"}}),
    )  # fmt: skip


def malformed(draw: random.Random) -> tuple[str, bytes]:
    """A body that must be refused."""
    good = {"model": NAME, "messages": [{"role": "user", "content": "?"}], "stream": True}
    bodies: list[tuple[str, Any]] = [
        ("/v1/chat/completions", b"{"),
        ("/v1/chat/completions", b"[" * 100_000),
        ("/v1/chat/completions", b"\xff\xfe"),
        ("/v1/chat/completions", b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}'),
        ("/v1/responses", b'{"model": "tiny", "input": [{"role": "user", "content": [{"text": "\\udc00"}]}]}'),
        ("/v1/chat/completions", {**good, "model": "nobody"}),
        ("/v1/chat/completions", {**good, "messages": []}),
        ("/v1/chat/completions", {**good, "messages": {"role": "user"}}),
        ("/v1/chat/completions", {**good, "temperature": "warm"}),
        ("/v1/chat/completions", {**good, "response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}),
        ("/v1/responses", b'{"model": "tiny", "input": "?", "text": {"format": {"type": "text", "x": NaN}}}'),
        ("/v1/chat/completions", {**good, "messages": [{"role": "user", "content": "long " * 100_000}]}),
        ("/v1/chat/completions", b"x" * (2 << 20)),
        ("/v1/responses", {"model": NAME}),
        ("/v1/responses", {"model": NAME, "input": [{"type": "reasoning", "encrypted_content": "x"}]}),
        ("/v1/responses", {"model": NAME, "input": "?", "text": {"format": {"type": "json_schema", "schema": 3}}}),
    ]  # fmt: skip
    path, body = draw.choice(bodies)
    return path, body if isinstance(body, bytes) else json.dumps(body).encode()


@asynccontextmanager
async def serving(*words: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A server in a process of its own: its address, and the lines that it complains in."""
    command = [sys.executable, str(Path(__file__).with_name("watched_server.py")), *words]
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    stderr = child.stderr
    complaints: list[str] = []

    async def listen() -> None:
        assert stderr is not None
        while line := await stderr.readline():
            complaints.append(line.decode(errors="replace").rstrip())

    listening = asyncio.create_task(listen())
    try:
        url = (await child.stdout.readline()).decode().strip()
        if not url:
            await listening
            raise RuntimeError("the server did not start: " + "\n".join(complaints[-5:]))
        yield url, complaints
    finally:
        child.stdin.close()
        await child.wait()
        await listening


class Client:
    """Asks in turn, for as long as it is let."""

    def __init__(self, number: int, config: Config, session: aiohttp.ClientSession, seen: Seen) -> None:
        self.number, self.session, self.seen = number, session, seen
        self.leaves = number < config.clients * config.leaving
        self.plans = plans(number)
        self.alone: dict[int, str] = {}
        self._draw = random.Random(f"{config.seed} {number}")

    async def ask(self, at: int, times: list[float], leave_after: int | None = None) -> str | None:
        """The answer to one of its plans; `None` where it left, or was answered with an error."""
        plan, began = self.plans[at], time.perf_counter()
        pieces, events, ended = list[str](), 0, False
        try:
            async with self.session.post(plan.path, json=plan.body) as reply:
                if reply.status != 200:
                    self.seen.errors.append(f"{plan.name}: {reply.status} {(await reply.text())[:200]}")
                    return None
                async for raw in reply.content:
                    line = raw.decode()
                    if leave_after is not None and events >= leave_after:
                        self.seen.requests["left"] += 1
                        return None
                    if not line.startswith("data: "):
                        continue
                    if not events:
                        times.append(time.perf_counter() - began)
                    events += 1
                    ended = ended or self._read(plan, line.removeprefix("data: ").strip(), pieces)
        except (aiohttp.ClientError, asyncio.IncompleteReadError) as error:
            self.seen.errors.append(f"{plan.name}: {type(error).__name__} {error}")
            return None
        if leave_after is not None:  # the answer was shorter
            self.seen.requests["left"] += 1
            return None
        if not ended:
            self.seen.errors.append(f"{plan.name}: a stream without an end")
            return None
        self.seen.requests["answered"] += 1
        return "".join(pieces)

    def _read(self, plan: Plan, line: str, pieces: list[str]) -> bool:
        """Take in one event; was it the last?"""
        if line == "[DONE]":
            return True
        told = json.loads(line)
        if "error" in told or told.get("type") == "response.failed":
            self.seen.errors.append(f"{plan.name}: {line[:300]}")
        elif told.get("type") == "response.output_text.delta":
            pieces.append(told["delta"])
        elif "choices" in told:
            pieces.extend(choice["delta"].get("content") or "" for choice in told["choices"])
        return told.get("type") in ("response.completed", "response.incomplete", "response.failed")

    async def first(self) -> None:
        """Each plan once, with nobody else about."""
        for at in range(len(self.plans)):
            if (text := await self.ask(at, self.seen.idle)) is not None:
                self.alone[at] = text
                self.note(at, text)

    def note(self, at: int, text: str) -> None:
        """Is it what this plan asks for?"""
        if wrong := self.plans[at].wrong(text, self.alone.get(at)):
            self.seen.mixed.append(f"{self.plans[at].name}: {wrong}")

    async def run(self, until: float) -> None:
        """Until then, request upon request."""
        while time.monotonic() < until:
            at = self._draw.randrange(len(self.plans))
            if self._draw.random() < WILD:
                await self.wild()
            elif self.leaves:
                await self.ask(at, self.seen.loaded, leave_after=self._draw.randrange(12))
            elif (text := await self.ask(at, self.seen.loaded)) is not None:
                self.note(at, text)

    async def wild(self) -> None:
        """One malformed request, or half of one."""
        path, body = malformed(self._draw)
        try:
            if self._draw.random() < 0.2:
                await self._half(path, body)
                self.seen.requests["half sent"] += 1
                return
            async with self.session.post(path, data=body, headers={"content-type": "application/json"}) as reply:
                told = await reply.json()
        except (aiohttp.ClientConnectionError, ConnectionError):
            # A server may answer before it has read a body and close: not every client then sees the answer.
            self.seen.requests["cut off"] += len(body) > 1 << 20
            if len(body) <= 1 << 20:
                self.seen.errors.append(f"{path} broke off on {body[:80]!r}")
            return
        if not 400 <= reply.status < 500 or not {"message", "type", "param", "code"} <= told["error"].keys():
            self.seen.errors.append(f"{reply.status} {str(told)[:200]} on {body[:120]!r}")
        self.seen.requests["refused"] += 1

    async def _half(self, path: str, body: bytes) -> None:
        """A request that announces more than it sends, and hangs up."""
        url = self.session._base_url
        assert url is not None
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"
        head += f"\r\ncontent-length: {len(body) + 9}"
        writer.write(head.encode() + b"\r\n\r\n" + body[: len(body) // 2])
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@dataclass
class Watched:
    """What the server's own watch told."""

    memory: list[tuple[float, int]] = field(default_factory=list)
    """(seconds since the load began, bytes)."""
    longest: float = 0.0
    blocked: list[dict[str, Any]] = field(default_factory=list)

    async def look(self, session: aiohttp.ClientSession, began: float) -> dict[str, Any]:
        """Ask the watch once."""
        async with session.get("/watch") as reply:
            told: dict[str, Any] = await reply.json()
        self.memory.append((time.monotonic() - began, told["memory"]))
        self.longest = max(self.longest, told["longest"])
        self.blocked += told["blocked"]
        return told

    def held(self, seconds: float) -> list[float]:
        """Bytes in memory, the median of each fifth of the load: a minute of five."""
        fifths: list[list[int]] = [[], [], [], [], []]
        for at, held in self.memory:
            fifths[min(4, int(5 * at / seconds))].append(held)
        return [statistics.median(each) for each in fifths if each]


async def load(config: Config) -> tuple[Seen, Watched, list[str], int]:
    """Ask alone, then all at once; what was seen, the server's complaints, and the places still taken at the end."""
    seen, watched = Seen(), Watched()
    with tempfile.TemporaryDirectory() as folder:
        return await _load(config, seen, watched, f"{folder}/responses.sqlite")


async def _load(config: Config, seen: Seen, watched: Watched, store: str) -> tuple[Seen, Watched, list[str], int]:
    async with serving("--store", store) as (url, complaints):
        limit = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(url, connector=limit, timeout=aiohttp.ClientTimeout(120)) as session:
            clients = [Client(number, config, session, seen) for number in range(config.clients)]
            for client in clients:
                await client.first()
            began = time.monotonic()
            await watched.look(session, began)
            watched.memory.clear()
            working = asyncio.gather(*(client.run(began + config.seconds) for client in clients))
            while not working.done():
                await watched.look(session, began)
                await asyncio.wait([working], timeout=1.0)
            await working
            for _ in range(100):  # who left last is noticed in a moment
                told = await watched.look(session, began)
                if not told["inside"]:
                    break
                await asyncio.sleep(0.1)
    return seen, watched, complaints, told["inside"]


def figures(config: Config, seen: Seen, watched: Watched, complaints: Sequence[str], inside: int) -> dict[str, Any]:
    """All of it as numbers, each goal's ratio beside (1 and more: it holds)."""
    idle, loaded = percentile(seen.idle), percentile(seen.loaded)
    held = watched.held(config.seconds)
    growth = held[-1] / held[0]
    return {
        "requests": dict(seen.requests),
        "errors": len(seen.errors) + len(complaints) + inside,
        "mixed": len(seen.mixed),
        "first_event_idle_p95": idle,
        "first_event_loaded_p95": loaded,
        "memory_mib": [round(each / 2**20) for each in held],
        "growth": growth,
        "longest_wait": watched.longest,
        "waits": len(watched.blocked),
        "blocked": sum(one["cpu"] >= BLOCKED for one in watched.blocked),
        "goals": {
            "no error of ours": not (seen.errors or complaints or inside),
            "no settings mixed": not seen.mixed,
            f"first event within {FIRST} s": idle <= FIRST,
            f"memory grows by no more than {GROWTH:.2f}": growth <= GROWTH,
            f"event loop never blocked for {BLOCKED} s": not watched.blocked,
        },
    }


def percentile(values: Sequence[float], share: float = 0.95) -> float:
    """The value that so many are at or below; infinite where there is none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("inf")


def main(config: Config) -> int:
    """Load, print, and say whether the goals hold."""
    if config.quick:
        config = Config(10.0, 8, config.leaving, config.seed, True, config.json)
    before = machine()
    seen, watched, complaints, inside = asyncio.run(load(config))
    told = figures(config, seen, watched, complaints, inside)
    for name, value in told.items():
        if name != "goals":
            print(f"{name:24}{value if not isinstance(value, float) else f'{value:.3f}'}")
    for title, notes in (("error", seen.errors), ("mixed", seen.mixed), ("complaint", complaints)):
        for note in notes[:10]:
            print(f"{title}: {note}")
    for wait in sorted(watched.blocked, key=lambda one: -one["seconds"])[:10]:
        print("blocked {seconds:.3f} s, processor {cpu:.3f} s, all threads {process:.3f} s: {at}".format(**wait))
    missed = [goal for goal, held in told["goals"].items() if not held]
    print(f"missed: {', '.join(missed)}" if missed else "every goal holds")
    if config.json:
        print(json.dumps({"name": "server_load", **told, "machine": {**before, "load_after": machine()["load"]}}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
