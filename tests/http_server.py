"""A small real server for the http engine's tests, that behaves as badly as real ones do.

One thread serves any number of connections: thousands of requests can wait in it at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from forethought.engines.http import HttpEngine
from forethought.types import Sampling, Step, user

T = TypeVar("T")
Body = dict[str, Any]
Answer = Body | bytes | tuple[int, Any] | tuple[int, Any, dict[str, str]] | float | None
"""An object (200), raw bytes (200), (status, what), (status, what, headers), None: hang up without a word, or seconds
after which `4` is answered."""

ASKED = user("2 + 2 = ?")
NEVER = 3600.0


class Server:
    """Answers each POST with `answer(payload, number of the request from 0)` and keeps what was asked.

    A path in `routes` is answered by its own function of the payload, and not counted among the `asked`.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Body, int], Answer] = lambda payload, number: chat("4")
        self.routes: dict[str, Callable[[Body], Answer]] = {}
        self.names = ["qwen", "llama"]
        self.asked: list[tuple[str, Body, dict[str, str]]] = []
        self.routed: list[str] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.hung_up = threading.Semaphore(0)
        """Released once for each request whose client hung up before it was answered."""
        self.holding: list[Connection] | None = None
        """A list: requests wait in it until `release` answers them all."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener = self._call(self._listen())
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def stop(self) -> None:
        """Listen no more."""

        async def stop() -> None:
            self._listener.close()

        self._call(stop())

    def release(self) -> None:
        """Answer every request that waits, and hold no more."""

        async def release() -> None:
            held, self.holding = self.holding or [], None
            for connection in held:
                connection.settle(chat("4"))

        self._call(release())

    @property
    def payloads(self) -> list[Body]:
        return [payload for _, payload, _ in self.asked]

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=4096)

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(5)


class Connection(asyncio.Protocol):
    """One client's connection; requests on it come one after another."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""
        self.waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.server.in_flight -= 1
            self.server.hung_up.release()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.title(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("Content-Length", 0))
        if end and len(rest) >= length:
            self.buffer = rest[length:]
            self.serve(first.split()[0], first.split()[1], headers, rest[:length])

    def serve(self, method: str, path: str, headers: dict[str, str], content: bytes) -> None:
        server = self.server
        if method == "GET":
            self.reply(200, {"data": [{"id": name} for name in server.names]}, {})
            return
        payload = json.loads(content)
        if path in server.routes:
            server.routed.append(path)
            answer = server.routes[path](payload)
        else:
            server.asked.append((path, payload, headers))
            answer = server.answer(payload, len(server.asked) - 1)
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        if server.holding is not None:
            server.holding.append(self)
            return
        late = isinstance(answer, float)
        self.waiting = asyncio.get_running_loop().call_later(
            answer if isinstance(answer, float) else 0, self.settle, chat("4") if late else answer
        )

    def settle(self, answer: Answer) -> None:
        self.waiting = None
        self.server.in_flight -= 1
        if answer is None:
            self.transport.close()
        elif isinstance(answer, tuple):
            self.reply(answer[0], answer[1], answer[2] if len(answer) == 3 else {})
        else:
            self.reply(200, answer, {})

    def reply(self, status: int, what: Any, headers: dict[str, str]) -> None:
        data = what if isinstance(what, bytes) else json.dumps(what).encode()
        lines = {"Content-Length": str(len(data)), **headers}.items()
        head = f"HTTP/1.1 {status} Said\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines)
        self.transport.write(head.encode() + b"\r\n" + data)


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
            asyncio.timeout(30),
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


if __name__ == "__main__":
    # A process of its own, that answers after so many seconds, until its standard input ends.
    with Server() as alone:
        delay = float(sys.argv[1])
        alone.answer = lambda payload, number: delay
        print(alone.url, flush=True)
        sys.stdin.read()
