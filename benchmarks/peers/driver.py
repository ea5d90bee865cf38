"""What a contestant is told and how it answers: the standard library alone, since each has an environment of its own.

One process a contestant, started once. A line of JSON on standard input is a `Round`, a line of JSON on standard output
is the list of its answers' texts, in the order of the questions.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

MODEL = "tiny"
"""What the server calls its model."""
N = 8
"""Thoughts of best-of-n."""
WIDTH, BRANCH, ROUNDS = 4, 4, 12
"""Paths that a beam keeps, next steps of each, and most steps of a thought."""
MAX_TOKENS, STEP_TOKENS = 48, 24
"""Of a whole thought, and of one step."""
MARK = "\n"
"""Ends a step."""
ANSWER = "\\boxed{"
"""Stands in the last step and in no other."""
RATE = "Rate the above response:"
"""The words in which optillm asks its model for a rating."""


@dataclass(frozen=True)
class Round:
    """Questions to be answered by one search."""

    url: str
    """Of the server, without `/v1`."""
    search: str
    """best-of-n or beam."""
    at_once: int
    """Questions that are worked on at one time."""
    questions: list[str]


def compete(answer: Callable[[Round], list[str]]) -> None:
    """Answer rounds until standard input closes. What a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(answer(Round(**json.loads(line)))) + "\n")
        answers.flush()
