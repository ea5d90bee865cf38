"""What a verifier is worth, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from forethought.scaling.verifiers import auc, calibration_error, judgement, location
from forethought.types import Step, Trace, Verdict


def trace(
    problem: str, reward: float | None, score: float | None, ours: tuple[float | None, ...] = (), labels: object = ()
) -> Trace:
    verdicts = {"grade": Verdict(reward), "orm": Verdict(score, ours), "true": Verdict(None, tuple(labels))}  # type: ignore[arg-type]
    return Trace(problem, (), (Step("x"),) * max(1, len(ours)), "m", verdicts=verdicts)


def test_auc_counts_comparisons_and_halves_ties() -> None:
    scores, right = [0.9, 0.2, 0.5, 0.5, 0.7, 0.1], [True, False, True, False, False, True]
    pairs = [(a, b) for a, ok in zip(scores, right, strict=True) if ok
             for b, no in zip(scores, right, strict=True) if not no]  # fmt: skip
    by_hand = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert auc(scores, right) == pytest.approx(by_hand)
    assert math.isnan(auc([0.5], [True]))


def test_calibration_error_by_hand() -> None:
    assert calibration_error([0.95, 0.95, 0.15, 1.0], [True, False, False, True]) == pytest.approx(
        (abs(0.95 + 0.95 + 1.0 - 2) + 0.15) / 4
    )
    assert calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)
    assert math.isnan(calibration_error([], []))


def test_judgement_leaves_out_what_was_not_judged_and_compares_within_problems() -> None:
    found = judgement(
        [
            trace("a", 1.0, 0.6), trace("a", 0.0, 0.7), trace("a", 0.0, 0.1),  # one of two comparisons right
            trace("b", 1.0, 0.3), trace("b", 0.0, 0.2),  # one of one
            trace("c", 1.0, 0.9), trace("c", None, 0.0), trace("c", 0.0, None),
        ],
        "orm",
    )  # fmt: skip
    assert found["thoughts"] == 6
    assert found["right"] == 0.5
    assert found["pair_accuracy"] == pytest.approx(2 / 3)
    assert found["auc"] == pytest.approx(7 / 9)
    assert found["accuracy"] == pytest.approx(4 / 6)


def test_the_first_error_must_be_met_exactly() -> None:
    found = location(
        [
            trace("a", 0.0, 0.0, (0.9, 0.4, 0.2), (1.0, 0.0, 0.0)),  # found
            trace("b", 0.0, 0.0, (0.9, 0.9, 0.2), (1.0, 0.0, 0.0)),  # a step late
            trace("c", 1.0, 0.0, (0.9, 0.8, None), (1.0, None, 1.0)),  # rightly nothing
            trace("d", 1.0, 0.0, (0.9, 0.8), ()),  # nobody labelled it
        ],
        "orm",
        "true",
    )
    assert found["first_error"] == 0.5
    assert found["no_error"] == 1.0
    assert found["f1"] == pytest.approx(2 / 3)
    # right steps: 0.9, 0.9, 0.9, wrong ones: 0.4, 0.2, 0.9, 0.2
    assert found["step_auc"] == pytest.approx((9 + 3 * 0.5) / 12)
