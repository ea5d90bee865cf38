"""The sandbox: what a run costs beside a bare interpreter, and runs a second on all cores.

    make bench BENCH=sandbox ARGS="--json"
    python benchmarks/sandbox.py --quick

The goals are milliseconds over runs: 15 for a jail of its own, 5 from the pool, as ratios (goal over measured).
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tyro
from race import machine

from forethought.problems.sandbox import Limits, Sandbox, Tests, bwrap, examine, jail

GOALS = {"bwrap": 15.0, "bwrap-pool": 5.0}
"""Milliseconds of a trivial program, by the median, one at a time."""
PROGRAM = "print(6 * 7)"
LIMITS = Limits(seconds=20)
TESTS = Tests(tuple(f"assert double({n}) == {2 * n}" for n in range(5)), ("double",))


@dataclass(frozen=True)
class Config:
    """Milliseconds a run, and runs a second."""

    rounds: int = 300
    """Runs of each kind."""
    quick: bool = False
    """Few runs: does it work? The figures mean little."""
    json: bool = False
    """Print one last line of JSON."""


def nothing() -> None:
    """The least that an interpreter can do."""
    subprocess.run([jail.interpreter()[0], "-I", "-S", "-c", "pass"], capture_output=True, check=True)


def bare() -> None:
    """The same interpreter without any guard."""
    done = subprocess.run([jail.interpreter()[0], "-s", "-S", "-c", PROGRAM], capture_output=True, check=True)
    assert done.stdout == b"42\n"


def jailed(sandbox: Sandbox) -> None:
    """The program, in a sandbox."""
    ran = sandbox.run(PROGRAM, b"", LIMITS)
    if ran.out != b"42\n":
        raise SystemExit(f"{sandbox.name} did not run the program: {ran}")


def judged(sandbox: Sandbox) -> None:
    """A function with five tests, judged in two jails."""
    if examine("def double(x): return 2 * x", TESTS, sandbox, limits=LIMITS).score != 1.0:
        raise SystemExit(f"{sandbox.name} misjudged a program")


def used() -> float:
    """Processor seconds of the processes that have ended and were waited for: a jail's, but not a pool's."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def milliseconds(calls: dict[str, Any], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Of each call by the clock, and of the processor, by turns, so that whatever else the machine does hits all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    work: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 3):
        for name, call in calls.items():
            before, began = used(), time.perf_counter()
            call()
            if round_ >= 3:
                times[name].append(1e3 * (time.perf_counter() - began))
                work[name].append(1e3 * (used() - before))
    return times, work


def per_second(sandbox: Sandbox, rounds: int) -> float:
    """Programs a second, as many at a time as the sandbox takes."""
    with ThreadPoolExecutor(sandbox.workers) as threads:
        began = time.perf_counter()
        list(threads.map(lambda _: jailed(sandbox), range(rounds)))
        return rounds / (time.perf_counter() - began)


def main(config: Config) -> int:
    """Measure, print, and say whether the goals hold."""
    rounds = 20 if config.quick else config.rounds
    boxes = [bwrap.once(), bwrap.pool()]
    calls: dict[str, Any] = {"python -I -S -c pass": nothing, "bare python": bare}
    for box in boxes:
        calls[box.name] = lambda box=box: jailed(box)
        calls[f"{box.name}, judged"] = lambda box=box: judged(box)
    times, work = milliseconds(calls, rounds)
    rates = {box.name: per_second(box, rounds) for box in boxes}
    for box in boxes:
        box.close()
    print(f"{'':24}{'median ms':>10}{'90 %':>8}{'goal':>7}{'cpu ms':>8}{'runs/s':>8}")
    figures: list[dict[str, Any]] = []
    for name, row in times.items():
        median, high = statistics.median(row), statistics.quantiles(row, n=10)[-1]
        goal, rate = GOALS.get(name), rates.get(name)
        cpu = f"{statistics.median(work[name]):.1f}" if "pool" not in name else ""
        print(f"{name:24}{median:10.1f}{high:8.1f}{goal or '':>7}{cpu:>8}{f'{rate:.0f}' if rate else '':>8}")
        if goal is not None:
            figures.append({"name": name, "ms": median, "ms_90": high, "goal_ms": goal, "per_second": rate})
    missed = [figure["name"] for figure in figures if figure["ms"] > figure["goal_ms"]]
    print(f"missed: {', '.join(missed)}" if missed else "every goal holds")
    if config.json:
        worst = max(figures, key=lambda figure: figure["ms"] / figure["goal_ms"])
        line = {
            "name": "sandbox",
            "ratio": round(worst["goal_ms"] / worst["ms"], 3),
            "goal": 1.0,
            "worst": worst["name"],
        }
        print(json.dumps({**line, "runs": figures, "machine": machine()}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
