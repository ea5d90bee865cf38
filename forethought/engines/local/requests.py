"""What an engine is asked for: a sample, or something about tokens that are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from forethought.engines.local.grammar import Grammar
from forethought.engines.usage import Usage
from forethought.types import Sampling, Stop


@dataclass(eq=False)
class Sample:
    """A request for one continuation: waiting, then a row of the batch."""

    prefix: tuple[int, ...]
    limit: int
    sampling: Sampling
    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: Stop | None = None
    text: str | None = None
    """Up to the stop string it ran into, else `None`: all of its tokens."""
    shared: int = 0
    """Tokens of the prefix that stand in a context and not in the row."""
    place: int = 0
    """In the contexts, where they are shared."""
    heard: Callable[[int, float], None] | None = None
    """Told each token and its log-probability as it is drawn, in the thread that computes."""
    grammar: Grammar | None = None
    """What its text is held to."""
    cancelled: bool = False
    usage: Usage = field(default_factory=lambda: Usage(requests=1))

    @property
    def length(self) -> int:
        """Tokens that the row itself holds; the last one drawn has not been run through the model."""
        return len(self.prefix) - self.shared + max(0, len(self.tokens) - 1)


@dataclass(eq=False)
class Given:
    """A request about tokens that are given: their log-probabilities, or the head's value at the end of each span."""

    tokens: tuple[int, ...]
    spans: list[tuple[int, int]]
    values: bool
    result: tuple[Any, ...] = ()
    cancelled: bool = False
    usage: Usage = field(default_factory=lambda: Usage(requests=1))
