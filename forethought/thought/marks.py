"""The marks around a thought, written and read."""

from __future__ import annotations

OPEN = "<think>"
CLOSE = "</think>"
STEP = "\n"
"""Ends a move inside a thought."""
BOXED = "\\boxed{"
"""Opens the final answer."""

INSTRUCTION = (
    "Think step by step between <think> and </think>, one step a line, then give the final answer in \\boxed{}."
)
"""Asks a model that was never trained by us for a thought in our form."""


def compose(thought: str, answer: str) -> str:
    """The text of a whole worked example: the thought between its marks, then the boxed answer."""
    return f"{OPEN}\n{thought.strip()}\n{CLOSE}\n{BOXED}{answer}}}"


def direct(answer: str) -> str:
    """The text of an answer given without any thought."""
    return f"{BOXED}{answer}}}"


def thought_of(text: str) -> str:
    """What stands inside the think marks; everything after `<think>` where the thought never closed, else ``""``."""
    if OPEN not in text and CLOSE not in text:
        return ""
    _, _, tail = text.partition(OPEN) if OPEN in text else ("", "", text)
    return tail.rpartition(CLOSE)[0].strip() if CLOSE in tail else tail.strip()


def after_thought(text: str) -> str | None:
    """What a reader is shown: the text after the last `</think>`, or all of it where no thought was opened.

    `None` where a thought was opened and never closed: such a text has no answer, whatever it says inside.
    """
    if CLOSE in text:
        return text.rpartition(CLOSE)[2]
    return None if OPEN in text else text


def boxes(text: str) -> list[str]:
    """Contents of every `\\boxed{}` with balanced braces, in order; an unclosed box is not one."""
    found: list[str] = []
    start = 0
    while (at := text.find("boxed{", start)) >= 0:
        depth, end = 1, at + len("boxed{")
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth == 0:
            found.append(text[at + len("boxed{") : end - 1].strip())
            start = end
        else:
            start = at + len("boxed{")
    return found
