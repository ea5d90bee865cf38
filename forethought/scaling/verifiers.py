"""How well a verifier tells right thoughts from wrong ones, on thoughts that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forethought.types import Trace

HALF = 0.5
"""A score below it calls a thought, or a step, wrong."""


def auc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Chance that a right one scores above a wrong one, ties counted half; nan where either is missing."""
    values_N, right_N = np.asarray(scores, dtype=float), np.asarray(right, dtype=bool)
    positives, negatives = int(right_N.sum()), int((~right_N).sum())
    if not positives or not negatives:
        return float("nan")
    _, place_N, count_U = np.unique(values_N, return_inverse=True, return_counts=True)
    rank_U = np.cumsum(count_U) - (count_U - 1) / 2  # mean rank of a tie, from 1
    return float((rank_U[place_N][right_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_error(scores: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error: |mean score - share of right ones| over `bins` equal widths, weighed by their sizes
    (Guo et al., arXiv 1706.04599, equation 3); nan for no scores."""
    values_N, right_N = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    if not len(values_N):
        return float("nan")
    bin_N = np.minimum((values_N * bins).astype(int), bins - 1)
    gaps = [abs((values_N - right_N)[bin_N == number].sum()) for number in range(bins)]
    return float(sum(gaps) / len(values_N))


def judgement(traces: Sequence[Trace], judge: str) -> dict[str, float]:
    """What the verdicts of `judge` are worth against the grade, on the traces that have both.

    Returns:
        `thoughts`, `right` (share), `auc`, `pair_accuracy` (AUC among thoughts of one problem, each comparison
        counted once: what best-of-n lives on), `accuracy` (score of 0.5 or more means right) and `ece`.
    """
    judged = [
        (trace.problem_id, verdict.score, trace.reward == 1)
        for trace in traces
        if trace.reward is not None and (verdict := trace.verdicts.get(judge)) and verdict.score is not None
    ]
    scores, right = [score for _, score, _ in judged], [ok for *_, ok in judged]
    problems: dict[str, tuple[list[float], list[bool]]] = {}
    for problem, score, ok in judged:
        own = problems.setdefault(problem, ([], []))
        own[0].append(score)
        own[1].append(ok)
    comparisons = [(auc(*own), sum(own[1]) * (len(own[1]) - sum(own[1]))) for own in problems.values()]
    count = sum(weight for _, weight in comparisons)
    within = sum(chance * weight for chance, weight in comparisons if weight)
    return {
        "thoughts": len(judged),
        "right": _share(right),
        "auc": auc(scores, right),
        "pair_accuracy": within / count if count else float("nan"),
        "accuracy": _share([(score >= HALF) == ok for _, score, ok in judged]),
        "ece": calibration_error(scores, right),
    }


def location(traces: Sequence[Trace], judge: str, labels: str) -> dict[str, float]:
    """Does the judge's first step below 0.5 fall on the first step that `labels` call 0 (ProcessBench, arXiv
    2412.06559, section 3.4)?

    Returns:
        `first_error` (share of thoughts with an error where it is found exactly), `no_error` (share of thoughts
        without one where none is seen), `f1` (their harmonic mean) and `step_auc` (over labelled steps, where a label
        above 0.5 is right).
    """
    found: dict[bool, list[bool]] = {True: [], False: []}
    scores: list[float] = []
    right: list[bool] = []
    for trace in traces:
        ours, theirs = trace.verdicts.get(judge), trace.verdicts.get(labels)
        if ours is None or theirs is None or len(ours.steps) != len(theirs.steps):
            continue
        if all(label is None for label in theirs.steps):
            continue
        error = next((at for at, label in enumerate(theirs.steps) if label == 0), None)
        seen = next((at for at, score in enumerate(ours.steps) if score is not None and score < HALF), None)
        found[error is not None].append(seen == error)
        for score, label in zip(ours.steps, theirs.steps, strict=True):
            if score is not None and label is not None:
                scores.append(score)
                right.append(label > HALF)
    wrong, fine = _share(found[True]), _share(found[False])
    f1 = 0.0 if wrong + fine == 0 else 2 * wrong * fine / (wrong + fine)
    return {"first_error": wrong, "no_error": fine, "f1": f1, "step_auc": auc(scores, right)}


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")
