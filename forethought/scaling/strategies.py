"""Strategies side by side: accuracy and everything spent, from a bank's replays and from searches that were run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forethought.scaling.bank import Drawn, orders, prices, replayed
from forethought.scaling.measure import Estimate, Values, estimate
from forethought.scaling.stages import Chart, Line
from forethought.scaling.sweep import Record
from forethought.scaling.words import percent, short
from forethought.search.size import PARALLEL

ORDERS = 16
"""Orders in which a bank's thoughts are replayed."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """A strategy at a budget, for P problems and R repetitions: seeds where it ran, orders where it was replayed."""

    strategy: str
    budget: int
    right_PR: Values
    """1 or 0; not-a-number where it was not measured or could not be graded."""
    tokens_PR: Values
    judge_PR: Values
    seconds_PR: Values
    """Not-a-number where it was replayed."""


def smallest(bank: Sequence[Drawn]) -> int:
    """How many thoughts every problem of the bank has."""
    return min(len(drawn.thoughts_N) for drawn in bank)


def replays(
    bank: Sequence[Drawn],
    strategies: Iterable[str],
    grid: Sequence[int],
    *,
    count: int = ORDERS,
    least: int = 0,
) -> list[Cell]:
    """The parallel ones of `strategies` at each budget that the bank is large enough for, in `count` orders."""
    price, judged_price, _ = prices(bank)
    size = smallest(bank)
    cells = []
    for name in strategies:
        if (rule := PARALLEL.get(name)) is None:
            continue
        per = judged_price if rule.judged else price
        sizes = [(max(1, budget // per), budget) for budget in grid if max(1, budget // per) <= size]
        found = [
            [replayed(drawn, order.tolist(), rule, sizes, least=least) for order in orders(size, count)]
            for drawn in bank
        ]
        rows_PRS = np.array([[[(r.right, r.tokens, r.judge) for r in row] for row in each] for each in found])
        for place, (_, budget) in enumerate(sizes):
            right_PR, tokens_PR, judge_PR = np.moveaxis(rows_PRS[:, :, place], -1, 0)
            cells.append(Cell(name, budget, right_PR, tokens_PR, judge_PR, np.full_like(right_PR, np.nan)))
    return cells


def runs(records: Iterable[Record], bank: Sequence[Drawn]) -> list[Cell]:
    """What was run, for the bank's problems."""
    place = {drawn.problem_id: index for index, drawn in enumerate(bank)}
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        if record.problem in place:
            groups.setdefault((record.strategy, record.budget), []).append(record)
    cells = []
    for (strategy, budget), group in sorted(groups.items()):
        columns = np.full((4, len(bank), 1 + max(record.seed for record in group)), np.nan)
        for record in group:
            right = np.nan if record.right is None else float(record.right)
            columns[:, place[record.problem], record.seed] = right, record.tokens, record.judge, record.seconds
        cells.append(Cell(strategy, budget, *columns))
    return cells


def mean(values_PR: Values) -> Values:
    """Over repetitions; not-a-number where none was measured."""
    known_PR = ~np.isnan(values_PR)
    with np.errstate(invalid="ignore"):
        means_P: Values = np.where(known_PR, values_PR, 0.0).sum(axis=1) / known_PR.sum(axis=1)
    return means_P


def spend(cell: Cell, bank: Sequence[Drawn]) -> Values:
    """Tokens a problem: drawn, judged, and the prompt's, once."""
    prompt_P: Values = np.array([drawn.prompt for drawn in bank], dtype=float)
    return prompt_P + mean(cell.tokens_PR + cell.judge_PR)


def rows(cells: Iterable[Cell], bank: Sequence[Drawn]) -> list[dict[str, Any]]:
    """The table, a row for each cell; means over problems, accuracy with its interval."""
    prompt = float(np.mean([drawn.prompt for drawn in bank]))
    found = []
    for cell in cells:
        seconds = mean(cell.seconds_PR)
        found.append(
            {
                "strategy": cell.strategy,
                "budget": cell.budget,
                "accuracy": asdict(estimate(mean(cell.right_PR))),
                "tokens": float(np.nanmean(mean(cell.tokens_PR))),
                "judge": float(np.nanmean(mean(cell.judge_PR))),
                "prompt": prompt,
                "total": float(np.nanmean(spend(cell, bank))),
                "seconds": None if np.isnan(seconds).all() else float(np.nanmean(seconds)),
                "repetitions": cell.right_PR.shape[1],
            }
        )
    return found


def quintiles(bank: Sequence[Drawn], count: int = 5) -> list[Indices]:
    """Indices of the bank's problems in `count` parts of equal size by pass@1, the hardest first (Snell et al.,
    arXiv 2408.03314, section 3.2); problems that could not be graded in none."""
    solved_P = np.array([drawn.solved for drawn in bank])
    ranked = np.argsort(solved_P, kind="stable")
    return np.array_split(ranked[: int((~np.isnan(solved_P)).sum())], count)


def charts(cells: Sequence[Cell], bank: Sequence[Drawn]) -> tuple[Chart, ...]:
    """Accuracy against all tokens spent: of all problems, and of each quintile by difficulty."""
    found = [_chart("Accuracy against tokens, every search", cells, bank, np.arange(len(bank)))]
    found[0] = replace(
        found[0],
        caption="Means over problems of what was spent, the verifier's tokens and, once, the prompt's included. "
        "Parallel strategies are replayed from one bank of thoughts, the others were run.",
    )
    names = ("hardest fifth", "second hardest", "middle", "second easiest", "easiest fifth")
    if len(bank) >= 2 * len(names):
        for name, part in zip(names, quintiles(bank), strict=True):
            if len(part):
                solved = [100 * bank[index].solved for index in (part[0], part[-1])]
                title = f"By difficulty: {name}, pass@1 {solved[0]:.0f} to {solved[1]:.0f} %"
                found.append(_chart(title, cells, bank, part))
    return tuple(chart for chart in found if chart.lines)


def _chart(title: str, cells: Sequence[Cell], bank: Sequence[Drawn], part: Indices) -> Chart:
    lines = []
    for name in dict.fromkeys(cell.strategy for cell in cells):
        points: list[tuple[float, Estimate]] = []
        for cell in (cell for cell in cells if cell.strategy == name):
            right_P, spend_P = mean(cell.right_PR)[part], spend(cell, bank)[part]
            if not np.isnan(right_P).all():
                points.append((float(np.nanmean(spend_P)), estimate(right_P)))
        if points:
            x, y = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            values, lows, highs = (tuple(getattr(each, side) for each in y) for side in ("value", "low", "high"))
            lines.append(Line(name, x, values, lows, highs))
    return Chart(title, "tokens per problem, judging included (log)", "problems solved", tuple(lines), "", True, True)


def text(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal."""
    head = f"{'strategy':<20} {'budget':>8} {'solved, %':>21} {'tokens':>8} {'judge':>8} {'all':>8} {'seconds':>8}"
    lines = [head, "-" * len(head)]
    for row in table:
        told = percent(Estimate(**row["accuracy"]))
        seconds = "–" if row["seconds"] is None else f"{row['seconds']:.2f}"
        lines.append(
            f"{row['strategy']:<20} {row['budget']:>8,} {told:>21} {short(row['tokens']):>8} {short(row['judge']):>8} "
            f"{short(row['total']):>8} {seconds:>8}"
        )
    return "\n".join(lines)
