"""Proofs by z3: claims that each follow from what came before, until nothing is left to doubt.

A statement is SMT-LIB: what is given, and the negation of what is to be shown, asserted. A proof is a list of claims,
one a line, in SMT-LIB's terms. z3 has a short time for each: does it follow from the assertions and the claims before
it? And at the end, do they contradict each other? An empty proof leaves it all to z3; a hard statement needs the steps
between.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import time

from forethought.problems.proofs.checked import Checked
from forethought.problems.workers import Died, Late, Pool, Worker

MOST_CLAIMS = 200
LONGEST_CLAIM = 5_000
"""Characters."""
DEEPEST = 100
"""Nested brackets."""
GRACE = 2.0
"""Seconds beyond z3's own limits until its process is killed."""

_pool = Pool("forethought.problems.proofs.smt_worker")
_PLAIN = re.compile(r"[A-Za-z0-9_+\-*/=%?!.$~&^<>@#:() \t]*")


async def check(statement: str, proof: str, *, seconds: float = 2.0) -> Checked:
    """Does `proof` show that the assertions of `statement` contradict each other? `seconds` are z3's for each claim.

    `refuted` has a counterexample as its message; what z3 cannot decide in its time is `timeout`. Raises ValueError
    where z3 is not installed.
    """
    if importlib.util.find_spec("z3") is None:
        raise ValueError("proofs by z3 need z3-solver: pip install 'forethought[proofs]'")
    claims = [line.strip() for line in proof.splitlines() if line.strip()]
    if fault := next((fault for claim in claims if (fault := _fault(claim))), None) or _many(claims):
        return Checked("refuted", (fault,), checker="z3")
    return await asyncio.to_thread(_ask, statement, claims, seconds)


def _ask(statement: str, claims: list[str], seconds: float) -> Checked:
    request = {"statement": statement, "claims": claims, "milliseconds": round(1000 * seconds)}

    def work(worker: Worker) -> Checked:
        worker.say(request)
        try:
            told = json.loads(worker.word(time.monotonic() + seconds * (len(claims) + 1) + GRACE))
        except Late:
            worker.kill()
            return Checked("timeout", (f"z3 was killed after {seconds} s a claim",), checker="z3")
        except json.JSONDecodeError as error:
            raise Died from error
        messages = (told["message"],) if told["message"] else ()
        return Checked(told["status"], messages, checker="z3", version=told["version"])

    try:
        return _pool.use(work)
    except Died:
        return Checked("error", ("z3's process died twice",), checker="z3")


def _many(claims: list[str]) -> str | None:
    return f"{len(claims)} claims; at most {MOST_CLAIMS} are read" if len(claims) > MOST_CLAIMS else None


def _fault(claim: str) -> str | None:
    """Why a line is not one term: a term cannot close the assertion it stands in and begin a command."""
    if len(claim) > LONGEST_CLAIM:
        return f"a claim has {len(claim)} characters; at most {LONGEST_CLAIM} are read"
    if not _PLAIN.fullmatch(claim):
        return f"a claim is written in letters, digits and + - * / = < > ( ), and this is not: {claim[:80]!a}"
    depth = terms = 0
    inside = False
    for sign in claim:
        if depth == 0 and sign not in ") \t" and not inside:
            terms += 1
        if sign == "(":
            depth += 1
            if depth > DEEPEST:
                return f"a claim nests deeper than {DEEPEST}"
        elif sign == ")":
            depth -= 1
            if depth < 0:
                return f"a ) closes what was not opened: {claim[:80]}"
        inside = depth == 0 and sign not in "() \t"
    if depth or terms != 1:
        return f"a line is one term, its brackets closed, and this is not: {claim[:80]}"
    return None
