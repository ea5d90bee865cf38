"""What `equal_spend` tells of its searches: their leads over whole thoughts, and what they solve by difficulty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forethought.scaling.bank import Drawn
from forethought.scaling.measure import Estimate, estimate
from forethought.scaling.strategies import Cell, mean, quintiles
from forethought.scaling.words import points

BASE = "weighted"
"""What the others are compared with: whole thoughts by the same judge."""
AGAINST = {
    "beam, value": "weighted, value",
    "mcts, value": "weighted, value",
    "weighted, value": "weighted, value",
    "best-of-n, random": "best-of-n, random",
    "mcts, random": "best-of-n, random",
    "mcts, random, vote": "majority",
}
"""Whole thoughts by the same choice, where that is not `BASE`."""


def leads(cells: Sequence[Cell]) -> str:
    """Each search against whole thoughts by the same choice and budget: points of accuracy, paired by problem."""
    right = {(cell.strategy, cell.budget): mean(cell.right_PR) for cell in cells}
    budgets = sorted({cell.budget for cell in cells})
    lines = [f"{'points over':<40}" + "".join(f"{budget:>22,}" for budget in budgets)]
    for name in dict.fromkeys(cell.strategy for cell in cells):
        base = AGAINST.get(name, BASE)
        told = [
            _difference(estimate(right[name, budget] - right[base, budget]))
            if {(name, budget), (base, budget)} <= right.keys()
            else ""
            for budget in budgets
        ]
        if name != base and any(told):
            lines.append(f"{f'{name} - {base}':<40}" + "".join(f"{each:>22}" for each in told))
    return "\n".join(lines)


def _difference(told: Estimate) -> str:
    return f"{points(told.value)} [{points(told.low)}, {points(told.high)}]"


def thirds(cells: Sequence[Cell], bank: Sequence[Drawn]) -> str:
    """Accuracy in per cent on the hardest, the middle and the easiest third of the problems, by pass@1 in the bank."""
    parts = quintiles(bank, 3)
    budgets = sorted({cell.budget for cell in cells})
    solved = [float(np.mean([bank[at].solved for at in part])) for part in parts]
    names = ("hardest", "middle", "easiest")
    head = ", ".join(f"{name} {100 * value:.0f} %" for name, value in zip(names, solved, strict=True))
    lines = [f"thirds by pass@1: {head}", f"{'':<24}" + "".join(f"{budget:>18,}" for budget in budgets)]
    for name in dict.fromkeys(cell.strategy for cell in cells):
        line = f"{name:<24}"
        for budget in budgets:
            cell = next((cell for cell in cells if (cell.strategy, cell.budget) == (name, budget)), None)
            values = [] if cell is None else [float(np.nanmean(mean(cell.right_PR)[part])) for part in parts]
            line += f"{' '.join(f'{100 * value:5.0f}' for value in values):>18}"
        lines.append(line)
    return "\n".join(lines)
