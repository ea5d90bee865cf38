"""Coverage against samples: the law c = exp(a k^-b) of "Large Language Monkeys" (arXiv 2407.21787, section 3), and what
lies behind it, how the problems' own chances are spread (arXiv 2502.17578)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from forethought.scaling.measure import Values

ROUNDS, NARROWER = 22, 0.5
"""Refinements of a fit's grid, and how wide each is beside the one before: two parts in a million are left."""
PLACES = np.linspace(-1, 1, 13)
"""Along each axis of that grid."""
LOGS = (-7.0, 5.0)
"""Where both parameters of a fit are looked for, in natural logarithms."""


@dataclass(frozen=True, slots=True)
class Power:
    """Coverage c = exp(-a k^-b)."""

    a: float
    """Minus the log of coverage at one sample."""
    b: float

    def at(self, k: ArrayLike) -> Values:
        """Coverage at k samples."""
        coverage_K: Values = np.exp(-self.a * np.asarray(k, dtype=float) ** -self.b)
        return coverage_K


@dataclass(frozen=True, slots=True)
class Spread:
    """The chances p of single samples are Beta(alpha, beta) over problems: then -log c falls as k^-alpha for many."""

    alpha: float
    """The tail exponent: how many problems are nearly hopeless. Density of p near 0 goes as p^(alpha - 1)."""
    beta: float

    def at(self, k: ArrayLike) -> Values:
        """Coverage at k samples, 1 - E(1 - p)^k."""
        k_K = np.asarray(k, dtype=int)
        j = np.arange(int(k_K.max()))
        logs = np.cumsum(np.log(self.beta + j) - np.log(self.alpha + self.beta + j))
        coverage_K: Values = -np.expm1(logs[k_K - 1])
        return coverage_K


def power(k: ArrayLike, coverage: ArrayLike) -> Power:
    """The law of least squared error in c, over these k; a `ValueError` where there are fewer than two."""
    k_K, c_K = np.asarray(k, dtype=float), np.asarray(coverage, dtype=float)
    if len(k_K) < 2:
        raise ValueError(f"coverage is {c_K.tolist()} at k = {k_K.tolist()}; two parameters need at least two k")
    # G is the places of a fit's grid.
    return Power(*_lowest(lambda a_G1, b_G1: ((np.exp(-a_G1 * k_K**-b_G1) - c_K) ** 2).sum(axis=1)))


def spread(right: ArrayLike, n: int) -> Spread:
    """The likeliest Beta behind `right`, the number of right ones of n samples of each problem (beta-binomial).

    Raises:
        ValueError: a count above n, or no problem at all.
    """
    counts_P, j = np.asarray(right, dtype=int), np.arange(n)
    if not counts_P.size or not 0 <= counts_P.min() <= counts_P.max() <= n:
        raise ValueError(f"{counts_P.size} problems with counts up to {counts_P.max(initial=0)} of {n} samples each")
    # The likelihood is a product of alpha + j over j below each count, and so on: how many counts are above each j.
    hits_J, misses_J = ((each[:, None] > j).sum(axis=0) for each in (counts_P, n - counts_P))

    def unlikely(alpha_G1: Values, beta_G1: Values) -> Values:
        all_G = np.log(alpha_G1 + beta_G1 + j).sum(axis=1)
        unlikely_G: Values = len(counts_P) * all_G - np.log(alpha_G1 + j) @ hits_J - np.log(beta_G1 + j) @ misses_J
        return unlikely_G

    return Spread(*_lowest(unlikely))


def _lowest(cost: Callable[[Values, Values], Values]) -> tuple[float, float]:
    """The two positive numbers of least cost: a grid over their logarithms, ever narrower around its best place."""
    middle, half = np.full(2, sum(LOGS) / 2), (LOGS[1] - LOGS[0]) / 2
    steps_G2 = np.array(list(product(PLACES, PLACES)))
    for _ in range(ROUNDS):
        logs_G2 = middle + half * steps_G2
        middle = logs_G2[np.argmin(cost(*np.exp(logs_G2.T)[:, :, None]))]
        half *= NARROWER
    first, second = np.exp(middle).tolist()
    return first, second
