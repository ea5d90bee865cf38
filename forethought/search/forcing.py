"""Budget forcing: a thought made to last as long as it should, and no longer (s1, arXiv 2501.19393, section 3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from forethought.search.budget import UNLIMITED, spent
from forethought.search.choose import latest
from forethought.search.work import PLAIN, Options, Work
from forethought.thought.marks import BOXED, CLOSE, OPEN, STEP, after_thought
from forethought.types import Budget, Engine, Messages, Sampling, Tree
from forethought.verify.verdict import Verify

WAIT = "Wait"
FINAL = f"\n{CLOSE}\n{BOXED}"
"""Closes a thought and opens its answer."""


async def force(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    least: int = 0,
    most: int = 1024,
    waits: int = 4,
    wait: str = WAIT,
    final: str = FINAL,
    **options: Unpack[Options],
) -> Tree:
    """One thought of `least` to `most` tokens, then an answer of up to `sampling.max_tokens`.

    A step that closes the thought, or ends it, before `least` is set aside (a leaf of the tree; where it ended with an
    answer, a thought that `Tree.best` falls back on) and `wait` is written in its place, at most `waits` times. To set
    aside no more than the close, thinking is drawn a line at a time until then. At `most`, or where the token budget
    has only the answer's share left, `final` is written and the answer drawn behind it.
    """
    if not 0 <= least <= most or most < 1:
        raise ValueError(f"least is {least} and most {most}; a thought has at least 1 token, and least up to most")
    if waits < 0 or (least and not wait):
        raise ValueError(f"waits is {waits} and wait {wait!r}; waits is 0 or more, and wait says something")
    options.setdefault("choose", latest)
    work = Work(messages, engine, budget, verify, sampling, mark=STEP, **options)
    answering = sampling.max_tokens + (options.get("verify_tokens", 0) if verify else 0)

    def room(thought: int) -> int:
        left = work.account.left
        return most - thought if left is None else min(most - thought, left - answering)

    async def chain() -> None:
        at, thought, waited = 0, 0, 0
        while (tokens := room(thought)) > 0:
            early = thought < least and waited < waits
            ends = (*sampling.stop, CLOSE, *((STEP,) if early else ()))
            node = await work.grow(at, replace(sampling, max_tokens=tokens, stop=ends), judge=False)
            step = None if node is None else work.tree.places[node].step
            if node is None or step is None or step.stop == "error":
                return
            closes = CLOSE in step.text
            cost = sum(spent(each, tokens) for each in (*work.tree.places[node].before, step))
            if early and thought + cost < least and (closes or work.ends(step)):
                at = work.write(at, f"{OPEN}\n{wait}" if OPEN in step.text else wait, "revise")
                waited += 1
                continue
            at, thought = node, thought + cost
            if closes or not work.leads(step):
                break
        text = "".join(step.text for step in work.tree.steps(at))
        if work.finished(at) and after_thought(text) is not None:
            await work.appraise(at)
            return
        if CLOSE not in text:
            at = work.write(at, final, "answer")
        await work.grow(at, sampling)

    return await work.finish(chain())
