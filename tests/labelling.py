"""Thoughts that the tests of the page Label go through, and who goes on from them."""

from __future__ import annotations

from forethought.store.labels import moves
from forethought.types import Messages, Sampling, Step, Trace, user

HOSTILE = "<script>document.title='owned'</script><img src=https://evil.example/x>"
LINES = ["48 in April.", "48 / 2 = 26 in May.", HOSTILE, "48 + 26 = 74."]
TEXT = "<think>\n" + "\n".join(LINES) + "\n</think>\n\\boxed{74}"
CONTINUED = "So 72.\n</think>\n\\boxed{72}"
RUN = "drawn"


def thought(number: int, text: str = TEXT) -> Trace:
    tokens = tuple(map(ord, text))
    return Trace(f"clips/{number}", user(f"{number}: how many?"), (Step(text, tokens),), "tiny@1")


def ends(trace: Trace) -> list[int]:
    return [move.end for move in moves(trace) if move.asked]


def going_on(messages: Messages, steps: tuple[Step, ...], sampling: Sampling, call: int) -> str:
    return CONTINUED
