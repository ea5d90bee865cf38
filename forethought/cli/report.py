"""`forethought report RUN`: write a run's page again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from forethought.cli.terminal import say


@dataclass(frozen=True)
class Options:
    """What `forethought report` is asked."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of a run."""


def report(words: list[str]) -> int:
    """Write `report.html` from the run's `stages.json` and print where it is."""
    what = "Write a run's report.html again from what it measured and logged, without sampling, and print its path."
    options = tyro.cli(Options, prog="forethought report", description=what, args=words)
    from forethought.scaling.report import rebuild  # matplotlib takes a second to load: not for --help
    from forethought.train.metrics import read

    say(str(rebuild(options.run, read(options.run))))
    return 0
