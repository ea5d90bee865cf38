"""What reaches the terminal: texts that a model, a server or a file wrote are hostile until they are cleaned."""

from __future__ import annotations

import difflib
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence

# Lengths are bounded so that a text full of openings is still read in one pass.
_SEQUENCE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]{0,64}[ -/]{0,16}[@-~]"  # colours, cursor, scrolling
    "|(?:\x1b[]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]{0,1024}(?:\x07|\x1b\\\\|\x9c)"  # titles, links, clipboard
)
_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Characters that turn the direction of what follows, so that a text reads as another."""


def clean(text: str) -> str:
    """The text without what would steer a terminal: escape sequences, control characters, turned directions.

    Newlines and tabs stay; half a surrogate pair becomes U+FFFD.
    """
    kept = []
    for character in _SEQUENCE.sub("", text):
        category = unicodedata.category(character)
        if category == "Cs":
            kept.append("\N{REPLACEMENT CHARACTER}")
        elif character in "\n\t" or (category != "Cc" and ord(character) not in _TURNING):
            kept.append(character)
    return "".join(kept)


def say(text: str) -> None:
    """One result, cleaned, to standard output."""
    print(clean(text), flush=True)


def tell(text: str) -> None:
    """One remark beside the result, cleaned, to standard error."""
    print(clean(text), file=sys.stderr, flush=True)


def rows(head: Sequence[str], lines: Iterable[Sequence[str]], right: str = "") -> str:
    """A table whose columns are as wide as their widest cell; those of which `right` has a `>` are flush right."""
    table = [[" ".join(clean(cell).split()) for cell in line] for line in (head, *lines)]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    sides = right.ljust(len(head), "<")
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in table
    )


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """There is no such `what`; the nearest known name, and all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"there is no {what} {name!r}; {meant}there is {', '.join(names)}")
