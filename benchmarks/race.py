"""What the benchmarks share: equal models and prompts for both sides, rounds taken in turns, the table, the verdict."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from forethought.engines.local import TinyConfig, load_model
from forethought.thought.tokens import prompt_tokens
from forethought.types import Problem, user

Model = Literal["tiny", "smollm2-135m"]
TINY = TinyConfig(layers=4, width=256)
THREADS: dict[Model, int] = {"tiny": 1, "smollm2-135m": 2}
PROMPT = 74
"""Tokens of a prompt, the chat template's included."""
NEW = 64
"""Tokens of a thought, or of the longest."""
SLOWER = 1.3
"""A setting of theirs that takes this much longer than their fastest is timed once and no more."""


@dataclass
class Race:
    """Seconds of each round: ours, and those of each of their settings, of which the fastest counts."""

    name: str
    unit: str
    amount: float
    """Units in a round."""
    goal: float
    """Least ratio, theirs over ours in seconds."""
    ours: list[float] = field(default_factory=list)
    theirs: dict[str, list[float]] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Units a second by the median round, their ratio, and its range over single rounds."""
        against = min(self.theirs, key=lambda name: statistics.median(self.theirs[name]))
        mine, other = statistics.median(self.ours), statistics.median(self.theirs[against])
        by_round = [b / a for a, b in zip(self.ours, self.theirs[against], strict=False)]
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.amount / mine,
            "theirs": self.amount / other,
            "against": against,
            "ratio": other / mine,
            "goal": self.goal,
            "range": [min(by_round), max(by_round)],
            "rounds": len(by_round),
            "settings": {name: self.amount / statistics.median(times) for name, times in self.theirs.items()},
        }


def timed(call: Callable[[], Any]) -> float:
    """Seconds that `call` takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def by_turns(
    ours: Callable[[], Any], theirs: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float = 0.0
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of each round, ours and then each of theirs, for `rounds` rounds and `seconds` at least.

    A round before the first warms up (and compiles) and is not kept. Settings that the first kept round shows to be
    slower than their fastest by `SLOWER` sit out the others.
    """
    for call in (ours, *theirs.values()):
        call()
    mine: list[float] = []
    other: dict[str, list[float]] = {name: [] for name in theirs}
    running = list(theirs)
    began = time.perf_counter()
    while len(mine) < rounds or time.perf_counter() - began < seconds:
        mine.append(timed(ours))
        for name in running:
            other[name].append(timed(theirs[name]))
        if len(mine) == 1:
            running = [name for name in running if other[name][0] <= SLOWER * min(o[0] for o in other.values())]
    return mine, other


def unending(name: Model) -> tuple[Any, Any]:
    """Model and tokenizer whose end token lies beyond the vocabulary: never drawn, so all thoughts are as long as they
    may be on either side, and neither pays for suppressing it."""
    model, tokenizer = load_model(name, tiny=TINY if name == "tiny" else None, device=torch.device("cpu"))
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    if tokenizer.eos_token_id < model.config.vocab_size:
        raise ValueError(f"{name} has a row for token {tokenizer.eos_token_id}; it could be drawn")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


def problems(tokenizer: Any, lengths: Sequence[int]) -> list[Problem]:
    """Strings of digits, each as many tokens as `lengths` says with the template around it."""
    around = len(prompt_tokens(tokenizer, user("")))
    made = []
    for number, length in enumerate(lengths):
        digits = "".join(random.Random(number).choices("0123456789", k=length - around))
        made.append(Problem(f"digits/{number}", user(digits), ""))
        if (found := len(prompt_tokens(tokenizer, user(digits)))) != length:
            raise ValueError(f"{digits} takes {found} tokens, not {length}: a digit is not a token here")
    return made


def header(what: str) -> str:
    """A model's or a race's heading, above its rows."""
    return f"\n{what}\n{'':24}{'ours':>10}{'theirs':>10}{'ratio':>8}{'goal':>7}   rounds"


def row(figures: Mapping[str, Any]) -> str:
    """A race's figures as a line of the table."""
    f = figures
    low, high = f["range"]
    line = f"{f['name'].split('/', 1)[-1]:24}{f['ours']:10,.4g}{f['theirs']:10,.4g}{f['ratio']:8.2f}{f['goal']:7.2f}"
    return f"{line}   {f['rounds']}: {low:.2f} to {high:.2f}; {f['unit']}, {f['against']}"


def machine(*libraries: ModuleType) -> dict[str, Any]:
    """What the figures were taken on, and the versions of `libraries`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in cpu.get("flags", "").split()]
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": flags,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **{library.__name__: library.__version__ for library in libraries},
    }


def verdict(name: str, races: Sequence[Mapping[str, Any]], about: Mapping[str, Any], *, as_json: bool) -> int:
    """Say which figure is furthest from its goal, and with `as_json` print one last line that holds everything.

    Returns 0 where every ratio reached its goal, else 1.
    """
    worst = min(races, key=lambda figures: figures["ratio"] / figures["goal"])
    missed = [figures["name"] for figures in races if figures["ratio"] < figures["goal"]]
    print(f"\nfurthest from its goal: {worst['name']}, {worst['ratio']:.2f} for {worst['goal']:g}")
    print(f"missed: {', '.join(missed)}" if missed else "every goal holds")
    if as_json:
        line = {"name": name, "ratio": round(worst["ratio"], 3), "goal": worst["goal"], "worst": worst["name"]}
        print(json.dumps({**line, "races": list(races), "machine": about}))
    return 1 if missed else 0
