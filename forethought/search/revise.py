"""One attempt after another, each with the ones before it in sight (arXiv 2408.03314, section 6; with a critic's
words, as in Self-Refine, arXiv 2303.17651)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from forethought.search.budget import UNLIMITED
from forethought.search.work import PLAIN, Options, Work
from forethought.thought.marks import CLOSE, OPEN
from forethought.types import Budget, Engine, Messages, Sampling, Tree, Verdict
from forethought.verify.verdict import Verify

Remark = Callable[[Verdict | None], str]
"""What stands between an attempt and its revision, given the verdict on the attempt (`None` without a verifier)."""

AGAIN = f"\n{OPEN}\nLet me check that, and try again.\n"
"""Opens another thought: whoever reads the text, a grader or a user, is then shown the last attempt's answer alone."""


def again(verdict: Verdict | None) -> str:
    """The same words each time: the model finds its mistakes itself."""
    return AGAIN


def feedback(verdict: Verdict | None) -> str:
    """What the critic noted, and the request to try again; where it noted nothing, as `again`."""
    note = verdict.note.replace(OPEN, "").replace(CLOSE, "") if verdict else ""  # it must not end the thought it is in
    return AGAIN.replace(OPEN, f"{OPEN}\nFeedback: {note}") if note else AGAIN


async def revise(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 4,
    remark: Remark = again,
    **options: Unpack[Options],
) -> Tree:
    """A chain of n attempts; before each but the first stands what `remark` says of the one before, as a step of ours.
    Your own `remark` should open a thought as `AGAIN` does, or two answers will stand side by side.

    `Tree.best` is an attempt anywhere in the chain: in the paper 38 % of right answers were revised into wrong ones
    (section 6.1), so the last is not to be trusted. The chain breaks off at an attempt that did not finish.
    Every attempt has all earlier ones in its context: what the tree says is what the model saw.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a chain needs at least 1 attempt")
    if remark is feedback and verify is None:
        raise ValueError("feedback repeats a critic's note, and verify is None; give a critic, or take remark=again")
    work = Work(messages, engine, budget, verify, sampling, **options)

    async def chain() -> None:
        last = 0
        for i in range(n):
            if i:
                last = work.write(last, remark(work.verdicts.get(last)), "observe")
            attempt = await work.grow(last)
            if attempt is None or not work.finished(attempt) or work.ask():
                return
            last = attempt

    return await work.finish(chain())
