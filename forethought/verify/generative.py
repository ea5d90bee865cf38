"""Generative verifiers (GenRM, arXiv 2408.15240, section 3): the judge is a language model, its score the p(Yes) of its
next words, straight away or after critiques that it has written.

A trained verifier must be asked in the form that it learned: `direct_prompt`, `critique_prompt`, `VERIFICATION` and
the words are what it is trained on as well.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal, get_args

from forethought.thought.tokens import plain
from forethought.types import Engine, Messages, Sampling, Step, Verdict, user
from forethought.verify.verdict import Verify, drawn, judged, sigmoid, too_long
from forethought.verify.vote import answer_of

Read = Literal["logprobs", "words"]
"""How a judge's Yes or No is read: by the log-probabilities of both, or from what it wrote (servers that tell no
log-probability of given text; the score of one reply is then 0 or 1)."""

QUESTION = "Is the answer correct (Yes/No)?"
VERIFICATION = f"Verification: {QUESTION}"
"""Ends a critique; what follows is ` Yes` or ` No`."""
DIRECT_WORDS = ("Yes", "No")
CRITIQUE_WORDS = (" Yes", " No")
CRITIQUE = Sampling(max_tokens=512)

_YES_NO = re.compile(r"(?<![\w-])(yes|no)(?![\w-])", re.IGNORECASE)


def presented(messages: Messages, steps: Sequence[Step]) -> str:
    """A conversation and a thought as a judge is shown them; what is asked of them follows, so that judges that ask
    different things, or judge a longer thought, share what they have read."""
    return f"Problem:\n{plain(messages).strip()}\n\nSolution:\n" + "".join(step.text for step in steps)


def direct_prompt(messages: Messages, steps: Sequence[Step]) -> Messages:
    """Asks for Yes or No and nothing else."""
    return user(f"{presented(messages, steps)}\n\n{QUESTION}")


def critique_prompt(messages: Messages, steps: Sequence[Step]) -> Messages:
    """Asks for a critique that ends in `VERIFICATION` and the word."""
    return user(
        f"{presented(messages, steps)}\n\nLet's verify step by step. End with the line "
        f'"{VERIFICATION}" and the word Yes or No.'
    )


def direct(engine: Engine, *, read: Read = "logprobs", answer: Callable[[str], str | None] = answer_of) -> Verify:
    """`score` is the judge's p(Yes) to "Is the answer correct?", renormalised over Yes and No."""
    _check(read)

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        return await ask(engine, direct_prompt(messages, steps), read=read)

    return judged(judge, answer=answer)


def chain_of_thought(
    engine: Engine,
    *,
    k: int = 8,
    sampling: Sampling = CRITIQUE,
    read: Read = "logprobs",
    answer: Callable[[str], str | None] = answer_of,
) -> Verify:
    """`score` is the mean p(Yes) behind k critiques that the judge samples (section 3.3; the paper's k is 32).

    `parts` has the p(Yes) of each critique that could be read, `note` the critique with the lowest: what there is to
    object. A critique that failed, or whose word is unclear, is left out of the mean.
    """
    _check(read)
    if k < 1:
        raise ValueError(f"k is {k}; chain of thought needs at least 1 critique (`direct` judges without any)")
    if sampling.temperature == 0 and k > 1:
        raise ValueError(f"{k} critiques at temperature 0 are one critique {k} times; raise it, or give k=1")

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        prompt = critique_prompt(messages, steps)
        told = await asyncio.gather(*(_critique(engine, prompt, nth(sampling, index), read) for index in range(k)))
        scores = {f"critique {index}": one.score for index, one in enumerate(told, 1) if one.score is not None}
        cost = sum(one.cost for one in told)
        if not scores:
            return Verdict(None, note=f"none of {k} critiques could be read: {told[0].note}", cost=cost)
        doubt = min((one for one in told if one.score is not None), key=lambda one: one.score or 0.0)
        return Verdict(fmean(scores.values()), note=doubt.note, parts=scores, cost=cost)

    return judged(judge, answer=answer)


async def ask(
    engine: Engine,
    prompt: Messages,
    prefix: tuple[Step, ...] = (),
    *,
    read: Read = "logprobs",
    words: tuple[str, str] = DIRECT_WORDS,
) -> Verdict:
    """The judge's Yes or No as a score, `words` being how they go on from `prefix`; `cost` is what could be seen."""
    if read == "words":
        reply = await engine.sample(prompt, prefix, Sampling(max_tokens=16, temperature=0))
        said = None if reply.stop == "error" else yes_or_no(reply.text)
        note = f"the judge said {reply.text.strip()[:200]!r}"
        return Verdict(None if said is None else float(said), note=note, cost=drawn([reply]))
    yes, no = await asyncio.gather(*(engine.logprobs(prompt, (*prefix, Step(word))) for word in words))
    if not (yes and no and yes[-1] and no[-1]):
        return Verdict(None, note=f"the judge's tokens do not tell {words[0]!r} and {words[1]!r} apart from the text")
    cost = len(yes[-1]) + len(no[-1])
    return Verdict(sigmoid(sum(yes[-1]) - sum(no[-1])), cost=cost)


def yes_or_no(text: str) -> bool | None:
    """What a judge's reply says: the one of the words Yes and No that it holds; `None` where it has neither or both.

    After `QUESTION` only what follows the last one counts, down to the end of that line.
    """
    if QUESTION in text:
        text = text.rpartition(QUESTION)[2].strip().partition("\n")[0]
    found = {word.lower() for word in _YES_NO.findall(text)}
    return found == {"yes"} if len(found) == 1 else None


def nth(sampling: Sampling, index: int) -> Sampling:
    """Sampling of the judge's sample `index`: another seed for each, where there is one."""
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)


async def _critique(engine: Engine, prompt: Messages, sampling: Sampling, read: Read) -> Verdict:
    """One critique and what it comes to; the critique is the note."""
    if read == "words":
        critique = await engine.sample(prompt, (), sampling)
        said = None if critique.stop == "error" or QUESTION not in critique.text else yes_or_no(critique.text)
        return Verdict(None if said is None else float(said), note=critique.text.strip(), cost=drawn([critique]))
    critique = await engine.sample(prompt, (), replace(sampling, stop=(*sampling.stop, QUESTION)))
    cost = drawn([critique])
    if critique.stop == "error":
        return Verdict(None, note=critique.text, cost=cost)
    prefix = (critique,)
    if not critique.text.endswith(QUESTION):
        # It ended, or was cut, before the question: the question is ours, and an end token must not stand before it.
        prefix = (Step(f"{critique.text.rstrip()}\n{VERIFICATION}", sampled=False),)
    try:
        verdict = await ask(engine, prompt, prefix, words=CRITIQUE_WORDS)
    except ValueError as fault:  # a critique that went on to the context's end leaves no room for the question
        return Verdict(None, note=too_long(fault), cost=cost)
    note = critique.text.removesuffix(QUESTION).rstrip().removesuffix("Verification:").strip()
    return replace(verdict, note=note, cost=cost + verdict.cost)


def _check(read: str) -> None:
    if read not in get_args(Read):
        raise ValueError(f"read is {read!r}; a judge is read by {' or '.join(get_args(Read))}")
