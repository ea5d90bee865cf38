"""Cut a sampled thought into moves, its tokens exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from forethought.thought.marks import STEP
from forethought.types import Step


def split(step: Step, decode: Callable[[Sequence[int]], str], mark: str = STEP) -> tuple[Step, ...]:
    """One sampled step as several, each ending where `mark` does; their tokens joined are the step's own.

    A token that holds the mark and more ends the move it began in. Only the last move keeps the step's `stop`; the
    ones before ended at the mark (`stop`). Without tokens the text alone is cut.
    """
    if not step.tokens:
        texts = [piece + mark for piece in step.text.split(mark)]
        texts[-1] = texts[-1].removesuffix(mark)
        pieces = [replace(step, text=text, stop="stop") for text in texts if text]
        return (*pieces[:-1], replace(pieces[-1], stop=step.stop)) if pieces else (step,)
    moves: list[Step] = []
    start, shown = 0, 0
    for end in range(1, len(step.tokens) + 1):
        text = decode(step.tokens[start:end])
        last = end == len(step.tokens)
        # A multi-byte character still open at a token's end decodes to U+FFFD and closes no move.
        if not last and (mark not in text or text.endswith("\N{REPLACEMENT CHARACTER}")):
            continue
        text = step.text[shown:] if last else text
        moves.append(
            replace(
                step,
                text=text,
                tokens=step.tokens[start:end],
                logprobs=step.logprobs[start:end],
                stop=step.stop if last else "stop",
            )
        )
        start, shown = end, shown + len(text)
    if len(moves) > 1 and not moves[-1].text:  # the end token alone is no move of its own
        tail, before = moves.pop(), moves.pop()
        tokens, logprobs = before.tokens + tail.tokens, before.logprobs + tail.logprobs
        moves.append(replace(before, tokens=tokens, logprobs=logprobs, stop=tail.stop))
    return tuple(moves)
