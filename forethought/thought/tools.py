"""Calls of tools inside a thought: found in its text, answered, and written back as steps of ours.

    <think>
    The product is <calc>487 * 352</calc><output>171424</output>
    </think>
    \\boxed{171424}

A call ends the sampled step that makes it (`action="tool"`, a target as any other); what the tool gave is a step of its
own (`action="observe"`, `sampled=False`: context, never a target), after which the thought is drawn on.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from forethought.thought.marks import BOXED, CALLS, CLOSE, INSTRUCTION, OFFERS, OPEN, OUTPUT
from forethought.thought.tokens import Tokenizer, worked_step
from forethought.types import Message, Messages, Step

Tool = Callable[[str], Awaitable[str]]
"""What stood between the marks -> what it gave, errors in words. An exception is a bug of the tool."""

_MARK = re.compile(
    "|".join(map(re.escape, [OPEN, CLOSE, BOXED, *OUTPUT, *(mark for pair in CALLS.values() for mark in pair)]))
)
_OUTPUT = re.compile(f"({re.escape(OUTPUT[0])}.*?{re.escape(OUTPUT[1])})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Tools:
    """What a thought may call, and how much of it."""

    called: Mapping[str, Tool]
    """By name, one of `marks.CALLS`."""
    calls: int = 8
    """Most calls of one thought. Beyond them its marks are text as any other, and nobody answers."""
    longest: int = 500
    """Most characters of what one call gives; the rest is cut off."""

    def __post_init__(self) -> None:
        if not self.called or not self.called.keys() <= CALLS.keys():
            raise ValueError(f"the tools are {sorted(self.called)}; give at least one of {', '.join(CALLS)}")
        if self.calls < 1 or self.longest < 1:
            raise ValueError(f"calls is {self.calls} and longest {self.longest}; both are at least 1")

    def stops(self, steps: Sequence[Step]) -> tuple[str, ...]:
        """The strings at which sampling on from `steps` has to stop; none where the calls are used up."""
        used = sum(step.action == "tool" for step in steps)
        return tuple(CALLS[name][1] for name in self.called) if used < self.calls else ()

    def marked(self, step: Step, before: Sequence[Step]) -> Step:
        """A step that was just drawn behind others, as a call where it ended at one of their `stops`."""
        calls = step.sampled and step.stop == "stop" and step.text.endswith(self.stops(before))
        return replace(step, action="tool") if calls else step

    async def answer(self, steps: Sequence[Step]) -> Step:
        """What the tool gives that the last of `steps` calls, between its marks.

        No mark in it stays one: a program that prints `</think>` ends no thought.
        """
        since = next((at for at in reversed(range(len(steps))) if steps[at].action == "observe"), -1)
        text = "".join(step.text for step in steps[since + 1 :])
        name = next(name for name in self.called if text.endswith(CALLS[name][1]))
        opening, closing = CALLS[name]
        start = text.rfind(opening)
        if start < 0:
            given = "error: a call that nothing opens"
        else:
            given = await self.called[name](text[start + len(opening) : -len(closing)].strip())
        given = _MARK.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", given.strip())
        if len(given) > self.longest:
            given = f"{given[: self.longest]}... ({len(given) - self.longest} more characters)"
        return Step(f"{OUTPUT[0]}{given}{OUTPUT[1]}", stop="stop", action="observe", sampled=False)


def instructed(messages: Messages, tools: Tools | None = None) -> Messages:
    """The conversation with the instruction after its last turn, the tools that may be called in it: not every chat
    template takes a system turn."""
    last = messages[-1]
    told = " ".join((INSTRUCTION, *(OFFERS[name] for name in tools.called))) if tools else INSTRUCTION
    return (*messages[:-1], Message(role=last["role"], content=f"{last['content']}\n\n{told}"))


def worked_steps(tokenizer: Tokenizer, text: str) -> tuple[Step, ...]:
    """A worked example's completion as it would have been sampled: its calls steps that end there, what tools gave
    steps of ours, the end token on the last.

    Raises ValueError where the tokenizer has no end token.
    """
    *pieces, last = _OUTPUT.split(text)
    steps: list[Step] = []
    for place, piece in enumerate(pieces):
        if place % 2:
            steps.append(Step(piece, stop="stop", action="observe", sampled=False))
        elif piece:
            tokens = tuple(tokenizer.encode(piece, add_special_tokens=False))
            steps.append(Step(piece, tokens, stop="stop", action="tool"))
    return (*steps, worked_step(tokenizer, last))
