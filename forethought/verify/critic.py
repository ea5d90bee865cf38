"""A critic: feedback in words on errors that it quotes, found by force-sampled best-of-n (CriticGPT, arXiv 2407.00215,
section 3.3).

A critique is a row of highlights: a faulty piece of the thought quoted between ``` marks, and what is wrong with it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from forethought.types import Engine, Messages, Sampling, Step, Verdict, user
from forethought.verify.confidence import confidence
from forethought.verify.generative import nth, presented
from forethought.verify.verdict import Verify, drawn, judged
from forethought.verify.vote import answer_of

MARK = "```"
NONE = "No errors."
CRITIQUE = Sampling(max_tokens=256)
ASKED = (
    "List the errors in the solution. For each, quote the faulty text exactly, between ``` marks, and say after it in "
    f'a sentence what is wrong. Where there is no error, write "{NONE}" and nothing else.'
)

_QUOTED = re.compile(r"```[ \t]*\n?(.*?)\n?[ \t]*```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Highlight:
    """One error that a critique names."""

    quote: str
    comment: str
    """What follows the quote, down to the next."""
    step: int
    """Index of the step in which the quote begins."""


@dataclass(frozen=True, slots=True)
class Critique:
    """One critique that could be ranked."""

    text: str
    found: tuple[Highlight, ...]
    reward: float


def critique_prompt(messages: Messages, steps: Sequence[Step], asked: str = ASKED) -> Messages:
    """What a critic is asked, and trained on."""
    return user(f"{presented(messages, steps)}\n\n{asked}")


def written(errors: Iterable[tuple[str, str]]) -> str:
    """The critique of these errors, each the faulty text as it stands and what is wrong with it: what a critic is
    trained to write."""
    return "\n\n".join(f"{MARK}{quote}{MARK} {comment}" for quote, comment in errors) or NONE


def critic(
    engine: Engine,
    *,
    rank: Verify | None = None,
    n: int = 4,
    keep: int = 2,
    rounds: int = 4,
    modifier: float = 0.0,
    sampling: Sampling = CRITIQUE,
    asked: str = ASKED,
    answer: Callable[[str], str | None] = answer_of,
) -> Verify:
    """The best critique is the `note`; `steps` are 0 where it locates an error and 1 elsewhere, `score` the least.

    The critiques are those of `critiques`, and the highest reward + `modifier` · highlights wins: a higher modifier
    finds more and invents more (section 3.3; the paper takes modifiers at quantiles of the length). A quote that is not
    in the thought, blanks aside, locates nothing and is not counted. `parts` has the winner's `reward`, and the numbers
    of `highlights` and of `critiques` that could be ranked.
    """
    search = critiques(engine, rank=rank, n=n, keep=keep, rounds=rounds, sampling=sampling, asked=asked)

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        pool, cost, fault = await search(messages, steps)
        if not pool:
            return Verdict(None, note=f"no critique could be had: {fault}", cost=cost)
        best = chosen(pool, modifier)
        located = {one.step for one in best.found}
        scores = tuple(0.0 if index in located else 1.0 for index in range(len(steps)))
        parts = {"reward": best.reward, "highlights": float(len(best.found)), "critiques": float(len(pool))}
        return Verdict(min(scores), scores, note=best.text.strip(), parts=parts, cost=cost)

    return judged(judge, answer=answer)


def chosen(pool: Sequence[Critique], modifier: float = 0.0) -> Critique:
    """The highest reward + `modifier` · highlights, the first of equals."""
    return max(pool, key=lambda one: one.reward + modifier * len(one.found))


def critiques(
    engine: Engine,
    *,
    rank: Verify | None = None,
    n: int = 4,
    keep: int = 2,
    rounds: int = 4,
    sampling: Sampling = CRITIQUE,
    asked: str = ASKED,
) -> Callable[[Messages, Sequence[Step]], Awaitable[tuple[list[Critique], int, str]]]:
    """Force-sampled best-of-n, before the choice: the critiques that could be ranked, the tokens that they took, and
    what last went wrong.

    Each round forces a highlight open and samples `n` continuations of each of the `keep` best critiques so far (of the
    empty one at first): n · (keep · (rounds - 1) + 1) in all, the paper's 28. A forced critique always quotes;
    `rounds=0` is plain best-of-n, n critiques that may say that there is no error.

    `rank` judges critiques: a verify over the critic's conversation and the critique as its steps (a Bradley-Terry
    model of comparisons; its `parts["reward"]`, else its score); without it the critic's own mean probability does.
    `asked` is what the critic was trained to answer, where that is not `ASKED`.
    """
    if n < 1 or keep < 1 or rounds < 0:
        raise ValueError(f"n is {n}, keep {keep}, rounds {rounds}; n and keep are at least 1, rounds at least 0")
    if sampling.temperature == 0 and n > 1:
        raise ValueError(f"{n} critiques at temperature 0 are one critique {n} times; raise it, or give n=1")
    ranked = rank or confidence(engine=engine)

    async def search(messages: Messages, steps: Sequence[Step]) -> tuple[list[Critique], int, str]:
        prompt, cost, faults = critique_prompt(messages, steps, asked), 0, ["no critique"]

        async def candidate(start: str, number: int) -> Critique | None:
            nonlocal cost
            prefix = (Step(start, sampled=False),) if start else ()
            step = await engine.sample(prompt, prefix, nth(sampling, number))
            cost += drawn([step])
            if step.stop == "error":
                faults.append(step.text)
                return None
            verdict = await ranked(prompt, (*prefix, step))
            cost += verdict.cost
            reward = verdict.parts.get("reward", verdict.score)
            if reward is None:
                faults.append(verdict.note)
                return None
            text = start + step.text
            return Critique(text, highlights(text, steps), reward)

        pool: list[Critique] = []
        starts, count = [MARK if rounds else ""], 0
        for _ in range(max(rounds, 1)):
            told = await asyncio.gather(*(candidate(start, count + at) for at, start in enumerate(starts * n)))
            count += len(told)
            fresh = [one for one in told if one is not None]
            pool += fresh
            starts = [_opened(one.text) for one in sorted(fresh, key=lambda one: one.reward, reverse=True)[:keep]]
        return pool, cost, faults[-1]

    return search


def highlights(critique: str, steps: Sequence[Step]) -> tuple[Highlight, ...]:
    """The errors that a critique quotes from these steps; a quote that they do not hold, or that never closed, is
    none."""
    text = "".join(step.text for step in steps)
    ends = list(accumulate(len(step.text) for step in steps))
    found: list[Highlight] = []
    for quote in _QUOTED.finditer(critique):
        words = quote[1].split()
        place = re.search(r"\s+".join(map(re.escape, words)), text) if words else None
        if place is None:
            continue
        comment = critique[quote.end() :].partition(MARK)[0].strip()
        step = next(index for index, end in enumerate(ends) if place.start() < end)
        found.append(Highlight(quote[1].strip(), comment, step))
    return tuple(found)


def _opened(critique: str) -> str:
    """The critique with its next highlight forced open; a last paragraph that highlights nothing would close it."""
    paragraphs = critique.rstrip().split("\n\n")
    if len(paragraphs) > 1 and MARK not in paragraphs[-1]:
        paragraphs.pop()
    text = "\n\n".join(paragraphs)
    # An open mark is closed by the next: the critique goes on inside it.
    return text if text.count(MARK) % 2 else f"{text}\n\n{MARK}"
