"""How well a judge's yes and no agree with what is so: accuracy, Cohen's kappa, the confusion behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forethought.scaling.measure import RESAMPLES, Estimate
from forethought.scaling.verifiers import HALF, auc


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
        """Agreement beyond what as many yes and no would give by chance (Cohen 1960, equation 1): 1 is perfect, 0 is
        chance. A judge, or a truth, that is always the same agrees by chance alone: 0; nan of nothing."""
        if not self.total:
            return float("nan")
        said, so = self.true_yes + self.false_yes, self.true_yes + self.false_no
        chance = (said * so + (self.total - said) * (self.total - so)) / self.total**2
        return (self.accuracy - chance) / (1 - chance) if chance < 1 else 0.0


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
