"""No verifier at all: how sure the policy was of what it sampled, from the log-probabilities that came with it.

DeepConf (arXiv 2508.15260, section 3) takes a token's confidence to be the mean log-probability of its 20 likeliest
candidates; engines tell the sampled token's alone, which stands in for it here. Higher is surer in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal, get_args

from forethought.types import Engine, Messages, Step, Verdict
from forethought.verify.verdict import Verify, judged
from forethought.verify.vote import answer_of

Measure = Literal["mean", "lowest", "bottom", "tail"]
"""Of the log-probabilities: their mean, the mean of the least sure group, that of the least sure tenth of all groups,
or of the last group. A group is `window` tokens one behind another."""


def confidence(
    measure: Measure = "mean",
    *,
    window: int = 2048,
    engine: Engine | None = None,
    answer: Callable[[str], str | None] = answer_of,
) -> Verify:
    """`score` is the exponential of the `measure`: a geometric mean of probabilities, in [0, 1]; `steps` have the
    mean of each step.

    Thoughts shorter than `window` (tokens; the paper's 2048 is for long ones, 8 to 16 fit a tiny model's) are one
    group. Only sampled tokens count. It costs nothing, save where the steps came without log-probabilities and an
    `engine` is given that can tell them; without one such a thought cannot be judged.
    """
    check(measure, window)

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        rows = [step.logprobs for step in steps]
        if any(step.sampled and step.text and not step.logprobs for step in steps):
            if engine is None:
                return Verdict(
                    None, note="the steps came without log-probabilities; give the engine that can tell them"
                )
            rows = list(await engine.logprobs(messages, steps))
        rows = [row if step.sampled else () for step, row in zip(steps, rows, strict=True)]
        told = [logprob for row in rows for logprob in row]
        if not told:
            return Verdict(None, note="no token of this thought was sampled")
        scores = tuple(math.exp(fmean(row)) if row else None for row in rows)
        return Verdict(math.exp(measured(told, measure, window)), scores)

    return judged(judge, answer=answer)


def check(measure: str, window: int) -> None:
    """Refuse a measure that is none, and a window without a token."""
    if measure not in get_args(Measure):
        raise ValueError(f"measure is {measure!r}; confidence knows {', '.join(get_args(Measure))}")
    if window < 1:
        raise ValueError(f"window is {window}; a group has at least 1 token")


def measured(tokens: Sequence[float], measure: Measure, window: int) -> float:
    """The measure of what a thought's tokens say (log-probabilities in nats, or a certainty), at least one."""
    if measure == "mean":
        return fmean(tokens)
    groups = _groups(tokens, min(window, len(tokens)))
    if measure == "tail":
        return groups[-1]
    return fmean(sorted(groups)[: 1 if measure == "lowest" else math.ceil(len(groups) / 10)])


def _groups(tokens: Sequence[float], window: int) -> list[float]:
    """The mean of each `window` neighbours, by a running sum."""
    total = math.fsum(tokens[:window])
    means = [total / window]
    for left, entered in zip(tokens, tokens[window:], strict=False):
        total += entered - left
        means.append(total / window)
    return means
