"""Verifiers that read a scalar head: outcome, process, Bradley-Terry, and a value head on the policy's own trunk.

All four are one linear map over hidden states that the engine has at hand: tokens that it has sampled, or read values
of before, are not computed again, so that a search that judges each step pays for each token once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakKeyDictionary

import torch

from forethought.engines.local import LocalEngine
from forethought.thought.marks import STEP
from forethought.thought.steps import split
from forethought.types import Messages, Step, Verdict
from forethought.verify.heads import Aggregate, Head, Kind
from forethought.verify.verdict import Verify, aggregated, judged, sigmoid
from forethought.verify.vote import answer_of

Answer = Callable[[str], str | None]

_HEADS: WeakKeyDictionary[LocalEngine, Head] = WeakKeyDictionary()
"""What each engine was given last: it has one head, and a second verifier would change the scores of the first."""


def outcome(engine: LocalEngine, head: Head, *, answer: Answer = answer_of) -> Verify:
    """Outcome reward model (arXiv 2110.14168, section 4): `score` is the probability that the answer is right, read
    at the last token of the last step.

    Attaches `head` to `engine`, for which the engine must be at rest. `ValueError` where the head is of another kind
    or width.
    """
    values = _values(engine, head, ("outcome",))

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        return Verdict(sigmoid((await values(messages, steps))[-1]))

    return judged(judge, answer=answer)


def bradley_terry(engine: LocalEngine, head: Head, *, reference: float = 0.0, answer: Answer = answer_of) -> Verify:
    """Reward model from pairs (arXiv 2203.02155, section 3.5): `parts["reward"]` is the reward r at the last token,
    `score` the probability sigmoid(r - reference) that the thought is preferred to one of the reward `reference`.

    Pairs leave a reward's zero open; training puts it at the mean reward by the head's bias, so that 0 is an average
    thought. The score keeps the rewards' order, whatever the reference.
    """
    values = _values(engine, head, ("bradley_terry",))

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        reward = (await values(messages, steps))[-1]
        return Verdict(sigmoid(reward - reference), parts={"reward": reward})

    return judged(judge, answer=answer)


def process(
    engine: LocalEngine, head: Head, *, aggregate: Aggregate | None = None, answer: Answer = answer_of
) -> Verify:
    """Process reward model (arXiv 2305.20050): it is read at the end of each line, as it was taught; `score` is the
    `aggregate` of what it says there (by default the head's own; `heads.AGGREGATES` has it by label), `steps` that of
    each step's own lines: a search by whole thoughts has one step of many lines, one by steps one line in each.

    Steps that nobody sampled (a tool's output, a forced "Wait") and empty ones are context: their score is `None`, and
    they do not count. Only what is new since the last verdict on the path is computed.
    """
    values, how = _values(engine, head, ("process", "value")), aggregate or head.aggregate

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        moves_S = [_moves(step, engine) for step in steps]
        logits = iter(await values(messages, [move for moves in moves_S for move in moves]))
        told_S = [[sigmoid(next(logits)) for move in moves if _holds(move)] for moves in moves_S]
        told_S = [told if step.sampled else [] for told, step in zip(told_S, steps, strict=True)]
        scores = tuple(aggregated(told, how) if told else None for told in told_S)
        if not any(told_S):
            return Verdict(None, scores, note="no step of this thought was sampled")
        return Verdict(aggregated([score for told in told_S for score in told], how), scores)

    return judged(judge, answer=answer)


def value(engine: LocalEngine, head: Head, *, answer: Answer = answer_of) -> Verify:
    """A value head on the policy's own trunk: `engine` is the one that samples, so that judging a step costs no more
    than its last token, which was drawn and not yet read.

    `steps` are the values at the ends of the steps, each a probability of success, `score` the last of them (or what
    the head's `aggregate` says).
    """
    if head.kind != "value":
        raise ValueError(f"the head's kind is {head.kind!r}; a value head has kind='value'")
    return process(engine, head, answer=answer)


def _moves(step: Step, engine: LocalEngine) -> tuple[Step, ...]:
    """A sampled step of several lines as one for each of them."""
    return split(step, engine.decode) if step.sampled and STEP in step.text.removesuffix(STEP) else (step,)


def _holds(step: Step) -> bool:
    return bool(step.tokens or step.text)


def _values(
    engine: LocalEngine, head: Head, kinds: tuple[Kind, ...]
) -> Callable[[Messages, Sequence[Step]], Awaitable[tuple[float, ...]]]:
    """Attach the head; returns what reads it at the end of every step that holds something."""
    if head.kind not in kinds:
        raise ValueError(f"the head's kind is {head.kind!r}; this verifier reads {' or '.join(kinds)}")
    engine.attach(torch.tensor(head.weight), head.bias)
    _HEADS[engine] = head

    async def values(messages: Messages, steps: Sequence[Step]) -> tuple[float, ...]:
        if _HEADS[engine] is not head:
            raise ValueError(
                f"another verifier has since put its {_HEADS[engine].kind} head on {engine.name}, and an engine has "
                "one head; give each verifier an engine of its own"
            )
        return await engine.values(messages, [step for step in steps if _holds(step)])

    return values
