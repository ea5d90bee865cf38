"""Work that goes on when its client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from forethought.serve.stream import cancelled


class Background:
    """The tasks under way, by the name of the response that each makes."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Begin; the work itself keeps what comes of it, and what it could not do."""
        task = asyncio.create_task(work)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def cancel(self, name: str) -> None:
        """End one, where it is still under way."""
        if task := self._tasks.get(name):
            await cancelled(task)

    async def stop(self) -> None:
        """End them all; what they were at stands in the store, for the next server to begin again."""
        for name in list(self._tasks):
            await self.cancel(name)
