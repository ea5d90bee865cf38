"""What all verifiers share: who may be judged, what judging cost, and how the scores of steps become one."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from types import TracebackType
from typing import Self

from forethought.engines.usage import counting, judging
from forethought.types import Messages, Step, Verdict
from forethought.verify.heads import Aggregate
from forethought.verify.vote import answer_of

Verify = Callable[[Messages, tuple[Step, ...]], Awaitable[Verdict]]
"""A judge at test time: it sees the conversation and one thought, and no answer."""

_TOO_LONG = re.compile(r"\bcontext (length|window|size)\b|\btokens and .+ holds \d+", re.IGNORECASE)


def judged(judge: Verify, *, answer: Callable[[str], str | None] = answer_of) -> Verify:
    """`judge` as every verifier of the house behaves.

    - `cost` is what engines computed for it (`counting`), and never less than what `judge` itself says it saw drawn:
      some engines do not tell.
    - `answer` is the one that votes count, read by `answer`, unless the judge names one.
    - `score` is `None`, with a note, where there is no thought, where it ended in an engine's fault, where it is
      longer than the judge's context, where the judge cannot be reached, and where the score is not finite. Any other
      `ValueError` is the caller's to mend and propagates.
    """

    async def verify(messages: Messages, steps: Sequence[Step]) -> Verdict:
        steps = tuple(steps)
        said = answer("".join(step.text for step in steps))
        if not any(step.tokens or step.text for step in steps):
            return Verdict(None, answer=said, note="there is no thought to judge")
        if steps[-1].stop == "error":
            return Verdict(None, answer=said, note=f"the thought ended in an engine's fault: {steps[-1].text}")
        with judging(), counting() as usage:
            try:
                verdict = await judge(messages, steps)
            except ConnectionError as fault:
                verdict = Verdict(None, note=f"the judge cannot be reached: {fault}")
            except ValueError as fault:
                verdict = Verdict(None, note=too_long(fault))
        note = verdict.note
        if verdict.score is not None and not math.isfinite(verdict.score):
            note = f"the judge's score is {verdict.score}"
        return replace(
            verdict,
            score=finite(verdict.score),
            steps=tuple(map(finite, verdict.steps)),
            answer=said if verdict.answer is None else verdict.answer,
            note=note,
            cost=max(verdict.cost, usage.judged),
        )

    return verify


def too_long(fault: ValueError) -> str:
    """The note of a verdict that the judge's context had no room for; any other fault is raised again."""
    if not _TOO_LONG.search(str(fault)):
        raise fault
    return f"too long for the judge: {fault}"


@dataclass(frozen=True, slots=True)
class Opened:
    """A verifier that may hold connections: called as any other, and closed (or used as `async with`) at the end."""

    verify: Verify
    holds: tuple[Callable[[], Awaitable[None]], ...] = ()
    """What closes them, in the running loop."""

    async def __call__(self, messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        return await self.verify(messages, steps)

    async def close(self) -> None:
        """Close the running loop's connections; the verifier can be used again, and opens new ones."""
        for close in self.holds:
            await close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def finite(score: float | None) -> float | None:
    """The score, or `None` where it is no number."""
    return score if score is not None and math.isfinite(score) else None


def sigmoid(logit: float) -> float:
    """The probability whose log-odds these are; exact at both ends, NaN for NaN."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)


def aggregated(scores: Sequence[float], how: Aggregate) -> float:
    """The scores of a thought's steps, at least one, as one."""
    combine: dict[Aggregate, Callable[[Sequence[float]], float]] = {
        "last": lambda scores: scores[-1],
        "min": min,
        "product": math.prod,
        "mean": fmean,
    }
    return combine[how](scores)


def drawn(steps: Sequence[Step]) -> int:
    """Tokens that can be seen to have been sampled: their ids, or their log-probabilities where ids are not told."""
    return sum(len(step.tokens) or len(step.logprobs) for step in steps if step.sampled)
