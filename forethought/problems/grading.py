"""From a thought's text to a verdict: which answer counts, and whether it is the gold one.

The policy, pair by pair, stands in docs/problems.md and as a table in tests/test_grading.py. A training reward has to
be hard to fool before it is generous, so nothing is guessed: no last number of the text, no answer of a thought that
never closed, no answer where two boxes differ.
"""

from __future__ import annotations

import re
from typing import Literal

from forethought.problems import equal, hostile
from forethought.problems.normal import NOT_FINITE, Reading, is_words, read
from forethought.thought.marks import after_thought, boxes
from forethought.types import Problem, Trace, Verdict

Percent = Literal["strict", "unit"]
"""`strict`: 8 is not 8%. `unit`: a percent sign may be left out like any unit (8% is 8, never 0.08)."""

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_UNDONE = re.compile(r"(?<=[0-9}) ])[-+*!]|\\(?:times|cdot|div|sum|prod|int|binom)(?![a-zA-Z])")
_SCIENTIFIC = re.compile(r"[-+]?[0-9.]+ ?(?:\\times|\\cdot|\*) ?10 ?\^ ?\{? ?[-+]?[0-9]+ ?\}?")


def final_answer(text: str, *, mark: str | None = None) -> tuple[str | None, str]:
    """The answer a text commits to, as written, and where it stands; `None` and why, where there is none.

    After the thought: the last balanced `\\boxed{}` (several must agree), else the rest of the line after the last
    `mark` (GSM8K's `####`), else the last `<answer></answer>`.
    """
    shown = after_thought(text)
    if shown is None:
        return None, "the thought never closed"
    if found := boxes(shown):
        if len({read(box).canonical for box in found}) > 1:
            return None, f"{len(found)} boxes that differ"
        return found[-1], "boxed"
    if mark is not None and mark in shown:
        line = shown.rpartition(mark)[2].strip().partition("\n")[0].strip()
        return (line, "marked") if line else (None, f"nothing after {mark}")
    if tagged := _TAGGED.findall(shown):
        return tagged[-1].strip(), "tagged"
    return None, "no answer"


def grade_answer(
    gold: str, text: str, *, mark: str | None = None, symbolic: bool = True, percent: Percent = "strict"
) -> Verdict:
    """Is the answer that `text` commits to the gold one?

    `symbolic=False` never asks math-verify: the answer must be the gold text or number itself, as tasks want where
    working the number out is the task. `score` is `None` where the gold cannot be read, or where the checker itself
    failed twice; the note says which way the verdict was reached.
    """
    wanted = read(gold)
    if not wanted.key or wanted.key.lower() in NOT_FINITE:
        return Verdict(score=None, note=f"the gold answer {gold!r} cannot be read")
    answer, note = final_answer(text, mark=mark)
    if answer is None:
        return Verdict(score=0.0, note=note)
    given = read(answer)
    if not given.key:
        return Verdict(score=0.0, note="an empty answer")
    score, note = _compare(wanted, given, symbolic, percent)
    if percent == "unit" and given.percent:
        return Verdict(score=score, answer=given.canonical.removesuffix("%"), note=note)
    return Verdict(score=score, answer=given.canonical, note=note)


def grade(
    problem: Problem, trace: Trace, *, mark: str | None = None, symbolic: bool = True, percent: Percent = "strict"
) -> Verdict:
    """`grade_answer` of a trace; one that an engine's fault ended is not judged."""
    return unjudged(trace) or grade_answer(problem.answer, trace.text, mark=mark, symbolic=symbolic, percent=percent)


def unjudged(trace: Trace) -> Verdict | None:
    """The verdict of a trace that ended in an engine's fault; `None` where there is something to judge."""
    if trace.stop != "error":
        return None
    fault = trace.steps[-1].text[:200] if trace.steps else "it gave no step"
    return Verdict(score=None, note=f"the engine failed: {fault}")


def _compare(gold: Reading, given: Reading, symbolic: bool, percent: Percent) -> tuple[float | None, str]:
    if gold.percent != given.percent and percent == "strict":
        return 0.0, "one is a percentage"
    if gold.unit and given.unit and gold.unit != given.unit:
        return 0.0, f"the units differ: {given.unit} for {gold.unit}"
    if gold.base != given.base and given.base:
        return 0.0, "the bases differ"
    if gold.key == given.key:
        return 1.0, "exact"
    if gold.number is not None and given.number is not None:
        whole = gold.number.denominator == given.number.denominator == 1
        return float(gold.number == given.number), "integer" if whole else "fraction"
    if not symbolic or gold.base or is_words(gold.text):
        return 0.0, "exact"
    if reason := hostile.reason(gold.text):
        return None, f"the gold answer cannot be checked: {reason}"
    if given.key.lower() in NOT_FINITE:
        return 0.0, "refused: not finite"
    if reason := hostile.reason(given.text):
        return 0.0, f"refused: {reason}"
    if gold.number is not None and _UNDONE.search(given.text) and not _SCIENTIFIC.fullmatch(given.text):
        return 0.0, "refused: the arithmetic is left undone"
    return _checked(gold.text, given.text)


def _checked(gold: str, answer: str) -> tuple[float | None, str]:
    match equal.ask(gold, answer):
        case "equal":
            return 1.0, "math-verify"
        case "different":
            return 0.0, "math-verify"
        case "timed out":
            return 0.0, "math-verify: timed out"
        case "gold unread":
            return None, "the gold answer cannot be read by math-verify"
        case "failed":
            return None, "math-verify's worker failed twice"
