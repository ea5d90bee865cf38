"""The page: what learning and thinking bought, in one HTML file without a script or a link to anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from forethought.scaling.chart import course_charts, level_chart, thinking_chart, training_chart
from forethought.scaling.measure import (
    Estimate,
    Metric,
    Pool,
    best_at,
    estimate,
    gain,
    guess_at,
    has_judge,
    has_tokens,
    maj_at,
    pass_at,
    stops,
    tokens_at,
    unjudged,
    usable,
)
from forethought.scaling.plot import svg
from forethought.scaling.stages import Chart, Report, Stage, examples, load_report
from forethought.scaling.words import counted, duration, flops, percent, points, short

PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class Gain:
    """One thing that was tried and what it bought."""

    what: str
    """E.g. `cold start over as it is`."""
    measure: str
    """What is compared, in words."""
    before: Estimate
    after: Estimate
    difference: Estimate
    """Paired by problem."""

    @property
    def verdict(self) -> str:
        """`gain`, `loss`, or `noise` where the interval holds 0."""
        if not self.difference.clear:
            return "noise"
        return "gain" if self.difference.value > 0 else "loss"


def gains(report: Report) -> tuple[Gain, ...]:
    """Each stage over the one before by pass@1 (beyond four stages: the last over the first), then voting over one
    sample at the last stage, at the largest k it can tell."""
    stages = report.stages
    pairs = list(pairwise(stages)) if len(stages) <= 4 else [(stages[0], stages[-1])]
    one: Metric = partial(pass_at, k=1)
    found = [
        _gain(f"{new.name} over {old.name}", "right at the first try (pass@1)", old.pools, new.pools, one, one)
        for old, new in pairs
    ]
    last = stages[-1]
    ks = usable(last.pools, report.ks)
    if ks and ks[-1] > 1:
        vote: Metric = partial(maj_at, k=ks[-1])
        what = f"a vote of {ks[-1]} over one sample"
        found.append(_gain(what, f"maj@{ks[-1]} over pass@1, {last.name}", last.pools, last.pools, one, vote))
    return tuple(found)


def _gain(what: str, measure: str, before: Sequence[Pool], after: Sequence[Pool], old: Metric, new: Metric) -> Gain:
    difference = gain(before, after, new, over=old)
    # The two means below are of the same problems as their difference, so that the three add up.
    later = {pool.problem_id: pool for pool in after}
    old_P, new_P = old(before), new([later[pool.problem_id] for pool in before])
    both_P = ~np.isnan(old_P + new_P)
    return Gain(what, measure, estimate(old_P[both_P]), estimate(new_P[both_P]), difference)


def write_report(path: str | Path, report: Report) -> Path:
    """Write the page, all of it in one file, and return where it stands.

    Raises:
        ValueError: a stage has no judged sample, or two stages do not hold the same problems.
    """
    path = Path(path)
    for stage in report.stages:
        if not any(pool.judged for pool in stage.pools):
            raise ValueError(f"stage {stage.name!r} has no judged sample; a report needs graded traces at every stage")
    page = Environment(
        loader=PackageLoader("forethought.scaling", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page.filters.update(percent=percent, points=points, short=short, flops=flops, duration=duration, counted=counted)
    text = page.get_template(PAGE).render(
        report=report,
        gains=gains(report),
        pictures=[(chart, Markup(svg(chart))) for chart in _charts(report)],
        results=[_results(stage, report.ks) for stage in report.stages],
        costs=_costs(report.stages),
        thoughts=_thoughts(report.stages),
        config=[(name, _plain(value)) for name, value in report.config.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8", errors="replace")  # a server may send half a surrogate pair
    os.replace(new, path)
    return path


def rebuild(run: str | Path, course: Sequence[Mapping[str, Any]]) -> Path:
    """Write `report.html` of a run again from its `stages.json`.

    Args:
        course: what was logged step by step (`train.metrics.read`), drawn where the report has no charts of its own.

    Raises:
        ValueError: the folder is not a run, or its file cannot be read.
    """
    report = load_report(run)
    if not report.charts:
        report = replace(report, charts=course_charts(course))
    return write_report(Path(run) / PAGE, report)


def _charts(report: Report) -> list[Chart]:
    own = [thinking_chart(report.stages, report.ks), training_chart(report.stages, report.ks)]
    return [chart for chart in (*own, level_chart(report.stages), *report.charts) if chart is not None]


def _results(stage: Stage, ks: Sequence[int]) -> dict[str, Any]:
    steps = usable(stage.pools, ks)
    wide = steps[-1] if steps else 1
    return {
        "stage": stage,
        "k": wide,
        "one": estimate(pass_at(stage.pools, 1)),
        "vote": estimate(maj_at(stage.pools, wide)),
        "any": estimate(pass_at(stage.pools, wide)),
        "best": estimate(best_at(stage.pools, wide)) if has_judge(stage.pools) else None,
        "guess": estimate(guess_at(stage.pools, wide)) if len(stage.pools) > 1 else None,
        "tokens": estimate(tokens_at(stage.pools, 1)).value if has_tokens(stage.pools) else None,
        "samples": sum(len(pool.samples) for pool in stage.pools),
        "unjudged": unjudged(stage.pools),
        "stops": stops(stage.pools).most_common(),
    }


def _costs(stages: Sequence[Stage]) -> dict[str, Any]:
    """A row per stage and their sum; `measured` is what drawing the held-out pools took."""
    names = ("training_tokens", "sampled_tokens", "train_flops", "sample_flops", "seconds")
    rows = [
        {
            "name": stage.name,
            "note": stage.note,
            **{name: getattr(stage, name) for name in names},
            "measured": sum(sample.tokens or 0 for pool in stage.pools for sample in pool.samples),
        }
        for stage in stages
    ]
    return {"rows": rows, "total": {name: sum(row[name] for row in rows) for name in (*names, "measured")}}


def _thoughts(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """The chosen problems, each with the first judged sample of the first, the middle and the last stage."""
    shown = stages if len(stages) <= 3 else (stages[0], stages[-1])
    found = []
    for problem_id, outcome in examples(stages).items():
        pools = [(stage.name, pool) for stage in shown for pool in stage.pools if pool.problem_id == problem_id]
        columns = [
            {"stage": name, "sample": pool.judged[0], "right": pool.right[0]} for name, pool in pools if pool.judged
        ]
        found.append({"pool": pools[0][1], "outcome": outcome, "columns": columns})
    return found


def _plain(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return str(json.loads(text)) if text.startswith('"') else text
