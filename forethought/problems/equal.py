"""Answers that are equal but not alike: math-verify, in worker processes that can be killed."""

from __future__ import annotations

import time
from functools import lru_cache, partial
from typing import Literal, get_args

from forethought.problems.workers import Died, Late, Pool, Worker

Outcome = Literal["equal", "different", "timed out", "gold unread", "failed"]

SECONDS = 3.0
"""Deadline of one comparison; a second more than the worker's own alarm."""

_pool = Pool("forethought.problems.worker")


def ask(gold: str, answer: str) -> Outcome:
    """Does math-verify hold `answer` equal to `gold`? Any thread may ask; most wait at most a few milliseconds.

    `timed out`: reading or comparing the answer took too long. `gold unread`: the gold cannot be parsed. `failed`: the
    worker died, or fell silent before it had read the gold, and a fresh one as well; this alone is not remembered.
    Raises `RuntimeError` where workers cannot be started at all.
    """
    try:
        return _ask(gold, answer)
    except Died:
        return "failed"


def close() -> None:
    """End the idle workers; the next question starts new ones."""
    _pool.close()


@lru_cache(maxsize=8192)
def _ask(gold: str, answer: str) -> Outcome:
    return _pool.use(partial(_compare, gold, answer))


def _compare(gold: str, answer: str, worker: Worker) -> Outcome:
    deadline = time.monotonic() + SECONDS
    worker.say({"gold": gold, "answer": answer})
    word = worker.word(deadline)
    if word == "read":
        try:
            word = worker.word(deadline)
        except Late:
            worker.kill()
            return "timed out"
    for outcome in get_args(Outcome):
        if word == outcome != "failed":
            return outcome  # type: ignore[no-any-return]  # get_args is untyped
    raise Died
