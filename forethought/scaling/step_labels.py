"""What Monte-Carlo labels of steps are worth where the truth is known, and how a price grows with a chain's length.

Of the continuations drawn from a place a label sees n, in all choices of n at once: `hard` and `soft` are exact chances
over them, `independent` the closed form for n fresh ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from forethought.scaling.measure import Values


@dataclass(frozen=True, slots=True)
class Place:
    """One beginning of a thought, and what came of going on from it."""

    sound: bool
    """Has it no error so far?"""
    right: int
    """How many of the continuations were right."""
    drawn: int
    """How many there were."""

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.drawn or not self.drawn:
            raise ValueError(
                f"a place has {self.right} right of {self.drawn} continuations; draw at least 1, count all"
            )


Rule = Callable[[Place, int], float]
"""The chance that a label from n continuations calls the place right."""


def hard(place: Place, n: int) -> float:
    """Any of n continuations is right (Math-Shepherd, arXiv 2312.08935, equation 3): `1 - C(K-c, n) / C(K, n)`."""
    _check(place, n)
    return 1 - comb(place.drawn - place.right, n) / comb(place.drawn, n)


def soft(place: Place, n: int) -> float:
    """More than half of n continuations are right (equation 4, cut at one half); exactly half counts as a half."""
    _check(place, n)
    right, wrong = place.right, place.drawn - place.right
    ways = [comb(right, hits) * comb(wrong, n - hits) for hits in range(n + 1)]
    above = sum(ways[n // 2 + 1 :]) + (0.5 * ways[n // 2] if n % 2 == 0 else 0.0)
    return above / comb(place.drawn, n)


def independent(place: Place, n: int) -> float:
    """`1 - (1 - p)^n`, p being the share of all continuations that are right: the closed form of a hard label's true
    positives at a sound place, of its false positives elsewhere."""
    return float(1 - (1 - place.right / place.drawn) ** n)


def label_errors(places_P: Sequence[Sequence[Place]], called: Rule, n: int) -> tuple[Values, Values, Values]:
    """What labels from n continuations get wrong, a value for each of P problems.

    Returns:
        False negatives (share of sound places that are called wrong), false positives (share of the others that are
        called right) and accuracy over all; not-a-number where a problem has no such place.

    Raises:
        ValueError: n is below 1, or above what was drawn at a place.
    """
    rows = [
        (
            _mean([1 - called(place, n) for place in places if place.sound]),
            _mean([called(place, n) for place in places if not place.sound]),
            _mean([called(place, n) if place.sound else 1 - called(place, n) for place in places]),
        )
        for places in places_P
    ]
    missed, passed, accuracy = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return missed, passed, accuracy


def soft_error(place: Place, n: int) -> float:
    """Expected squared distance of the soft label of n continuations from the truth (1 sound, 0 not)."""
    _check(place, n)
    share, rest = place.right / place.drawn, max(place.drawn - 1, 1)
    spread = share * (1 - share) / n * (place.drawn - n) / rest
    return spread + (share - place.sound) ** 2


def straight(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Least squares `y = a + b x`: a, b and R squared.

    Raises:
        ValueError: fewer than three points, through which any line goes.
    """
    if len(x) < 3 or len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} numbers make no fit; give three points or more, x and y of each")
    b, a = np.polyfit(x, y, 1)
    rest = np.square(np.asarray(y) - a - b * np.asarray(x)).sum()
    whole = np.square(np.asarray(y) - np.mean(y)).sum()
    return float(a), float(b), float(1 - rest / whole) if whole else 1.0


def _check(place: Place, n: int) -> None:
    if not 1 <= n <= place.drawn:
        raise ValueError(f"a label from {n} continuations cannot be had from {place.drawn}; n is 1 to as many")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
