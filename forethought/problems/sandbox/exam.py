"""Examinations: does a program do what its tests want? Judged outside the jail that the program runs in.

Nothing that the program prints, returns, patches or exits with is taken for a verdict. Functions are called in one jail
and their values compared in another, which holds the tests and has never seen the program (`calls`); a program that
reads and writes text has its output compared here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forethought.problems.sandbox import calls
from forethought.problems.sandbox.run import PLAIN, Limits, Ran, Sandbox
from forethought.types import Verdict

ROUNDS = 32
"""Times that the tests may come back for more calls, where one call needs the answer of another."""
_PROGRAM = Path(calls.__file__).read_text(encoding="utf-8")

Credit = Literal["all", "share"]
"""`all`: 1 where every test passed, else 0. `share`: the share of tests that passed."""


@dataclass(frozen=True, slots=True)
class Tests:
    """A test suite as source: statements that run one after another, each with an assertion being one test."""

    __test__ = False  # no class of tests, whatever pytest makes of its name

    units: tuple[str, ...]
    remote: tuple[str, ...]
    """Names that mean the program's; the first of them is also called `candidate`."""
    setup: str = ""
    """Runs before the first."""

    def __post_init__(self) -> None:
        if not self.units or not self.remote:
            raise ValueError("tests need at least one statement, and the name of at least one function of the program")


@dataclass(frozen=True, slots=True)
class Case:
    """What a program is given on standard input, and what it must print."""

    stdin: str
    stdout: str


def examine(program: str, tests: Tests, sandbox: Sandbox, *, limits: Limits = PLAIN, credit: Credit = "all") -> Verdict:
    """Call the program's functions as the tests want, and compare what comes back.

    `parts` has a score for each test that asks something of the program (`test 1`, ...; `assert True` is none); the
    note says what went wrong first. `score` is `None` where a worker died twice, and where the tests themselves cannot
    be run.
    """
    answers: dict[str, str] = {}
    asking: set[int] = set()
    for _ in range(ROUNDS):
        ran = _tests_ran(tests, answers, sandbox, limits) if answers else _first_calls(tests, sandbox, limits)
        if ran.status == "lost":
            return Verdict(score=None, note=ran.note)
        if ran.status != "ended" or ran.code != 0:
            if not answers:
                return Verdict(score=None, note=f"the tests do not run: {ran.complaint}")
            return _verdict([(False, f"the tests broke on its answers: {ran.complaint}")] * len(asking), credit)
        report = json.loads(ran.out)
        asking |= {index for index, (_, _, asked) in enumerate(report["results"]) if asked}
        if not report["calls"]:
            results = [report["results"][index] for index in sorted(asking)]
            return _verdict([(state == "passed", note) for state, note, _ in results], credit)
        keys, wanted = zip(*report["calls"], strict=True)
        request = {"program": program, "calls": wanted, "seconds": max(limits.seconds / 2, 0.1)}
        ran = sandbox.run(_PROGRAM, json.dumps(request).encode(), limits)
        if ran.status == "lost":
            return Verdict(score=None, note=ran.note)
        answers |= dict(zip(keys, _answers(ran, len(keys)), strict=True))
    return _verdict([(False, f"undecided after {ROUNDS} rounds of calls")] * len(asking), credit)


def examine_text(
    program: str, cases: Sequence[Case], sandbox: Sandbox, *, limits: Limits = PLAIN, credit: Credit = "all"
) -> Verdict:
    """Run the program once for each case and compare what it printed, trailing spaces and empty last lines aside."""
    results = []
    for case in cases:
        ran = sandbox.run(program, case.stdin.encode(errors="replace"), limits)
        if ran.status == "lost":
            return Verdict(score=None, note=ran.note)
        printed = ran.out.decode(errors="replace")
        right = ran.status == "ended" and ran.code == 0 and _lines(printed) == _lines(case.stdout)
        results.append((right, ran.complaint or f"printed {printed[:200]!r}"))
    return _verdict(results, credit)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _verdict(results: Sequence[tuple[bool, str]], credit: Credit) -> Verdict:
    if not results:
        return Verdict(score=None, note="the tests ask nothing of the program")
    passed = sum(right for right, _ in results)
    score = passed / len(results) if credit == "share" else float(passed == len(results))
    parts = {f"test {number}": float(right) for number, (right, _) in enumerate(results, 1)}
    wrong = next(((number, note) for number, (right, note) in enumerate(results, 1) if not right), None)
    note = f"{passed} of {len(results)} tests passed" + (f"; test {wrong[0]}: {wrong[1]}" if wrong else "")
    return Verdict(score=score, note=note, parts=parts)


def _request(tests: Tests, answers: dict[str, str]) -> bytes:
    request = {"setup": tests.setup, "units": tests.units, "remote": tests.remote, "answers": answers}
    return json.dumps(request).encode()


def _tests_ran(tests: Tests, answers: dict[str, str], sandbox: Sandbox, limits: Limits) -> Ran:
    # What they say of themselves is no more than they asked for.
    room = Limits(limits.seconds, limits.memory, limits.processes, limits.disk, max(limits.output, 16 * 1024**2))
    return sandbox.run(_PROGRAM, _request(tests, answers), room)


@functools.lru_cache(maxsize=1024)
def _remembered(tests: Tests, sandbox: Sandbox, limits: Limits) -> Ran:
    ran = _tests_ran(tests, {}, sandbox, limits)
    if ran.status != "ended":
        raise _Unsettled(ran)
    return ran


class _Unsettled(Exception):  # noqa: N818 - carries a run past the cache
    pass


def _first_calls(tests: Tests, sandbox: Sandbox, limits: Limits) -> Ran:
    """The calls that the tests make before they know any answer: the same for every program."""
    try:
        return _remembered(tests, sandbox, limits)
    except _Unsettled as unsettled:
        ran: Any = unsettled.args[0]
        assert isinstance(ran, Ran)
        return ran


def _answers(ran: Ran, count: int) -> list[str]:
    """What the program said to each call, as text that only the tests' jail reads; what is missing, as why."""
    said: dict[bytes, bytes] = {}
    for line in ran.out.split(b"\n")[:-1]:
        name, _, reply = line.partition(b" ")
        said.setdefault(name, reply)
    missing = said.get(b"program", json.dumps(["raise", "Ended", ran.complaint or "it gave no answer", 0]).encode())
    return [said.get(str(number).encode(), missing).decode(errors="replace") for number in range(count)]
