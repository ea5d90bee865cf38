"""How well a judge's yes and no agree with what is so: accuracy, Cohen's kappa, the confusion behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forethought.scaling.measure import RESAMPLES, Estimate
from forethought.scaling.verifiers import HALF, auc


def cohen_kappa(counts: Mapping[tuple[Any, Any], int]) -> float | None:
    """(observed - chance) / (1 - chance) of the pairs of labels that two gave, by how often each pair came (Cohen 1960,
    equation 1): 1 is agreement, 0 what chance would give. `None` where there is nothing, or both only ever said one and
    the same."""
    ours, theirs = Counter[Any](), Counter[Any]()
    for (one, other), count in counts.items():
        ours[one] += count
        theirs[other] += count
    total = ours.total()
    chance = sum(ours[label] * theirs[label] for label in ours)
    if chance == total**2:
        return None
    same = sum(count for (one, other), count in counts.items() if one == other)
    return (total * same - chance) / (total**2 - chance)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of what was said of what is so."""

    true_yes: int
    false_yes: int
    false_no: int
    true_no: int

    @property
    def total(self) -> int:
        """All that was judged."""
        return self.true_yes + self.false_yes + self.false_no + self.true_no

    @property
    def accuracy(self) -> float:
        """Share of what was said rightly; nan of nothing."""
        return (self.true_yes + self.true_no) / self.total if self.total else float("nan")

    @property
    def kappa(self) -> float:
        """`cohen_kappa` of what was said and what is so. A judge, or a truth, that is always the same agrees by chance
        alone: 0; nan of nothing."""
        said_yes = {(True, True): self.true_yes, (True, False): self.false_yes}
        said_no = {(False, True): self.false_no, (False, False): self.true_no}
        return (cohen_kappa(said_yes | said_no) or 0.0) if self.total else float("nan")


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against the truth."""

    confusion: Confusion
    kappa: Estimate
    """With its bootstrap interval over what was judged."""
    auc: float
    """Chance that it scores what is so above what is not: does it know more than its yes and no say?"""
    unjudged: int
    """What it gave no score; left out of all the others."""


def agreement(scores: Sequence[float | None], truth: Sequence[bool], *, seed: int = 0) -> Agreement:
    """Scores from 0 to 1, of which those of at least a half are a yes, against the truth, one for one.

    Raises ValueError where they are not as many.
    """
    judged = [(score, so) for score, so in zip(scores, truth, strict=True) if score is not None]
    said_N = np.array([score >= HALF for score, _ in judged], dtype=bool)
    truth_N = np.array([so for _, so in judged], dtype=bool)
    confusion = _confusion(said_N, truth_N)
    rng = np.random.default_rng(seed)
    picks = (rng.integers(0, len(judged), len(judged)) for _ in range(RESAMPLES if judged else 0))
    drawn = [_confusion(said_N[pick], truth_N[pick]).kappa for pick in picks]
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (float("nan"),) * 2
    kappa = Estimate(confusion.kappa, float(low), float(high), len(judged))
    return Agreement(confusion, kappa, auc([score for score, _ in judged], truth_N.tolist()), len(scores) - len(judged))


def _confusion(said_N: NDArray[np.bool_], truth_N: NDArray[np.bool_]) -> Confusion:
    return Confusion(
        int((said_N & truth_N).sum()),
        int((said_N & ~truth_N).sum()),
        int((~said_N & truth_N).sum()),
        int((~said_N & ~truth_N).sum()),
    )
