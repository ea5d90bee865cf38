"""What every benchmark needs: rounds taken in turns, their figures, the machine they were taken on, and the verdict."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

GOAL = 1.0
"""Every ratio, ours over theirs, is to be at least this."""


@dataclass
class Race:
    """Seconds of each round: ours, and those of each of their settings, of which the fastest counts."""

    name: str
    unit: str
    amount: int
    """Units in a round."""
    ours: list[float] = field(default_factory=list)
    theirs: dict[str, list[float]] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Units a second by the median round without the first, their ratio, and its range over single rounds."""
        ours, *others = (times[1:] for times in (self.ours, *self.theirs.values()))
        against, theirs = min(zip(self.theirs, others, strict=True), key=lambda pair: statistics.median(pair[1]))
        mine, other = statistics.median(ours), statistics.median(theirs)
        by_round = [b / a for a, b in zip(ours, theirs, strict=True)]
        return {
            "unit": self.unit,
            "ours": self.amount / mine,
            "theirs": self.amount / other,
            "against": against,
            "ratio": other / mine,
            "range": [min(by_round), max(by_round)],
            "rounds": len(ours),
        }


def timed(call: Callable[[], Any]) -> float:
    """Seconds that `call` takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


HEADER = f"{'':12}{'ours':>10}{'theirs':>10}{'ratio':>8}   rounds"


def row(race: Race) -> str:
    """The race as a line of the table below `HEADER`."""
    f = race.figures()
    low, high = f["range"]
    figures = f"{f['ours']:10,.4g}{f['theirs']:10,.4g}{f['ratio']:8.2f}   {f['rounds']}: {low:.2f} to {high:.2f}"
    return f"{race.name:12}{figures}; {f['unit']}, {f['against']}"


def machine(*libraries: ModuleType) -> dict[str, Any]:
    """What the figures were taken on, and the versions of `libraries`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in cpu.get("flags", "").split()]
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "flags": flags,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **{library.__name__: library.__version__ for library in libraries},
    }


def verdict(name: str, races: Mapping[str, Race], about: Mapping[str, Any], *, as_json: bool) -> int:
    """Print the least ratio, and with `as_json` one last line that holds everything; 0 where the goal was reached."""
    figures = {label: race.figures() for label, race in races.items()}
    ratios = {label: round(found["ratio"], 3) for label, found in figures.items()}
    worst = min(ratios, key=ratios.__getitem__)
    print(f"\nthe least ratio is {ratios[worst]:.2f} ({worst}); the goal is {GOAL:g}")
    if as_json:
        line = {"name": name, "ratio": ratios[worst], "goal": GOAL, "ratios": ratios}
        print(json.dumps({**line, "races": figures, "machine": about}))
    return 0 if ratios[worst] >= GOAL else 1
