"""The marks around a thought, written and read."""

from __future__ import annotations

import re

OPEN = "<think>"
CLOSE = "</think>"
STEP = "\n"
"""Ends a move inside a thought."""
BOXED = "\\boxed{"
"""Opens the final answer."""
CALLS = {"python": ("<python>", "</python>"), "calculator": ("<calc>", "</calc>")}
"""By tool: what stands around the words that a thought hands to it."""
OUTPUT = ("<output>", "</output>")
"""Stand around what the tool gave back."""

_FENCED = re.compile(r"^```[a-zA-Z0-9]*[ \t]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)

INSTRUCTION = (
    "Think step by step between <think> and </think>, one step a line, then give the final answer in \\boxed{}."
)
"""Asks a model that was never trained by us for a thought in our form."""
OFFERS = {
    "python": "While thinking, write <python>a Python program</python> to have it run; what it prints follows between "
    "<output> and </output>. Each program starts anew.",
    "calculator": "While thinking, write <calc>an expression of numbers, + - * / // % ** and parentheses</calc> to "
    "have it computed; its value follows between <output> and </output>.",
}
"""By tool: tells such a model of it."""


_BRACES = re.compile(r"\\?boxed\{|\\[\\{}]|[{}]")


def compose(thought: str, answer: str) -> str:
    """The text of a whole worked example: the thought between its marks, then the boxed answer."""
    return f"{OPEN}\n{thought.strip()}\n{CLOSE}\n{BOXED}{answer}}}"


def direct(answer: str) -> str:
    """The text of an answer given without any thought."""
    return f"{BOXED}{answer}}}"


def thought_of(text: str) -> str:
    """What stands inside the think marks, ``""`` where there are none.

    A thought that never closed runs to the end of the text; one that was opened in the prompt begins with the text.
    """
    opened, closed = text.find(OPEN), text.find(CLOSE)
    if opened < 0 and closed < 0:
        return ""
    start = 0 if opened < 0 or 0 <= closed < opened else opened + len(OPEN)
    return text[start : _last_close(text)].strip()


def after_thought(text: str) -> str | None:
    """What a reader is shown: the text after the last `</think>`, or all of it where no thought was opened.

    `None` where a thought was opened and never closed: such a text has no answer, whatever it says inside.
    """
    if OPEN not in text and CLOSE not in text:
        return text
    close = _last_close(text)
    return None if close is None else text[close + len(CLOSE) :]


def blocks(text: str) -> list[str]:
    """Contents of every code block, in order; one that is never closed goes on to the end."""
    return _FENCED.findall(text)


def code_of(text: str) -> str | None:
    """The code that a text answers with: its last block after the thought, or all that stands there.

    `None` where a thought never closed.
    """
    shown = after_thought(text)
    if shown is None:
        return None
    found = blocks(shown)
    return found[-1] if found else shown.strip("\n")


def _last_close(text: str) -> int | None:
    """Where the last `</think>` begins; `None` where a thought is still open at the end of the text."""
    close = text.rfind(CLOSE)
    return None if text.rfind(OPEN) > close else close


def boxes(text: str) -> list[str]:
    """Contents of every `\\boxed{}` with balanced braces, in order; an unclosed box is not one.

    A box inside another is part of it. Escaped braces (`\\{`) are letters. One pass, whatever the text.
    """
    opened: list[tuple[int, bool]] = []
    closed: list[tuple[int, int]] = []
    for mark in _BRACES.finditer(text):
        if mark[0] == "}":
            start, is_box = opened.pop() if opened else (0, False)
            if is_box:
                closed.append((start, mark.start()))
        elif mark[0][-1] == "{" and mark[0] != "\\{":
            opened.append((mark.end(), mark[0] != "{"))
    found: list[str] = []
    reach = 0
    for start, end in sorted(closed):
        if start >= reach:
            found.append(text[start:end].strip())
            reach = end
    return found
