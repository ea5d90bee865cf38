"""A scripted judge that tells the log-probabilities it is told to, and books what it computes as real engines do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from forethought.engines.scripted import Reply, Script, Scripted, always
from forethought.engines.usage import Bill, Usage
from forethought.types import Messages, Sampling, Step, Verdict, user
from forethought.verify.verdict import Opened, Verify

ASKED = user("3 + 4 = ?")
THOUGHT = (Step("<think>\n"), Step("3 + 4 = 8\n"), Step("so 8\n</think>\n"), Step("\\boxed{8}"))

Belief = Callable[[str], float]
"""p(Yes) of everything the judge has read before its word."""


class Judge(Scripted):
    """Says `replies`, and Yes with the probability `belief` of the text before it. Half of its mass is on neither word.

    With `metered` its prompts are booked too, a character a token once a call, and what it scores.
    """

    def __init__(
        self,
        replies: Sequence[Reply] | Script = always(""),  # noqa: B008 -- a function
        belief: Belief = lambda text: 0.5,
        *,
        metered: bool = True,
        delay: float = 0.0,
    ) -> None:
        super().__init__(replies, name="judge", delay=delay)
        self.belief = belief
        self.metered = metered
        self.read: list[str] = []
        self.scoring = self.most_scoring = 0

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        bill = Bill.open(Usage())
        step = await super().sample(messages, prefix, sampling)
        if self.metered:
            bill.book(Usage(prefilled=characters(messages, prefix)))
        return step

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        bill = Bill.open(Usage())
        self.scoring += 1
        self.most_scoring = max(self.most_scoring, self.scoring)
        await asyncio.sleep(self.delay)
        self.scoring -= 1
        before = messages[-1]["content"] + "".join(step.text for step in steps[:-1])
        self.read.append(before + "|" + steps[-1].text)
        chance = self.belief(before)
        mass = 0.5 * {"yes": chance, "no": 1 - chance}[steps[-1].text.strip().lower()]
        if self.metered:
            bill.book(Usage(scored=characters(messages, steps), requests=1))
        rows = [(-0.5,) * len(step.text) for step in steps[:-1]]
        return (*rows, (math.log(mass) if mass else -math.inf,))


def characters(messages: Messages, steps: Sequence[Step]) -> int:
    return sum(len(message["content"]) for message in messages) + sum(len(step.text) for step in steps)


def ask(verify: Verify, *thoughts: tuple[Step, ...]) -> list[Verdict]:
    """Verdicts on these thoughts, all asked for at once."""

    async def all_at_once() -> list[Verdict]:
        try:
            return list(await asyncio.gather(*(verify(ASKED, steps) for steps in thoughts)))
        finally:
            if isinstance(verify, Opened):
                await verify.close()

    return asyncio.run(all_at_once())
