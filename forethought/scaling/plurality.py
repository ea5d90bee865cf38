"""The chance that one answer wins a vote among k samples drawn without replacement from a pool."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray

DRAWS = 4_000
"""Votes held where the pool is too large to count them all: a standard error of at most 0.008 per problem."""
WORK = 4_000_000
"""Most complex products of an exact count (less than a second)."""


@lru_cache(maxsize=65_536)
def plurality(own: int, others: tuple[int, ...], blank: int, k: int) -> float:
    """Probability that an answer with `own` votes wins when k of the pool's samples vote.

    `others` are the votes of each other answer and `blank` the samples without one, which never vote. A tie of t
    answers is won with probability 1/t. Exact, by counting; where that would cost more than `WORK` products, the mean
    of `DRAWS` random votes, always the same ones.
    """
    pool = own + sum(others) + blank
    if not 1 <= k <= pool:
        raise ValueError(f"k is {k}; a vote needs at least 1 sample and at most the pool's {pool}")
    most = min(own, k)
    if most == 0:
        return 0.0
    nodes = min(len(others), k - 1) // 2 + 1
    if most * nodes * (pool - own + 1) * (len(set(others)) + 1) > WORK:
        return _drawn(own, others, blank, k)
    return _counted(own, others, blank, k, nodes)


def _counted(own: int, others: tuple[int, ...], blank: int, k: int, nodes: int) -> float:
    """Sum over m, the winner's votes, of the k-subsets in which every other answer has fewer, or ties.

    Independent binomial votes conditioned on their sum being k are a draw without replacement, whatever their rate, and
    stay in the range of floats. The other answers' votes multiply as polynomials, here at roots of unity (axis R);
    a tie is marked by y, and the integral of y^t over [0, 1] is the 1/(t+1) of a fair draw (axis Q, Gauss-Legendre,
    exact for so few ties). M is the axis of m.
    """
    pool = own + sum(others) + blank
    rate = (k + 0.5) / (pool + 1)
    size = pool - own + 1
    roots_R = np.exp(2j * np.pi * np.arange(size) / size)
    votes_M = np.arange(1, min(own, k) + 1)
    places, weights = np.polynomial.legendre.leggauss(nodes)
    ties_Q, weights_Q = (places + 1) / 2, weights / 2
    product_MQR: NDArray[np.complex128] = np.ones((len(votes_M), nodes, size), dtype=np.complex128)
    for count, times in Counter(others).items():
        # Rows beyond `count` hold zeros, so that m may exceed what this answer can get.
        terms = np.zeros((max(count, int(votes_M[-1])) + 1, size), dtype=np.complex128)
        terms[: count + 1] = _binomial(count, rate)[:, None] * roots_R ** np.arange(count + 1)[:, None]
        fewer_MR, equal_MR = np.cumsum(terms, axis=0)[votes_M - 1], terms[votes_M]
        product_MQR *= (fewer_MR[:, None, :] + ties_Q[:, None] * equal_MR[:, None, :]) ** times
    blank_R = (1 - rate + rate * roots_R) ** blank
    ways_MR = np.einsum("mqr,q->mr", product_MQR, weights_Q) * blank_R
    rest_M = k - votes_M
    ways_M = (ways_MR * roots_R ** -rest_M[:, None]).sum(axis=1).real / size
    ways_M = np.where(rest_M < size, ways_M, 0.0)
    chance = float(_binomial(own, rate)[votes_M] @ ways_M / _binomial(pool, rate)[k])
    return min(max(chance, 0.0), 1.0)


def _binomial(count: int, rate: float) -> NDArray[np.float64]:
    """Probabilities of 0 to `count` successes."""
    return np.array(
        [
            exp(lgamma(count + 1) - lgamma(j + 1) - lgamma(count - j + 1) + j * log(rate) + (count - j) * log(1 - rate))
            for j in range(count + 1)
        ]
    )


def _drawn(own: int, others: tuple[int, ...], blank: int, k: int) -> float:
    draws = np.random.default_rng(0).multivariate_hypergeometric([own, *others, blank], k, DRAWS)
    votes, mine = draws[:, :-1], draws[:, 0]
    winners = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1)
    return float(np.mean(np.where((mine == votes.max(axis=1)) & (mine > 0), 1 / winners, 0.0)))
