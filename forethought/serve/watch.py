"""An engine as one request sees it: calls are counted, growth is told, and a refusal is an error of the API."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from forethought.engines.usage import Usage, counting
from forethought.serve.errors import TOO_LONG, ApiError, failed
from forethought.types import Engine, Messages, Sampling, Step, Verdict
from forethought.verify.verdict import Verify

logger = logging.getLogger(__name__)

_TOO_LONG = re.compile(r"context (length|window|size)|too long|\btokens and .+ holds \d+", re.IGNORECASE)


@runtime_checkable
class Live(Protocol):
    """An engine that tells tokens as they are drawn, and can hold its text to a JSON schema."""

    async def stream(
        self,
        messages: Messages,
        prefix: Sequence[Step],
        sampling: Sampling,
        heard: Callable[[str, float], None],
        schema: str | None = None,
    ) -> Step:
        """As `Engine.sample`; `heard` gets the text that each token completes and its log-probability, or a longer
        piece and not-a-number."""
        ...


@dataclass(frozen=True, slots=True)
class Grown:
    """A step has come: where it stands in the tree, and what that cost."""

    node: int
    parent: int
    """0 is the root."""
    depth: int
    tokens: int
    """Drawn by this request so far."""
    cost: int
    """Tokens of this step."""
    stop: str
    answer: bool
    """Is it the answer behind the thought, and no step of the search?"""
    text: str
    """Hidden text."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A judge has said what the thought that ends in a step is worth."""

    node: int
    score: float | None
    cost: int
    """Tokens that the judge computed."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The search has ended: the step that its thought ends in."""

    node: int


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer, and the tokens (text, log-probability) that have come since the last one."""

    text: str
    tokens: tuple[tuple[str, float], ...] = ()


Event = Grown | Scored | Chosen | Said
Hear = Callable[[Event], None]


def nobody(event: Event) -> None:
    """Hears nothing."""


@dataclass(slots=True)
class Watched:
    """The Engine protocol over another engine, for one request; every call goes on from `before`."""

    engine: Engine
    before: tuple[Step, ...] = ()
    hear: Hear = nobody
    drawn: Callable[[str], None] | None = None
    """Told the text of each step of a thought: hidden text."""
    aloud: bool = False
    """Is it told as it is drawn, where the engine can? For one thought alone: those of several would be mixed."""
    known: int | None = None
    """Tokens of the conversation, where its tokenizer is at hand."""
    sampled: int = 0
    """Tokens drawn."""
    read: int = 0
    """Tokens of the conversation, as far as the engine says."""
    computed: int = 0
    """Of the conversation's, those that had to be run through the model."""
    faults: int = 0
    answering: bool = False
    """Is what is drawn from here on the answer?"""
    chosen: int = 0
    """The step that the chosen thought ends in: the answer stands behind it."""
    _steps: list[Step] = field(default_factory=list)
    _costs: dict[int, int] = field(default_factory=dict)
    _nodes: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The engine's own."""
        return self.engine.name

    def cost(self, step: Step) -> int:
        """Tokens that this step was drawn as, by what the engine counted."""
        return self._costs.get(id(step), len(step.tokens))

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        """One step of the search."""
        if (drawn := self.drawn) is not None and self.aloud and isinstance(self.engine, Live):
            return await self.speak(messages, prefix, sampling, lambda text, _: drawn(text), None)
        step = await self._counted(self.engine.sample, messages, prefix, sampling)
        if drawn is not None and step.sampled:
            drawn(step.text)
        return step

    async def speak(
        self,
        messages: Messages,
        prefix: Sequence[Step],
        sampling: Sampling,
        heard: Callable[[str, float], None],
        schema: str | None,
    ) -> Step:
        """One step that is told token by token where the engine can, all at once where it cannot."""
        if isinstance(self.engine, Live):
            stream = self.engine.stream

            async def live(messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
                return await stream(messages, prefix, sampling, heard, schema)

            return await self._counted(live, messages, prefix, sampling)
        step = await self._counted(self.engine.sample, messages, prefix, sampling)
        if step.stop != "error":
            heard(step.text, math.nan)
        return step

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        """Those of the steps that are this request's own."""
        told = await self.engine.logprobs(messages, (*self.before, *steps))
        return told[len(self.before) :]

    async def _counted(
        self, call: Callable[..., object], messages: Messages, prefix: Sequence[Step], sampling: Sampling
    ) -> Step:
        whole = (*self.before, *prefix)
        usage = Usage()
        try:
            with counting() as usage:
                step = await call(messages, whole, sampling)  # type: ignore[misc]  # each is an async function
        except ValueError as error:
            logger.debug("the engine refused: %s", error)
            if _TOO_LONG.search(str(error)):
                message = "The conversation is longer than this model's context; shorten it."
                raise ApiError(400, message, code=TOO_LONG, param="messages") from None
            logger.warning("the engine of %s refused a request (%s)", self.name, type(error).__name__)
            raise failed() from None
        finally:
            self.sampled += usage.sampled
            if not any(step.sampled for step in prefix):
                # What a cache has is the beginning: all that was computed beyond the conversation is what we wrote.
                read = usage.prefilled + usage.reused
                self.read = max(self.read, read)
                self.computed += max(0, min(read, self.known) - usage.reused) if self.known else usage.prefilled
        assert isinstance(step, Step)
        if step.stop == "error":
            logger.debug("the engine failed: %s", step.text)
            self.faults += 1
        parent = self.chosen if self.answering else self.node(prefix)
        self._steps.append(step)  # kept, so that no other step can come to have its id
        node = len(self._steps)
        self._nodes[id(step)], self._costs[id(step)] = node, usage.sampled
        depth, text = len(prefix) + 1, step.text if step.stop != "error" else ""
        self.hear(Grown(node, parent, depth, self.sampled, usage.sampled, step.stop, self.answering, text))
        return step

    def node(self, steps: Sequence[Step]) -> int:
        """The last of these steps that was drawn for this request; 0 where none was. What was written has no node."""
        return next((node for step in reversed(steps) if (node := self._nodes.get(id(step)))), 0)

    def choose(self, thought: Sequence[Step]) -> None:
        """The search has ended with this thought."""
        self.chosen = self.node(thought)
        if self.chosen:
            self.hear(Chosen(self.chosen))

    def heeded(self, judge: Verify) -> Verify:
        """`judge`, each of whose verdicts is told."""

        async def verify(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
            verdict = await judge(messages, steps)
            if node := self.node(steps):
                self.hear(Scored(node, verdict.score, verdict.cost))
            return verdict

        return verify
