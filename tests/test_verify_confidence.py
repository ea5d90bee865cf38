"""Confidence: the measures by hand, and what cannot be measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
from judges import Judge, ask

from forethought.engines.scripted import LOGPROB
from forethought.types import Step
from forethought.verify.confidence import Measure, confidence, measured

ROW = (-0.1, -0.2, -3.0, -1.0, -0.4, -0.3)
STEPS = (
    Step("abc", logprobs=ROW[:3]),
    Step("Wait", logprobs=(-9.0,), sampled=False),
    Step("\\boxed{1}", logprobs=ROW[3:]),
)


@pytest.mark.parametrize(
    ("measure", "window", "expected"),
    [
        ("mean", 2, sum(ROW) / 6),
        ("lowest", 2, -2.0),
        ("lowest", 1, -3.0),
        ("lowest", 6, sum(ROW) / 6),
        ("lowest", 2048, sum(ROW) / 6),
        ("tail", 2, -0.35),
        ("tail", 1, -0.3),
        ("bottom", 2, -2.0),
    ],
)
def test_measures_by_hand(measure: Measure, window: int, expected: float) -> None:
    (verdict,) = ask(confidence(measure, window=window), STEPS)
    assert verdict.score == pytest.approx(math.exp(expected))
    assert verdict.steps == pytest.approx((math.exp(-1.1), None, math.exp(-1.7 / 3)))
    assert (verdict.answer, verdict.cost) == ("1", 0)


def test_the_bottom_is_a_tenth_of_the_groups() -> None:
    row = [-float(number) for number in range(20)]
    assert measured(row, "bottom", 1) == -18.5
    assert measured(row, "bottom", 2) == pytest.approx((-18.5 - 17.5) / 2)
    assert measured(row, "lowest", 2) == pytest.approx(-18.5)


def test_windows_slide_without_losing_precision() -> None:
    row = [-1.0] * 5000 + [-2.0] * 10
    assert measured(row, "lowest", 10) == pytest.approx(-2.0, abs=1e-9)


def test_log_probabilities_that_did_not_come_are_asked_for_or_missing() -> None:
    bare = (Step("abc"), Step("de"))
    (missing,) = ask(confidence(), bare)
    assert missing.score is None
    assert "without log-probabilities" in missing.note
    judge = Scored()
    (told,) = ask(confidence(engine=judge), bare)
    assert told.score == pytest.approx(math.exp(LOGPROB))
    assert told.cost == len("abcde")
    (free,) = ask(confidence(engine=judge), STEPS)
    assert (free.cost, judge.asked_for) == (0, 1)


class Scored(Judge):
    asked_for = 0

    async def logprobs(self, messages: Any, steps: Any) -> tuple[tuple[float, ...], ...]:
        from forethought.engines.usage import Bill, Usage

        self.asked_for += 1
        Bill.open(Usage()).book(Usage(scored=sum(len(step.text) for step in steps)))
        return tuple((LOGPROB,) * len(step.text) for step in steps)


def test_a_thought_that_nobody_sampled_or_with_no_numbers_has_no_score() -> None:
    (forced,) = ask(confidence(), (Step("Wait", logprobs=(-1.0,), sampled=False),))
    assert (forced.score, forced.note) == (None, "no token of this thought was sampled")
    (broken,) = ask(confidence(), (Step("a", logprobs=(math.nan,)),))
    assert (broken.score, broken.steps) == (None, (None,))


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="measure is 'median'; confidence knows mean, lowest, bottom, tail"):
        confidence("median")  # type: ignore[arg-type]  # the point
    with pytest.raises(ValueError, match="window is 0"):
        confidence(window=0)
