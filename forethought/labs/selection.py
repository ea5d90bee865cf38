"""What a vote and verifiers choose among n thoughts: Let's Verify Step by Step's part of `step_labels`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

from forethought.recipes.label import noted
from forethought.scaling.measure import Estimate, Pool, Values, best_at, estimate, gain, gather, maj_at
from forethought.scaling.words import percent, points
from forethought.types import Trace, Verdict
from forethought.verify.heads import Aggregate
from forethought.verify.verdict import aggregated

AGAINST = (
    ("product", "outcome"),
    ("outcome", "vote"),
    ("product", "vote"),
    ("product", "min"),
    ("product", "last"),
    ("product", "mean"),
)
"""Which of the differences are told."""


def arms(traces: Sequence[Trace], verifiers: Sequence[str]) -> dict[str, tuple[Pool, ...]]:
    """Pools by what chooses: the vote, each verifier, and for `process` each way to combine the scores of its steps."""
    found = {"vote": gather(traces)}
    for name in verifiers:
        if name != "process":
            found[name] = gather(traces, judge=name)
    for how in get_args(Aggregate):
        found[how] = gather((_combined(trace, how) for trace in traces), judge=how)
    return found


def _combined(trace: Trace, how: Aggregate) -> Trace:
    verdict = trace.verdicts.get("process")
    scores = [score for score in verdict.steps if score is not None] if verdict else []
    return noted(trace, how, Verdict(aggregated(scores, how) if scores else None))


def table(banks: Sequence[Sequence[Trace]], verifiers: Sequence[str]) -> str:
    """Per cent right by n, all banks together; paired differences by n; and each bank alone at the largest n."""
    banked = [arms(traces, verifiers) for traces in banks]
    names = list(banked[0])
    whole = {name: [pool for bank in banked for pool in bank[name]] for name in names}
    drawn = min(len(pool.judged) for pool in whole["vote"])
    ns = [2**power for power in range(drawn.bit_length())]
    lines = [f"{len(whole['vote'])} problems, {drawn} thoughts each", f"{'n':>4}" + "".join(f"{n:>20}" for n in names)]
    for n in ns:
        told = (percent(estimate(_metric(name, n)(pools))) for name, pools in whole.items())
        lines.append(f"{n:>4}" + "".join(f"{one:>20}" for one in told))
    lines += ["", f"{'n':>4}" + "".join(f"{f'{better} - {worse}':>23}" for better, worse in AGAINST)]
    for n in ns[1:]:
        differences = (
            gain(whole[worse], whole[better], _metric(better, n), over=_metric(worse, n)) for better, worse in AGAINST
        )
        lines.append(f"{n:>4}" + "".join(f"{_difference(one):>23}" for one in differences))
    lines.append("")
    for number, bank in enumerate(banked):
        alone = (f"{name} {100 * _metric(name, ns[-1])(pools).mean():.1f}" for name, pools in bank.items())
        lines.append(f"bank {number}, of {ns[-1]}: " + ", ".join(alone))
    return "\n".join(lines)


def _metric(name: str, n: int) -> Callable[[Sequence[Pool]], Values]:
    return partial(maj_at if name == "vote" else best_at, k=n)


def _difference(one: Estimate) -> str:
    return f"{points(one.value)} [{points(one.low)}, {points(one.high)}]"
