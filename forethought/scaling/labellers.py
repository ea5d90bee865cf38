"""How far people agree beyond chance: Cohen's kappa of each two, Krippendorff's alpha of all.

Both take categories (nominal data): labels are equal or they are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations
from typing import Any

from forethought.scaling.agreement import cohen_kappa
from forethought.store.labels import Standing


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """1 - observed / expected disagreement, nominal (Krippendorff 2004, section 11.3). A unit is the labels that one
    thing got, one a judge; units with fewer than two are left out. `None` where nothing could disagree."""
    compared = [labels for labels in units if len(labels) > 1]
    totals = Counter(label for labels in compared for label in labels)
    values = totals.total()
    expected = values**2 - sum(count**2 for count in totals.values())
    if not expected:
        return None
    observed = sum(
        (len(labels) ** 2 - sum(count**2 for count in Counter(labels).values())) / (len(labels) - 1)
        for labels in compared
    )
    return 1 - (values - 1) * observed / expected


def agreement(told: Standing) -> dict[str, Any]:
    """Who has labelled how much in a store, and how far they agree, as plain values.

    `labellers` have name, labels, thoughts, and when the `last` label was given. `pairs` have the moves that both have
    labelled, how often they said the same, and Cohen's kappa. `alpha` is Krippendorff's, over the `moves` that two or
    more have labelled.
    """
    units = [
        {who: own[place].label for who, own in by.items() if place in own}
        for by in told.values()
        for place in {place for own in by.values() for place in own}
    ]
    names = sorted({who for unit in units for who in unit})
    pairs = []
    for one, other in combinations(names, 2):
        both = [(unit[one], unit[other]) for unit in units if one in unit and other in unit]
        if both:
            same = sum(ours == theirs for ours, theirs in both)
            kappa = cohen_kappa(Counter(both))
            pairs.append({"one": one, "other": other, "moves": len(both), "same": same, "kappa": kappa})
    labels = [(who, label.time) for by in told.values() for who, own in by.items() for label in own.values()]
    return {
        "labellers": [
            {
                "name": name,
                "labels": sum(who == name for who, _ in labels),
                "thoughts": sum(name in by for by in told.values()),
                "last": max(said for who, said in labels if who == name),
            }
            for name in names
        ],
        "pairs": pairs,
        "alpha": krippendorff_alpha([list(unit.values()) for unit in units]),
        "moves": sum(len(unit) > 1 for unit in units),
    }
