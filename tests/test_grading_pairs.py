"""The pairs that graders are surprising about have the verdicts that docs/problems.md says they have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from forethought.problems import grade_answer

PAGE = Path(__file__).parent.parent / "docs" / "problems.md"
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| ([01]) \| (.*) \|$", re.MULTILINE)
PAIRS = ROW.findall(PAGE.read_text(encoding="utf-8"))


def test_the_table_is_read_whole() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("| gold | answer | score | why |\n|---|---|---|---|\n")[2]
    assert len(PAIRS) == len(table.partition("\n\n")[0].splitlines()) >= 40
    assert {row[2] for row in PAIRS} == {"0", "1"}


@pytest.mark.parametrize(("gold", "answer", "score", "why"), PAIRS)
def test_a_surprising_pair_has_its_verdict(gold: str, answer: str, score: str, why: str) -> None:
    text = answer if re.search(r"box|<answer>", answer) else f"\\boxed{{{answer}}}"
    verdict = grade_answer(gold, text)
    assert verdict.score == float(score), (why, verdict)
