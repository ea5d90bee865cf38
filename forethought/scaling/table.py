"""A stage's numbers for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forethought.scaling.measure import (
    Values,
    best_at,
    estimate,
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
from forethought.scaling.stages import Stage
from forethought.scaling.words import counted, duration, percent


def table(stage: Stage, ks: Sequence[int]) -> str:
    """A line for each k with pass@k, maj@k (best@k where a verifier judged) in per cent with intervals, and tokens.

    Below it: how samples ended, how many could not be judged, how much of pass@k is guessing.

    Raises:
        ValueError: no sample was judged, or no problem has enough of them for any k.
    """
    rows = usable(stage.pools, ks)
    if not rows:
        most = max((len(pool.judged) for pool in stage.pools), default=0)
        raise ValueError(
            f"{stage.name!r} has at most {counted(most, 'judged sample')} a problem; none of k={list(ks)} can be told"
        )
    columns: dict[str, Callable[..., Values]] = {"pass@k": pass_at, "maj@k": maj_at}
    if has_judge(stage.pools):
        columns["best@k"] = best_at
    told = has_tokens(stage.pools)
    head = f"{'k':>5}" + "".join(f"{name:>21}" for name in columns) + (f"{'tokens/problem':>17}" if told else "")
    lines = [head, "-" * len(head)]
    for k in rows:
        cells = "".join(f"{percent(estimate(metric(stage.pools, k))):>21}" for metric in columns.values())
        spent = f"{estimate(tokens_at(stage.pools, k)).value:>17,.0f}" if told else ""
        lines.append(f"{k:>5}{cells}{spent}")
    samples = sum(len(pool.samples) for pool in stage.pools)
    used = estimate(pass_at(stage.pools, rows[0])).n
    ended = ", ".join(f"{stop} {count:,}" for stop, count in stops(stage.pools).most_common())
    facts = {
        "measured": f"{counted(used, 'problem')}, {counted(samples, 'sample')}; per cent [95 % interval over problems]",
        "samples ended by": ended,
        "could not judge": f"{unjudged(stage.pools):,}"
        + (" (left out, not counted as wrong)" * bool(unjudged(stage.pools))),
        "time": duration(stage.seconds) if stage.seconds else "",
        "note": stage.note,
    }
    if len(stage.pools) > 1:
        share = percent(estimate(guess_at(stage.pools, rows[-1])))
        facts["guessing"] = f"other problems' answers would give pass@{rows[-1]} = {share}"
    return "\n".join([stage.name, *lines, "", *(f"{name}: {fact}" for name, fact in facts.items() if fact)])
