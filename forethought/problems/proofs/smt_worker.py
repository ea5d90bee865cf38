"""The process that asks z3; `smt` starts it, feeds it, and kills it.

One JSON line in, `{"statement": ..., "claims": [...], "milliseconds": ...}`; one out, with status, message and version.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

MEMORY = 2 * 1024**3
"""Bytes of address space."""


def main() -> None:
    """Answer until standard input closes."""
    words = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # whatever the library prints must not be taken for a word
    import z3

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def say(word: str) -> None:
        print(word, file=words, flush=True)

    say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            told = _check(z3, request["statement"], request["claims"], request["milliseconds"])
        except z3.Z3Exception as error:
            told = ("error", _clean(error))
        except MemoryError:
            told = ("timeout", f"z3 took more than {MEMORY} bytes")
        say(json.dumps({"status": told[0], "message": told[1], "version": z3.get_version_string()}))


def _check(z3: Any, statement: str, claims: list[str], milliseconds: int) -> tuple[str, str]:
    known = list(z3.parse_smt2_string(statement))
    if not known:
        return "error", "the statement asserts nothing"
    for number, claim in enumerate([*claims, "false"], 1):
        name = f"claim {number}" if number <= len(claims) else "the end"
        try:
            *_, formula = z3.parse_smt2_string(f"{statement}\n(assert {claim})")
        except z3.Z3Exception as error:
            return "refuted", f"{name} cannot be read: {_clean(error)}"
        solver = z3.Solver()
        solver.set("timeout", milliseconds)
        solver.add(*known, z3.Not(formula))
        found = solver.check()
        if found == z3.sat:
            where = ", ".join(f"{symbol} = {solver.model()[symbol]}" for symbol in solver.model().decls())
            lacks = f"{name} does not follow" if name != "the end" else "what is asserted does not contradict itself"
            return "refuted", f"{lacks}: {where[:500]}"
        if found != z3.unsat:
            return "timeout", f"{name}: z3 gave up after {milliseconds} ms ({solver.reason_unknown()})"
        known.append(formula)
    return "proved", ""


def _clean(error: Exception) -> str:
    value = error.args[0] if error.args else ""
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()[:500]


if __name__ == "__main__":
    main()
