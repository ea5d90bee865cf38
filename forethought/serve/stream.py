"""Server-sent events, and work that ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
Emit = Callable[[str], None]
"""Takes one event as it goes over the wire."""

CLOSED = Response(status_code=499)
"""For whom nobody waits any more."""


def event(data: Mapping[str, Any], name: str = "") -> str:
    """One event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


DONE = "data: [DONE]\n\n"


async def gone(receive: Receive) -> None:
    """Ends when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended; what it ended with is dropped."""
    task.cancel()
    await asyncio.wait([task])


async def while_wanted(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; `None` where the client went away first, upon which it is cancelled."""
    task, left = asyncio.create_task(work), asyncio.create_task(gone(request.receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, left):
            if not one.done():
                await cancelled(one)


class EventStream(Response):
    """An answer that is written while it is made.

    `work(emit)` makes it in a task of its own, which is cancelled when the client goes away; after `beat` seconds of
    silence a comment is sent, with what `pulse` says. `leave` is called at the end, however it comes.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        work: Callable[[Emit], Awaitable[None]],
        *,
        beat: float,
        leave: Callable[[], None],
        pulse: Callable[[], str] = lambda: "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._work, self._beat, self._leave, self._pulse = work, beat, leave, pulse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        async def work() -> None:
            try:
                await self._work(queue.put_nowait)
            finally:
                queue.put_nowait(None)

        left = asyncio.create_task(gone(receive))
        worker = asyncio.create_task(work())
        left.add_done_callback(lambda _: worker.cancel())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while (piece := await self._next(queue)) is not None:
                await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
            if not left.done():
                await worker  # a bug in it ends the connection, not the answer
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await cancelled(worker)
            await cancelled(left)
            self._leave()

    async def _next(self, queue: asyncio.Queue[str | None]) -> str | None:
        """All that is to be sent now, a comment where nothing came for so long; `None` at the end."""
        try:
            async with asyncio.timeout(self._beat):
                pieces = [await queue.get()]
        except TimeoutError:
            return f": {self._pulse() or 'waiting'}\n\n"
        while pieces[-1] is not None and not queue.empty():
            pieces.append(queue.get_nowait())
        if pieces[-1] is None and len(pieces) > 1:
            queue.put_nowait(pieces.pop())
        return None if pieces[0] is None else "".join(map(str, pieces))
