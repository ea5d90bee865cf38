"""Which search was best for problems that look alike, at each budget: fitted, and tried on problems held out
(compute-optimal test-time scaling by two-fold cross-validation, arXiv 2408.03314, section 3.2).

Difficulty is estimated from the first thoughts alone, and their cost is part of every number here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forethought.scaling.bank import Drawn, orders, prices
from forethought.scaling.measure import Estimate, Values, estimate
from forethought.scaling.strategies import ORDERS, Cell, mean, replays, smallest
from forethought.scaling.words import percent, points, short
from forethought.search.allocate import Allocation, Choice, Measure, ease
from forethought.search.size import PARALLEL

Units = NDArray[np.bool_]
"""Which of P problems in R orders."""
GAIN = 1e-9
"""Accuracies and tokens nearer than this are equal."""


@dataclass(frozen=True)
class Firsts:
    """The first thoughts of P problems, in R orders: what they say and what they cost."""

    n: int
    measure: Measure
    ease_PR: Values
    tokens_PR: Values
    judge_PR: Values
    """What judging all of them costs."""


@dataclass(frozen=True)
class Option:
    """A search that can be chosen, and what comes of it."""

    choice: Choice
    right_PR: Values
    spend_PR: Values
    """Tokens drawn, judged, and the prompt's, once; first thoughts included."""
    need: float
    """The smallest budget that it cannot pass."""


def firsts(bank: Sequence[Drawn], n: int, measure: Measure, count: int = ORDERS) -> Firsts:
    """The first n thoughts in each of `count` orders.

    Raises:
        ValueError: n is below 1 or above what the bank has of each problem, or scores are asked for and it has none.
    """
    size = smallest(bank)
    if not 1 <= n <= size:
        raise ValueError(f"probe is {n}; it is at least 1, and at most the {size} thoughts a problem that the bank has")
    if measure == "score" and not any(each and each.score is not None for drawn in bank for each in drawn.thoughts_N):
        raise ValueError("the bank has no scores to estimate difficulty by; take agreement, or sweep with --verify")
    told = [
        [
            (
                ease([each for at in order[:n] if (each := drawn.thoughts_N[at])], n, measure),
                sum(drawn.tokens_N[at] for at in order[:n]),
                sum(drawn.judge_N[at] for at in order[:n]),
            )
            for order in orders(size, count)
        ]
        for drawn in bank
    ]
    return Firsts(n, measure, *np.moveaxis(np.array(told, dtype=float), -1, 0))


def options(
    bank: Sequence[Drawn],
    ran: Sequence[Cell],
    strategies: Sequence[str],
    grid: Sequence[int],
    *,
    after: Firsts | None = None,
    count: int = ORDERS,
) -> list[Option]:
    """The parallel ones of `strategies`, replayed, and the searches that were run for every problem.

    `after` first thoughts, a parallel strategy has them as its own, and any other search pays for them beside.
    """
    prompt_P1 = np.array([[drawn.prompt] for drawn in bank], dtype=float)
    found = []
    for cell in replays(bank, strategies, grid, count=count, least=after.n if after else 0):
        judge_PR, need = cell.judge_PR, float(cell.budget)
        if after:
            judged = PARALLEL[cell.strategy].judged or after.measure == "score"
            judge_PR = np.maximum(judge_PR, after.judge_PR) if judged else judge_PR
            need = max(need, float((after.tokens_PR + (after.judge_PR if judged else 0)).max()))
        choice = Choice(cell.strategy, cell.budget)
        found.append(Option(choice, cell.right_PR, cell.tokens_PR + judge_PR + prompt_P1, need))
    for cell in ran:
        spend_P = mean(cell.tokens_PR + cell.judge_PR)
        if np.isnan(spend_P).any():
            continue  # a sweep that was stopped here
        before_PR = np.zeros((len(bank), count))
        if after:
            before_PR = after.tokens_PR + (after.judge_PR if after.measure == "score" else 0)
        right_PR = np.repeat(mean(cell.right_PR)[:, None], count, axis=1)
        spend_PR = before_PR + spend_P[:, None] + prompt_P1
        need = cell.budget + float(before_PR.max())
        found.append(Option(Choice(cell.strategy, cell.budget), right_PR, spend_PR, need))
    return found


def best(found: Sequence[Option], where: Units, budget: int) -> Option | None:
    """The most accurate that `budget` allows, of equals the cheapest; `None` where there is none to tell."""
    ranked = [
        (round(float(np.nanmean(option.right_PR[where])), 9), -float(option.spend_PR[where].mean()), -place)
        for place, option in enumerate(found)
        if option.need <= budget and not np.isnan(option.right_PR[where]).all()
    ]
    return found[-max(ranked)[2]] if ranked else None


def oracle(bank: Sequence[Drawn], count: int = ORDERS) -> Values:
    """Difficulty as no one knows it beforehand, to compare with: pass@1 of P problems, the same in R orders."""
    return np.repeat(np.array([drawn.solved for drawn in bank])[:, None], count, axis=1)


def edges(ease_N: Values, bins: int) -> tuple[float, ...]:
    """Up to bins - 1 rising edges that part the estimates evenly; fewer where many are alike."""
    parts = np.unique(np.quantile(ease_N, np.arange(1, bins) / bins, method="higher"))
    return tuple(float(edge) for edge in parts if edge > ease_N.min())


def shared(found: Sequence[Option], parts: Sequence[Units], budget: float) -> list[Option]:
    """An option for each part, the most accurate together that take at most `budget` tokens a problem on average.

    From the cheapest of each part on, always the change that gains most for a token, as Lagrange's multiplier would
    have it while it falls (marginal analysis, Fox 1966); [] where not even the cheapest can be paid.
    """
    size = sum(int(part.sum()) for part in parts)
    right_BO, spend_BO = np.zeros((2, len(parts), len(found)))
    for place, part in enumerate(parts):
        weight = part.sum() / size
        for number, option in enumerate(found):
            known = option.right_PR[part][~np.isnan(option.right_PR[part])]
            right_BO[place, number] = weight * known.mean() if len(known) else -np.inf
            spend_BO[place, number] = weight * option.spend_PR[part].mean()
    rows = np.arange(len(parts))
    at = spend_BO.argmin(axis=1)
    while (left := budget - spend_BO[rows, at].sum()) >= 0:
        gain_BO = right_BO - right_BO[rows, at][:, None]
        more_BO = spend_BO - spend_BO[rows, at][:, None]
        worth_BO = np.where((gain_BO > GAIN) & (more_BO <= left), gain_BO / np.maximum(more_BO, GAIN), 0.0)
        row, number = divmod(int(worth_BO.argmax()), len(found))
        if not worth_BO[row, number]:
            return [found[place] for place in at]
        at[row] = number
    return []


def _row(
    found: Sequence[Option], bins_PR: NDArray[np.int64], count: int, where: Units, budget: int, average: bool
) -> list[Option]:
    """The best of each bin, of all where a bin is empty; [] where the budget allows none."""
    anywhere = shared(found, [where], budget) if average else list(filter(None, [best(found, where, budget)]))
    if not anywhere:
        return []
    parts = [where & (bins_PR == number) for number in range(count)]
    full = [part for part in parts if part.any()]
    if average:
        chosen = iter(shared(found, full, budget))
        return [next(chosen) if part.any() else anywhere[0] for part in parts]
    return [(best(found, part, budget) if part.any() else None) or anywhere[0] for part in parts]


def _binned(ease_PR: Values, at: Sequence[float]) -> NDArray[np.int64]:
    return np.searchsorted(np.array(at), ease_PR, side="right")


def allocate(
    bank: Sequence[Drawn],
    found: Sequence[Option],
    first: Firsts,
    grid: Sequence[int],
    *,
    bins: int = 5,
    average: bool = False,
    model: str = "",
    verify: str = "",
) -> Allocation:
    """The best of `found` (options after `first`) for each bin and budget, by all problems.

    A budget is the most that a problem may take or, by `average`, what problems take on average (`shared`).

    Raises:
        ValueError: `bins` is below 1, or no budget of the grid pays for the first thoughts.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; there is at least 1")
    every = np.ones_like(first.ease_PR, dtype=bool)
    at = edges(first.ease_PR, bins)
    bins_PR = _binned(first.ease_PR, at)
    rows = {budget: _row(found, bins_PR, len(at) + 1, every, budget, average) for budget in sorted(set(grid))}
    rows = {budget: row for budget, row in rows.items() if row}
    if not rows:
        raise ValueError(
            f"{first.n} first thoughts cost up to {first.tokens_PR.max():,.0f} tokens, more than the largest budget, "
            f"{max(grid):,}; take fewer, or sweep a larger grid"
        )
    price, judged_price, dearest = prices(bank)
    choices = tuple(tuple(option.choice for option in row) for row in rows.values())
    return Allocation(
        first.measure,
        first.n,
        at,
        tuple(rows),
        choices,
        price,
        judged_price,
        dearest,
        average=average,
        model=model,
        verify=verify,
    )


def tried(
    found: Sequence[Option], ease_PR: Values, budget: int, *, bins: int = 5, average: bool = False, seed: int = 0
) -> tuple[Values, Values] | None:
    """Two-fold cross-validation: edges and choices from one half of the problems, tried on the other, both ways.

    Returns:
        For P problems whether they were right, a mean over orders, and the tokens spent; `None` where the budget
        allows nothing.

    Raises:
        ValueError: there is one problem, and no halves.
    """
    size = len(ease_PR)
    half = np.random.default_rng(seed).permutation(size) < size // 2
    if not 0 < half.sum() < size:
        raise ValueError(f"there is {size} problem; halves need 2 at least")
    right_PR, spend_PR = np.full((2, *ease_PR.shape), np.nan)
    for train in (half, ~half):
        where = np.repeat(train[:, None], ease_PR.shape[1], axis=1)
        at = edges(ease_PR[where], bins)
        bins_PR = _binned(ease_PR, at)
        row = _row(found, bins_PR, len(at) + 1, where, budget, average)
        if not row:
            return None
        for number, option in enumerate(row):
            part = ~where & (bins_PR == number)
            right_PR[part], spend_PR[part] = option.right_PR[part], option.spend_PR[part]
    return mean(right_PR), mean(spend_PR)


def crossed(
    found: Sequence[Option],
    alone: Sequence[Option],
    first: Firsts,
    grid: Sequence[int],
    *,
    bins: int = 5,
    average: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What an allocation is worth on problems that it was not chosen by, beside the best single search.

    Returns:
        For each budget: `allocated` and `fixed` (accuracy: an `Estimate` as a dict), `allocated_tokens` and
        `fixed_tokens` (spent a problem), `difference` (paired). Fixed is the one search of `alone`, options without
        first thoughts, that was best on the same half.
    """
    found_rows = []
    for budget in sorted(set(grid)):
        ours = tried(found, first.ease_PR, budget, bins=bins, average=average, seed=seed)
        theirs = tried(alone, first.ease_PR, budget, bins=1, average=average, seed=seed)
        if ours is None or theirs is None:
            continue
        found_rows.append(
            {
                "budget": budget,
                "allocated": asdict(estimate(ours[0])),
                "allocated_tokens": float(ours[1].mean()),
                "fixed": asdict(estimate(theirs[0])),
                "fixed_tokens": float(theirs[1].mean()),
                "difference": asdict(estimate(ours[0] - theirs[0])),
            }
        )
    return found_rows


def text(table: Sequence[dict[str, Any]]) -> str:
    """`crossed` for a terminal."""
    head = f"{'budget':>8} {'allocated, %':>21} {'tokens':>8} {'best fixed, %':>21} {'tokens':>8} {'difference':>22}"
    lines = [head, "-" * len(head)]
    for row in table:
        apart = Estimate(**row["difference"])
        told = f"{points(apart.value)} [{points(apart.low)}, {points(apart.high)}]"
        lines.append(
            f"{row['budget']:>8,} {percent(Estimate(**row['allocated'])):>21} {short(row['allocated_tokens']):>8} "
            f"{percent(Estimate(**row['fixed'])):>21} {short(row['fixed_tokens']):>8} {told:>22}"
        )
    return "\n".join(lines)
