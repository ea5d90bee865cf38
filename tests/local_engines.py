"""Tiny engines and conversations for the tests of the local engine."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

import torch

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local.llama import LlamaDecoder
from forethought.engines.local.loop import Loop
from forethought.engines.local.requests import Given, Sample
from forethought.engines.local.tiny import build
from forethought.types import Messages, Sampling, Step

T = TypeVar("T")
Request = tuple[Messages, tuple[Step, ...], Sampling]


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@functools.cache
def tiny(layers: int = 2, width: int = 64, context: int = 128) -> tuple[Any, Any]:
    """A model and its tokenizer; nobody writes into it."""
    return build(TinyConfig(layers=layers, width=width, context=context))


def tiny_engine(**options: Any) -> LocalEngine:
    """An engine of its own over `tiny`."""
    return LocalEngine(*tiny(), name="tiny", **options)


def together(engine: LocalEngine, requests: Sequence[Request]) -> list[Step]:
    """All requests at once; their steps in order."""

    async def ask() -> list[Step]:
        return list(await asyncio.gather(*(engine.sample(*request) for request in requests)))

    return run(ask())


@contextlib.asynccontextmanager
async def drawing(engine: LocalEngine) -> AsyncIterator[None]:
    """Rows are being drawn, and stand still until the block is left: on no machine are they done by then."""
    ours, reached, leave = engine._loop.round, threading.Event(), threading.Event()

    def held() -> list[Sample | Given]:
        left = ours()
        if engine._loop.rows:
            reached.set()
            leave.wait(60)
        return left

    setattr(engine._loop, "round", held)  # noqa: B010 - a method cannot be assigned to
    try:
        assert await asyncio.to_thread(reached.wait, 60), "nothing was drawn"
        yield
    finally:
        delattr(engine._loop, "round")
        leave.set()


def tiny_loop(*, head: bool = False, max_rows: int = 64, cache_bytes: int = 2 << 20) -> Loop:
    """The bare loop over a model of one layer, 32 wide, in which nothing but a limit or a stop string ends a row."""
    model, tokenizer = tiny(1, 32, 256)
    loop = Loop(
        LlamaDecoder(model, torch.float32),
        ends=frozenset(),
        decode=tokenizer.decode,
        max_rows=max_rows,
        cache_bytes=cache_bytes,
    )
    if head:
        loop.prefill.head = (torch.randn(32, generator=torch.Generator().manual_seed(0)), 0.5)
    return loop


def ask(loop: Loop, request: Sample | Given) -> None:
    """Queue it where the engine would."""
    queue: collections.deque[Any] = loop.samples if isinstance(request, Sample) else loop.given
    queue.append(request)


def finish(loop: Loop, *requests: Sample | Given) -> list[Sample | Given]:
    """Queue these and go round until nothing is left; returns what left, in that order."""
    for request in requests:
        ask(loop, request)
    left: list[Sample | Given] = []
    while loop.busy:
        left += loop.round()
    return left
