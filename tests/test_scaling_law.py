"""The coverage law and the spread behind it give back what they were made from."""

from __future__ import annotations

import numpy as np
import pytest

from forethought.scaling.law import Power, Spread, power, spread

KS = np.array([1, 2, 5, 10, 20, 50, 100])


def test_the_law_is_found_again_from_its_own_curve() -> None:
    curve = Power(2.14, 0.28).at(KS)
    assert curve[0] == pytest.approx(np.exp(-2.14))
    found = power(KS, curve)
    assert (found.a, found.b) == pytest.approx((2.14, 0.28), rel=1e-4)


def test_what_is_always_solved_stays_solved() -> None:
    assert power(KS, np.ones(7)).at(np.array([1, 1000])) == pytest.approx([1, 1], abs=2e-3)


def test_what_is_never_solved_stays_unsolved() -> None:
    assert power(KS, np.zeros(7)).at([1, 100]) == pytest.approx([0, 0], abs=1e-6)


def test_coverage_of_a_spread_is_the_mean_over_its_problems() -> None:
    # Beta(1, 1) is uniform: E(1 - p)^k = 1 / (k + 1)
    assert Spread(1, 1).at(KS) == pytest.approx(1 - 1 / (KS + 1))
    chances = np.random.default_rng(0).beta(0.3, 2.0, 200_000)
    assert Spread(0.3, 2.0).at(np.array([30])) == pytest.approx([np.mean(1 - (1 - chances) ** 30)], abs=0.003)


def test_the_spread_is_found_again_from_counts() -> None:
    rng = np.random.default_rng(1)
    counts = rng.binomial(100, rng.beta(0.3, 2.0, 4000))
    found = spread(counts.tolist(), 100)
    assert found.alpha == pytest.approx(0.3, abs=0.02)
    assert found.beta == pytest.approx(2.0, abs=0.2)


def test_the_tail_exponent_is_the_slope_of_the_log_of_what_is_missing() -> None:
    missing = 1 - Spread(0.3, 2.0).at(np.array([100_000, 200_000]))
    assert np.log(missing[1] / missing[0]) / np.log(2) == pytest.approx(-0.3, abs=0.001)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="two k"):
        power([1], [0.5])
    with pytest.raises(ValueError, match="counts up to 5 of 4"):
        spread([1, 5], 4)
    with pytest.raises(ValueError, match="0 problems"):
        spread([], 4)
