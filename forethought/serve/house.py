"""What all requests of one server share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from starlette.requests import Request

from forethought.search.seeds import derive
from forethought.serve.background import Background
from forethought.serve.config import ServerConfig
from forethought.serve.jobs import Jobs
from forethought.serve.limits import Caller, Gate
from forethought.serve.metrics import Metrics
from forethought.serve.models import Models, Served
from forethought.serve.seal import Seal
from forethought.serve.think import Answer, Ask, Pause, answer, at_once
from forethought.serve.watch import Hear, nobody


@dataclass(frozen=True, eq=False)
class House:
    """One server: its models, its limits, its counts, and what it keeps."""

    config: ServerConfig
    models: Models
    gate: Gate
    metrics: Metrics
    background: Background
    seal: Seal | None = None
    jobs: Jobs | None = None

    async def answer(
        self,
        ask: Ask,
        model: Served,
        search: str,
        hear: Hear = nobody,
        pause: Pause = at_once,
        drawn: Callable[[str], None] | None = None,
    ) -> Answer:
        """`think.answer`, counted."""
        return await self.booked(model, answer(ask, model, search, hear, pause, drawn))

    async def booked(self, model: Served, work: Awaitable[Answer]) -> Answer:
        """What `work` answers, counted."""
        began = time.monotonic()
        made = await work
        self.metrics.book(model.config.name, made)
        self.metrics.seconds.labels(model.config.name).observe(time.monotonic() - began)
        return made


def house_of(request: Request) -> House:
    """The server that this request came to."""
    house: House = request.app.state.house
    return house


def caller_of(request: Request) -> Caller:
    """Who made this request, as the door has found."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def new_id(prefix: str) -> str:
    """A name nobody can guess."""
    return f"{prefix}{uuid.uuid4().hex}"


def nth(ask: Ask, index: int) -> Ask:
    """The same, drawn anew for one of several choices; the first is what would have been drawn alone."""
    return replace(ask, seed=derive(ask.seed, "choice", index)) if index else ask
