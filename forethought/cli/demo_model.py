"""What `forethought serve --demo` serves: what the newest demo taught, or the embedded model as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forethought.engines.open import find
from forethought.problems import open_task
from forethought.recipes.run import read_config

EXAMPLES = 3
"""Questions that Ask offers."""


@dataclass(frozen=True)
class Shown:
    """A model to look at, and what it can be asked."""

    model: str
    tokens: int
    """Longest thought."""
    examples: tuple[str, ...]
    """Held-out questions, in the form that it was taught."""
    said: str
    """What it is, in words."""
    runs: str = ""
    """The folder that its run is in."""


def shown(folder: Path = Path("runs")) -> Shown:
    """The newest run of `forethought demo` in `folder` that has a checkpoint; where there is none, `smollm2-135m`."""
    for path in sorted(folder.glob("*/config.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            found = read_config(path.parent)
            if found["recipe"] != "demo":
                continue
            find(str(path.parent))
            config = found["config"]
            return Shown(
                str(path.parent), config["max_tokens"], _examples(config["problems"]),
                f"what {path.parent} taught {config['model']} of {config['problems']}", str(folder),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):  # no run, or one that has no checkpoint yet
            continue
    said = (
        f"there is no run of the demo in {folder}/, so this is smollm2-135m as it is, taught nothing here. "
        "`forethought demo` teaches it in minutes; `forethought demo --model tiny` is a small one from nothing"
    )
    return Shown("smollm2-135m", 64, _examples("sums:terms=4,most=20"), said)


def _examples(problems: str) -> tuple[str, ...]:
    return tuple(
        problem.messages[-1]["content"] for problem in open_task(problems).load("test", count=EXAMPLES, seed=0)
    )
