"""The process that asks math-verify whether two answers are equal; `equal` starts it, feeds it, and kills it.

One JSON line in, `{"gold": ..., "answer": ...}`; two words out, a line each: `read` or `gold unread`, and after `read`
one of `equal`, `different`, `timed out`. The first word tells the parent whose fault a hang is.

Only LaTeX is parsed (by a grammar). math-verify's reader of plain expressions ends in `eval`: it is never used.
"""

from __future__ import annotations

import json
import os
import resource
import sys

MEMORY = 2 * 1024**3
"""Bytes of address space."""
SECONDS = 2
"""math-verify's own alarm, for each of reading and comparing."""
DECIMALS = 12
"""A decimal must agree with an irrational gold to this many places: 1.41421356 is not the root of 2."""


def main() -> None:
    """Answer until standard input closes."""
    words = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # whatever a library prints must not be taken for a word
    from math_verify import LatexExtractionConfig, parse, verify
    from math_verify.errors import TimeoutException

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    config = [LatexExtractionConfig(boxed_match_priority=-1)]

    def say(word: str) -> None:
        print(word, file=words, flush=True)

    def read(text: str) -> object:
        found = parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=SECONDS, raise_on_error=True)
        return found[0] if found else None

    say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            gold = read(request["gold"])
        except (Exception, TimeoutException):  # noqa: BLE001 - the sandbox's wall: a parser may raise anything
            gold = None
        if gold is None:
            say("gold unread")
            continue
        say("read")
        try:
            answer = read(request["answer"])
            same = answer is not None and verify(
                gold, answer, float_rounding=DECIMALS, timeout_seconds=SECONDS, raise_on_error=True
            )
            say("equal" if same else "different")
        except TimeoutException:
            say("timed out")
        except Exception:  # noqa: BLE001 - the sandbox's wall: what cannot be compared is not equal
            say("different")


if __name__ == "__main__":
    main()
