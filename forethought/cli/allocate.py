"""`forethought allocate RUN`: from a sweep, which search to take for which difficulty and budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from forethought.cli.runs import config_of
from forethought.cli.sweep import RUN, Config, bank_of, runs_of
from forethought.cli.terminal import say, tell
from forethought.engines.open import public
from forethought.scaling.allocation import allocate as fitted
from forethought.scaling.allocation import crossed, firsts, options, text
from forethought.search.allocate import Measure, save

DESCRIPTION = """Choose a search for each difficulty and budget, by what a sweep has measured, and keep that in a file.

Difficulty is estimated from the first thoughts of a problem, and their cost counts. The table tells what that is worth
on problems that it was not chosen by (two halves, each tried on the other), beside the best single search. Then
`forethought solve --think auto --allocation FILE` goes by it."""


@dataclass(frozen=True)
class Options:
    """What `forethought allocate` is asked."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of a sweep."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/allocation.json)")] = (
        None
    )
    """The file to write."""
    probe: Annotated[int, tyro.conf.arg(metavar="N")] = 4
    """First thoughts of each problem, by which its difficulty is estimated."""
    measure: Measure = "agreement"
    """By the share of them that agree, or by their mean score."""
    bins: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """Difficulties to tell apart."""
    average: bool = False
    """Let budgets be what a problem takes on average, so that one may have from another, not the most it may take."""


def allocate(words: list[str]) -> int:
    """Print what an allocation is worth on problems held out, and write the one that all problems make."""
    asked = tyro.cli(Options, prog="forethought allocate", description=DESCRIPTION, args=words)
    config = config_of(asked.run, RUN, Config)
    bank = bank_of(asked.run, config)
    ran = runs_of(asked.run, bank)
    first = firsts(bank, asked.probe, asked.measure)
    found = options(bank, ran, config.strategies, config.budgets, after=first)
    allocation = fitted(
        bank,
        found,
        first,
        config.budgets,
        bins=asked.bins,
        average=asked.average,
        model=public(config.model),
        verify=config.verify,
    )
    if missing := sorted(set(config.budgets) - set(allocation.budgets)):
        tell(f"{asked.probe} first thoughts cost more than a budget of {', '.join(map(str, missing))}: left out")
    alone = options(bank, ran, config.strategies, config.budgets)
    say(text(crossed(found, alone, first, allocation.budgets, bins=asked.bins, average=asked.average)))
    for budget, row in zip(allocation.budgets, allocation.choices, strict=True):
        say(f"{budget:,}, hardest first: " + ", ".join(f"{choice.search} {choice.tokens:,}" for choice in row))
    say(str(save(asked.out or asked.run / "allocation.json", allocation)))
    return 0
