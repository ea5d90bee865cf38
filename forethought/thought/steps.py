"""Cut a sampled thought into moves, its tokens exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from forethought.thought.marks import STEP
from forethought.types import Step


def split(step: Step, decode: Callable[[Sequence[int]], str], mark: str = STEP) -> tuple[Step, ...]:
    """One sampled step as several, each ending where `mark` does; their tokens and texts joined are the step's own.

    `decode` gives the text of token ids as the engine wrote it into `step.text`. A token that holds the mark and more
    ends the move it began in. Only the last move keeps the step's `stop`; the ones before ended at the mark (`stop`).
    Without tokens the text alone is cut.
    """
    if not step.tokens:
        texts = [piece + mark for piece in step.text.split(mark)]
        texts[-1] = texts[-1].removesuffix(mark)
        pieces = [replace(step, text=text, stop="stop") for text in texts if text]
        return (*pieces[:-1], replace(pieces[-1], stop=step.stop)) if pieces else (step,)
    moves: list[Step] = []
    start, shown, due = 0, 0, False
    for end in range(1, len(step.tokens)):
        # No more tokens than the mark has characters can hold it: the whole move is decoded only where it ends.
        due = due or mark in decode(step.tokens[max(start, end - len(mark)) : end])
        if not due:
            continue
        text = decode(step.tokens[start:end])
        # A multi-byte character still open at a token's end decodes to U+FFFD and closes no move.
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            continue
        # Some tokenizers drop the blank before a sequence's first word: the step's own text is what counts.
        at = step.text.find(text, shown)
        if at < 0:
            continue
        moves.append(
            replace(
                step,
                text=step.text[shown : at + len(text)],
                tokens=step.tokens[start:end],
                logprobs=step.logprobs[start:end],
                stop="stop",
            )
        )
        start, shown, due = end, at + len(text), False
    moves.append(replace(step, text=step.text[shown:], tokens=step.tokens[start:], logprobs=step.logprobs[start:]))
    if len(moves) > 1 and not moves[-1].text:  # the end token alone is no move of its own
        tail, before = moves.pop(), moves.pop()
        tokens, logprobs = before.tokens + tail.tokens, before.logprobs + tail.logprobs
        moves.append(replace(before, tokens=tokens, logprobs=logprobs, stop=tail.stop))
    return tuple(moves)
