"""A thought with one move in a person's words, gone on with by a model from there."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from forethought.serve.errors import failed, wrong
from forethought.serve.models import Served
from forethought.serve.think import Ask, room_of
from forethought.serve.watch import Watched
from forethought.store.labels import moves
from forethought.thought.steps import split
from forethought.types import Sampling, Step, Trace, Verdict

EDITED = "edited"
"""The judge whose note says what a corrected thought was made of, by whom and when; it gives no score."""
CORRECTED = "corrected"
"""The run that corrected thoughts are kept in."""


def prefix(trace: Trace, start: int, decode: Any) -> tuple[Step, ...]:
    """The thought's first `start` characters as steps: with the tokens they were sampled as where `decode` gives their
    texts, as text alone where it does not, or where `start` lies within a token."""
    kept: list[Step] = []
    at = 0
    for step in trace.steps:
        for piece in _pieces(step, decode):
            if at + len(piece.text) <= start:
                kept.append(piece)
            elif at < start:
                kept.append(replace(piece, text=piece.text[: start - at], tokens=(), logprobs=(), stop="stop"))
            at += len(piece.text)
    return tuple(kept)


def _pieces(step: Step, decode: Any) -> tuple[Step, ...]:
    if not step.sampled:
        return (step,)
    if decode is not None and step.tokens and _decodes(step, decode):
        return split(step, decode)
    return split(replace(step, tokens=(), logprobs=()), str)


def _decodes(step: Step, decode: Any) -> bool:
    try:
        return str(decode(step.tokens)).startswith(step.text)
    except (IndexError, OverflowError, ValueError):  # ids that this vocabulary does not have
        return False


async def gone_on(trace: Trace, place: int, text: str, model: Served, watched: Watched, who: str, id_: str) -> Trace:
    """The thought up to the move that ends at `place`, that move in the words `text`, and what `model`, asked through
    `watched`, made of it. The new thought's note names `id_`, its parent, and `who` corrected it.

    Raises ApiError: there is no such move, the conversation is too long, or the engine failed.
    """
    asked = [move for move in moves(trace) if move.asked]
    number = next((number for number, move in enumerate(asked, 1) if move.end == place), 0)
    if not number:
        raise wrong("place", f"This thought has no move that ends at character {place}.")
    move = asked[number - 1]
    decode = getattr(model.engine, "decode", None)
    words = text if text.endswith("\n") or not move.text.endswith("\n") else text + "\n"
    before = (*prefix(trace, move.start, decode), Step(words, stop="stop", sampled=False))
    prompt = await model.prompt(model.asked(trace.messages))
    room = room_of(Ask(trace.messages, before="".join(step.text for step in before)), model, "", prompt)
    step = await watched.sample(trace.messages, before, Sampling(room.total))
    if step.stop == "error":
        raise failed()
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    note = f"{id_} corrected by {who} at {when}, move {number}"
    steps = (*before, *_pieces(step, decode))
    return Trace(
        trace.problem_id, trace.messages, steps, model.engine.name, verdicts={EDITED: Verdict(None, note=note)}
    )
