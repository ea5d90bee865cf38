"""What an engine has computed: one record for every engine, read by budgets, servers and reports."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Self


@dataclass(slots=True)
class Usage:
    """Tokens an engine has computed since it was made. A copy of it and a later subtraction are the cost of a stretch.

    Engines that know more subclass it with further counts.
    """

    prefilled: int = 0
    """Tokens of prompts and prefixes that were run through the model to sample after them."""
    reused: int = 0
    """Tokens of prompts and prefixes that were found in a prefix cache, or computed already by another branch."""
    sampled: int = 0
    """Tokens drawn, end tokens included."""
    scored: int = 0
    """Tokens run through the model for their log-probabilities or a scalar head alone."""
    judged: int = 0
    """Of all tokens above but the reused ones, those that were computed for a judge (`judging`)."""
    requests: int = 0
    flops: float = 0.0
    """Floating-point operations, a multiply-add two of them; 0 where the engine does not know its model."""
    seconds: float = 0.0
    """Wall clock, of a stretch that was metered with `counting`."""
    tool_calls: int = 0
    """Calls of tools from inside a thought."""
    tool_seconds: float = 0.0
    """Wall clock of these calls, added up: of those side by side too."""

    def add(self, other: Usage) -> None:
        """Count what `other` has counted."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name, 0))

    def copy(self) -> Self:
        """The counts as they stand now."""
        return replace(self)

    def __sub__(self, earlier: Self) -> Self:
        """What was computed since `earlier` was copied."""
        names = (field.name for field in fields(self))
        return type(self)(**{name: getattr(self, name) - getattr(earlier, name) for name in names})


_METERS: ContextVar[tuple[Usage, ...]] = ContextVar("forethought_meters", default=())
_JUDGING: ContextVar[bool] = ContextVar("forethought_judging", default=False)


@contextmanager
def counting() -> Iterator[Usage]:
    """Meter whatever any engine computes for the requests that are made inside, in tasks started there too.

        with counting() as usage:
            tree = await search(messages, engine, ...)
        print(usage.prefilled, usage.reused, usage.sampled, usage.judged, usage.seconds)

    A request is counted when it ends; one that is cancelled counts what it had cost by then. Meters nest.
    """
    usage, started = Usage(), time.monotonic()
    token = _METERS.set((*_METERS.get(), usage))
    try:
        yield usage
    finally:
        _METERS.reset(token)
        usage.seconds = time.monotonic() - started


@contextmanager
def judging() -> Iterator[None]:
    """What is computed for the requests made inside is a judge's: it counts in `Usage.judged` as well."""
    token = _JUDGING.set(True)
    try:
        yield
    finally:
        _JUDGING.reset(token)


@dataclass(frozen=True, slots=True)
class Bill:
    """Who pays for a request: the meters that were running when it was made. Open one then, and `book` at its end."""

    meters: tuple[Usage, ...]
    judge: bool

    @classmethod
    def open(cls, *engines: Usage) -> Bill:
        """A bill to these engines' own counts and to every meter that runs here and now."""
        return cls((*engines, *_METERS.get()), _JUDGING.get())

    def book(self, usage: Usage) -> None:
        """Add one request's cost to all of them."""
        if self.judge:
            usage.judged = usage.prefilled + usage.sampled + usage.scored
        for meter in self.meters:
            meter.add(usage)
