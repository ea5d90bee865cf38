"""Answers that no algebra system should be shown: what would hang it or fill its memory, told by sight."""

from __future__ import annotations

import re

LONGEST = 300
"""Characters."""
MOST_DIGITS = 60
"""In one run."""
DEEPEST = 30
"""Nested brackets."""
TALLEST = 2
"""Powers of powers, factorials of factorials."""
LARGEST_EXPONENT = 10_000
"""Written out in an exponent or before a factorial."""
MOST_ELEMENTS = 50
"""Of a set or list."""

_TOKEN = re.compile(r"\\[a-zA-Z]+|\*\*|[0-9.]+|\S")
_LITERAL = re.compile(r"(?:\^|\*\*)\s*[{(\s]*[-+]?\s*([0-9]+)|([0-9]+)\s*!")


def reason(text: str) -> str:
    """Why math-verify is not asked about this text; empty where it may be."""
    if len(text) > LONGEST:
        return f"longer than {LONGEST} characters"
    if not text.isascii():
        # Python takes other scripts' digits for digits, and sympy any letter for a name.
        return "not ASCII"
    if re.search(rf"[0-9]{{{MOST_DIGITS + 1}}}", text):
        return f"more than {MOST_DIGITS} digits in a row"
    if re.search(r"[0-9] [0-9]", text):
        return "digits with a space between them"
    nesting, tower = _depths(text)
    if nesting > DEEPEST:
        return f"brackets nested deeper than {DEEPEST}"
    if tower > TALLEST:
        return f"powers or factorials nested deeper than {TALLEST}"
    if any(int(power or factorial) > LARGEST_EXPONENT for power, factorial in _LITERAL.findall(text)):
        return f"an exponent or factorial above {LARGEST_EXPONENT}"
    if text.count(",") + text.count(";") >= MOST_ELEMENTS:
        return f"more than {MOST_ELEMENTS} elements"
    return ""


def _depths(text: str) -> tuple[int, int]:
    """How deep brackets nest, and how high powers and factorials stand on one another."""
    stack: list[tuple[int, int, int]] = []
    level = chain = 0  # exponents around here; exponents stacked on the atom just read (9^9^9)
    raised = False  # the next atom is an exponent
    factorials = inner = 0  # on the atom just read; most of any atom inside this bracket
    nesting = tower = 0
    for token in _TOKEN.findall(text):
        if token in ("^", "**"):
            chain, raised = chain + 1, True
            tower = max(tower, level + chain)
        elif token in ("{", "(", "["):
            stack.append((level, chain if raised else 0, inner))
            level += chain if raised else 0
            chain, raised, inner, factorials = 0, False, 0, 0
            nesting = max(nesting, len(stack))
        elif token in ("}", ")", "]"):
            factorials = inner
            if stack:
                level, chain, inner = stack.pop()
            inner = max(inner, factorials)
        elif token == "!":
            factorials += 1
            inner = max(inner, factorials)
            tower = max(tower, factorials)
        else:
            chain, raised, factorials = chain if raised else 0, False, 0
    return nesting, tower
