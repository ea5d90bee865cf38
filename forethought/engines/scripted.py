"""An engine that says what it is told: the double on which every search is tested.

A token is a character and its id that character's code point, so tokens are exact and counts can be checked by eye.
An end that was drawn (`stop="end"`) adds no token: the text's length is what a step cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from forethought.engines.usage import Bill, Usage
from forethought.types import Messages, Sampling, Step, Stop

LOGPROB = -0.5
"""What every scripted token is said to have cost, in nats."""

Reply = str | Step | Exception
"""What a script may say: a text, a step that is passed on as it is, or an exception: the engine's fault, in words."""

Script = Callable[[Messages, tuple[Step, ...], Sampling, int], Reply]
"""(messages, prefix, sampling, number of this call from 0) -> reply. `sampling.seed` is there for it to use."""


def spelled(text: str, sampling: Sampling) -> Step:
    """`text` as this engine samples it: cut after the first stop string, and at `max_tokens` characters.

    A text of exactly `max_tokens` characters is a `length`, as with a model whose end token no longer fits.
    """
    ends = [at + len(stop) for stop in sampling.stop if stop and (at := text.find(stop)) >= 0]
    end = min(ends, default=None)
    stop: Stop = "end"
    if end is not None and end <= sampling.max_tokens:
        text, stop = text[:end], "stop"
    elif len(text) >= sampling.max_tokens:
        text, stop = text[: sampling.max_tokens], "length"
    tokens = tuple(map(ord, text))
    return Step(text=text, tokens=tokens, logprobs=(LOGPROB,) * len(tokens), stop=stop)


def always(reply: Reply) -> Script:
    """A script that says the same every time: `always("")` returns nothing, `always(OSError("gone"))` always fails."""
    return lambda messages, prefix, sampling, call: reply


def endless(text: str = "and so on\n") -> Script:
    """A script that never ends: every step runs to its `max_tokens` or to a stop string that `text` holds."""
    if not text:
        raise ValueError("an endless script needs a text to repeat; always('') is the one that says nothing")
    return lambda messages, prefix, sampling, call: text * (sampling.max_tokens // len(text) + 1)


class Scripted:
    """The Engine protocol over a list of replies, said in turn and again from the first, or over a `Script`.

    `delay` (seconds) is how long each call takes. What it counts is public: `calls`, `in_flight`, `most_in_flight`,
    `tokens` (sampled), and `asked`, each call's (messages, prefix, sampling) in order.
    """

    def __init__(self, replies: Sequence[Reply] | Script, name: str = "scripted", delay: float = 0.0) -> None:
        if isinstance(replies, str):
            raise ValueError(f"replies is the text {replies!r}; give a list of replies, [{replies!r}], or a callable")
        if not callable(replies) and not replies:
            raise ValueError("an empty list of replies can say nothing; give at least one, [''] for silence")
        if delay < 0:
            raise ValueError(f"delay is {delay}; it is in seconds, 0 or more")
        self.name = name
        self.delay = delay
        self.calls = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.tokens = 0
        self.asked: list[tuple[Messages, tuple[Step, ...], Sampling]] = []
        self._script = replies if callable(replies) else _in_turn(tuple(replies))

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        """The script's next reply. An exception that it returns becomes a step with `stop="error"`; one that it
        raises is a bug of the script and propagates."""
        steps, call, bill = tuple(prefix), self.calls, Bill.open()
        self.calls += 1
        self.asked.append((messages, steps, sampling))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.in_flight -= 1
        reply = self._script(messages, steps, sampling, call)
        if isinstance(reply, Exception):
            return Step(text=f"{type(reply).__name__}: {reply}", stop="error", sampled=False)
        step = spelled(reply, sampling) if isinstance(reply, str) else reply
        self.tokens += len(step.tokens)
        bill.book(Usage(sampled=len(step.tokens), requests=1))
        return step

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        """`LOGPROB` for every token of every step; a step that came without tokens has one for each character."""
        return tuple((LOGPROB,) * len(step.tokens or step.text) for step in steps)


def _in_turn(replies: tuple[Reply, ...]) -> Script:
    return lambda messages, prefix, sampling, call: replies[call % len(replies)]
