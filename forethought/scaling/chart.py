"""The report's pictures as data: accuracy against thinking, training and level, and the course of the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from forethought.scaling.measure import (
    Estimate,
    Metric,
    Values,
    best_at,
    estimate,
    has_judge,
    has_tokens,
    judged_tokens_at,
    maj_at,
    pass_at,
    tokens_at,
    usable,
)
from forethought.scaling.stages import Chart, Line, Stage

COURSE: Mapping[str, str] = {
    "reward": "mean reward of own thoughts",
    "loss": "loss",
    "entropy": "entropy, nats per token",
    "kl_reference": "KL to the reference, nats per token",
    "sampler_gap": "|sampler - learner|, nats per token",
}
"""Keys of `metrics.jsonl` that are drawn where they stand, and their axis."""


def thinking_chart(stages: Sequence[Stage], ks: Sequence[int]) -> Chart:
    """Accuracy against thinking tokens per problem: votes, coverage and, where a verifier judged, best-of-k."""
    told = all(has_tokens(stage.pools) for stage in stages)
    lines: list[Line] = []
    for stage in stages:
        steps = usable(stage.pools, ks)
        metrics: list[tuple[str, Callable[..., Values], Callable[..., Values]]] = [
            ("vote (maj@k)", maj_at, tokens_at),
            ("any right (pass@k)", pass_at, tokens_at),
        ]
        if has_judge(stage.pools):
            metrics.insert(1, ("verifier's choice (best@k)", best_at, judged_tokens_at))
        for kind, metric, price in metrics:
            x = [estimate(price(stage.pools, k)).value if told else float(k) for k in steps]
            y = [estimate(metric(stage.pools, k)) for k in steps]
            labels = tuple(f"k={k}" for k in steps) if stage is stages[-1] and metric is pass_at else ()
            lines.append(_line(stage.name, x, y, kind=kind, labels=labels))
    return Chart(
        title="Accuracy against thinking",
        x_label="thinking tokens per problem (log)" if told else "samples per problem (log)",
        y_label="problems solved",
        lines=tuple(line for line in lines if line.x),
        caption="Each point spends k samples per problem. A vote can be had without knowing the answer; "
        "“any right” is what a perfect judge would reach.",
        log_x=True,
        percent=True,
    )


def training_chart(stages: Sequence[Stage], ks: Sequence[int]) -> Chart | None:
    """Accuracy against training tokens so far; `None` where no stage was trained."""
    spent = [float(total) for total in accumulate(stage.training_tokens for stage in stages)]
    if not spent[-1]:
        return None
    common = [k for k in sorted(set(ks)) if all(k in usable(stage.pools, ks) for stage in stages)]
    metrics: dict[str, Metric] = {"one sample (pass@1)": partial(pass_at, k=1)}
    if common and common[-1] > 1:
        metrics[f"vote of {common[-1]} (maj@{common[-1]})"] = partial(maj_at, k=common[-1])
    names = tuple(stage.name for stage in stages) if len(stages) <= 4 else ()
    lines = []
    for place, (name, metric) in enumerate(metrics.items()):
        y = [estimate(metric(stage.pools)) for stage in stages]
        lines.append(_line(name, spent, y, labels=names if place == len(metrics) - 1 else ()))
    return Chart(
        title="Accuracy against training",
        x_label="tokens trained on so far",
        y_label="problems solved",
        lines=tuple(lines),
        caption="Every token the learner ran through, prompts and repeats included.",
        percent=True,
    )


def level_chart(stages: Sequence[Stage]) -> Chart | None:
    """pass@1 of each level at each stage: STaR's staircase (arXiv 2203.14465, Fig. 4). `None` without two of both."""
    levels = sorted({pool.level for stage in stages for pool in stage.pools if pool.level is not None}, key=_natural)
    if len(levels) < 2 or len(stages) < 2:
        return None
    lines = []
    for level in levels:
        x, y = [], []
        for place, stage in enumerate(stages):
            values = pass_at([pool for pool in stage.pools if pool.level == level], 1)
            if np.isfinite(values).any():
                x.append(float(place))
                y.append(estimate(values))
        if x:
            lines.append(_line(f"level {level}", x, y))
    return Chart(
        title="Accuracy by level",
        x_label="stage",
        y_label="right at the first try",
        lines=tuple(lines),
        percent=True,
        x_names=tuple(stage.name for stage in stages),
    )


def course_charts(rows: Sequence[Mapping[str, Any]]) -> tuple[Chart, ...]:
    """One chart per key of `COURSE` that the rows hold: raw values faint, their running mean bold."""
    charts = []
    for key, axis in COURSE.items():
        points = [
            (float(row.get("step", place)), float(value))
            for place, row in enumerate(rows)
            if isinstance(value := row.get(key), int | float) and math.isfinite(value)
        ]
        if len(points) < 2:
            continue
        width = len(points) // 10 if len(points) >= 30 else 1
        x, y = zip(*points, strict=True)
        lines = [Line("", x, tuple(float(np.mean(y[max(0, i - width + 1) : i + 1])) for i in range(len(y))))]
        if width > 1:
            lines.insert(0, Line("", x, y, faint=True))
        caption = f"Bold: mean of the last {width} steps." if width > 1 else ""
        charts.append(Chart(f"Training: {key.replace('_', ' ')}", "step", axis, tuple(lines), caption=caption))
    return tuple(charts)


def _line(
    name: str, x: Sequence[float], y: Sequence[Estimate], *, kind: str = "", labels: tuple[str, ...] = ()
) -> Line:
    values, lows, highs = (tuple(getattr(e, part) for e in y) for part in ("value", "low", "high"))
    return Line(name, tuple(x), values, lows, highs, kind=kind, labels=labels)


def _natural(level: str) -> tuple[float, str]:
    """Sorts `10` after `9`, and words after numbers."""
    try:
        return (float(level), level)
    except ValueError:
        return (math.inf, level)
