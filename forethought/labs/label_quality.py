"""How often Monte-Carlo labels of steps are right, beside the closed forms: Math-Shepherd's part of `step_labels`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from forethought.scaling.measure import estimate
from forethought.scaling.step_labels import Place, hard, independent, label_errors, soft, soft_error
from forethought.scaling.words import percent
from forethought.types import Trace

HEAD = (
    f"{'':>4}{'hard':>20}{'':>9}{'':>8}{'hard':>20}{'':>11}{'':>8}{'hard':>20}{'soft':>20}{'soft':>8}\n"
    f"{'n':>4}{'missed':>20}{'(1-p)^n':>9}{'mean p':>8}{'passed':>20}{'1-(1-q)^n':>11}{'mean q':>8}{'accuracy':>20}"
    f"{'accuracy':>20}{'error':>8}"
)


def places_of(traces: Iterable[Trace], judge: str, drawn: int) -> list[Place]:
    """The ends of the steps that claim something, but for the last step, from which nothing was drawn."""
    places = []
    for trace in traces:
        sound, shares = True, trace.verdicts[judge].steps
        for label, share in zip(trace.verdicts["true"].steps[:-1], shares[:-1], strict=True):
            sound = sound and label != 0
            if label is not None and share is not None:
                places.append(Place(sound, round(share * drawn), drawn))
    return places


def table(judged_P: Sequence[Sequence[Place]], told_P: Sequence[Sequence[Place]]) -> str:
    """Per cent of sound places that a hard label of n continuations misses, of the others that it passes, and accuracy.

    Beside the first two the closed forms, with the p and q of each place and with their means alone, both told by the
    continuations in `told_P`, which no label has seen; the soft label's accuracy, and its squared distance from truth.
    """
    sides = [[one for places in told_P for one in places if one.sound == side] for side in (True, False)]
    count = sum(map(len, judged_P))
    if not all(sides):
        return f"{count:,} places, all of one kind: label more thoughts"
    p, q = map(_whole, sides)
    lines = [f"{count:,} places: p {p.right / p.drawn:.3f}, q {q.right / q.drawn:.3f} in the mean", HEAD]
    drawn = min(one.drawn for places in judged_P for one in places)
    for n in (2**power for power in range(drawn.bit_length())):
        missed, passed, accuracy = (percent(estimate(values)) for values in label_errors(judged_P, hard, n))
        misses, passes, _ = (100 * estimate(values).value for values in label_errors(told_P, independent, n))
        softly = percent(estimate(label_errors(judged_P, soft, n)[2]))
        error = np.mean([soft_error(one, n) for places in judged_P for one in places])
        lines.append(
            f"{n:>4}{missed:>20}{misses:>9.1f}{100 * (1 - independent(p, n)):>8.1f}{passed:>20}{passes:>11.1f}"
            f"{100 * independent(q, n):>8.1f}{accuracy:>20}{softly:>20}{error:>8.3f}"
        )
    return "\n".join(lines)


def _whole(places: Sequence[Place]) -> Place:
    return Place(places[0].sound, sum(one.right for one in places), sum(one.drawn for one in places))
