"""The coverage law: how many problems are solved by at least one of k thoughts, up to a thousand.

    python -m forethought.labs.coverage

The paper (arXiv 2407.21787, sections 2 and 3): coverage grows with k over four orders of magnitude as c = exp(a k^-b),
for every family of models (Pythia-160M on MATH, 0.27 % at one sample, 57 % at 10,000). Arms: one tiny policy at three
stages of its cold start, on chains of modular arithmetic of mixed lengths. Three views of the same thoughts:

- `right`: the answer is right;
- `sound`: and every line of the thought is true;
- `shuffled`: other problems' answers, held against this one's. Small answer spaces are covered by guessing alone.

Each law is fitted to the first 100 thoughts and told ahead to 1,000, beside a forecast from how the problems' own
chances are spread (arXiv 2502.17578). The pre-registered shape: coverage rises at every stage; the law of `sound` fits
within 0.03 up to 100 and is off by at most 0.05 at 1,000; the spread's forecast is no worse. `docs/labs.md` has what
came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from forethought.engines.open import open_engine
from forethought.labs.chains import MAX_TOKENS, mixed, pictures, tasks, taught
from forethought.problems.task import Task
from forethought.recipes.label import noted
from forethought.recipes.run import at_least, write_config
from forethought.scaling.bank import fill
from forethought.scaling.law import Power, Spread, power, spread
from forethought.scaling.measure import Estimate, Pool, Values, estimate, gather, guess_at, pass_at
from forethought.scaling.stages import Chart, Line, packed, unpacked
from forethought.scaling.sweep import append, read
from forethought.scaling.words import percent, points
from forethought.types import Problem, Sampling, Trace, Verdict

KS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SOUND = "sound"
ROWS = 1024
"""Thoughts drawn together: the policy is small."""
RESAMPLES = 200
"""Of problems, for the interval of a forecast's error."""


@dataclass(frozen=True)
class Config:
    """Arms, seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A policy, with problems and thoughts of its own, for each of them."""
    stages: int = 3
    """Of the cold start; each is an arm."""
    examples: int = 4000
    """Worked examples of the cold start."""
    steps: int = 300
    """Optimizer steps of a stage, of 16 examples each."""
    levels: tuple[int, ...] = (2, 3, 4, 5)
    """Steps of the chains."""
    modulus: int = 7
    """Of the chains."""
    problems: int = 40
    """Held-out problems."""
    samples: int = 1000
    """Thoughts of each."""
    fitted: int = 100
    """First thoughts of each, which the laws are fitted to."""
    temperature: float = 1.0
    """Of the thoughts."""
    out: str = "runs/coverage"
    """Where policies and thoughts are kept; what is there already is gone on with."""

    def __post_init__(self) -> None:
        at_least(self, 2, "problems", "fitted")
        at_least(self, 1, "stages", "steps")
        if self.samples <= self.fitted:
            raise ValueError(f"samples is {self.samples}, fitted {self.fitted}; a forecast needs more than it is from")


def main(config: Config) -> Path:
    """Teach and draw what is missing, and print the tables.

    Raises ValueError, before anything is drawn, where a folder holds a run with other settings than this lab's.
    """
    out = Path(config.out)
    for seed in config.seeds:
        folder, own = out / f"thoughts-{seed}", replace(config, seeds=(seed,))
        write_config(folder, "coverage", own, resume=(folder / "config.json").exists())
    charts: list[Chart] = []
    for seed in config.seeds:
        stages = taught(
            out,
            seed,
            levels=config.levels,
            modulus=config.modulus,
            stages=config.stages,
            steps=config.steps,
            examples=config.examples,
        )
        arms = {
            f"{(stage + 1) * config.steps} steps": thoughts(
                run, config, seed, out / f"thoughts-{seed}" / f"{stage}.jsonl"
            )
            for stage, run in enumerate(stages)
        }
        for name, pools in arms.items():
            print(table(f"seed {seed}, {name}", pools, config))
        charts += [_laws(seed, arms, config), _guessed(seed, arms)]
    print(pictures(out / "coverage.html", charts))
    return out


def thoughts(run: Path, config: Config, seed: int, file: Path) -> tuple[Pool, ...]:
    """The policy's thoughts about the seed's problems, from the file as far as it has them.

    A sample's `judged` says whether the thought was sound.
    """
    problems = mixed(config.levels, config.modulus, "test", config.problems, seed)
    done = {row["id"] for row in read(file)}
    todo = [problem for problem in problems if problem.id not in done]
    if todo:
        asyncio.run(_draw(todo, tasks(config.levels, config.modulus)[0], run, config, seed, file))
    return tuple(unpacked(row) for row in read(file))


async def _draw(todo: Sequence[Problem], task: Task, run: Path, config: Config, seed: int, file: Path) -> None:
    known = {problem.id: problem for problem in todo}
    stream = fill(
        todo,
        open_engine(str(run), dtype="fp32", max_rows=ROWS),
        n=config.samples,
        grade=task.grade,
        verify=None,
        sampling=Sampling(MAX_TOKENS, config.temperature, seed=seed),
        concurrency=2,
    )
    with tqdm(total=len(todo), desc=f"{run.name}: thoughts", unit="problem") as bar:
        async with aclosing(stream) as groups:
            async for traces, _ in groups:
                problem = known[traces[0].problem_id]
                told = [noted(trace, SOUND, _sound(task, problem, trace)) for trace in traces]
                append(file, [packed(pool, texts=False) for pool in gather(told, [problem], judge=SOUND)])
                bar.update()


def _sound(task: Task, problem: Problem, trace: Trace) -> Verdict:
    """Is the answer right, and no line of the thought wrong?"""
    assert task.labels is not None
    return Verdict(float(trace.reward == 1 and 0 not in task.labels(problem, trace)))


def sound(pools: Sequence[Pool]) -> list[Pool]:
    """The same thoughts, right where they are sound."""
    return [replace(pool, samples=tuple(replace(each, score=each.judged) for each in pool.samples)) for pool in pools]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A curve from the first thoughts, and what it says of all of them."""

    name: str
    curve: tuple[float, ...]
    """Coverage at each of `KS` that there are thoughts for."""
    worst: float
    """The largest error up to where it was fitted, in coverage."""
    error: Estimate
    """At the largest k: forecast less measured; the interval is over problems."""
    says: str
    """The fit itself."""


def forecasts(pools: Sequence[Pool], fitted: int) -> list[Forecast]:
    """The power law and the spread, from the first `fitted` thoughts of each problem."""
    first = [replace(pool, samples=pool.samples[:fitted]) for pool in pools]
    near, ks = [k for k in KS if k <= fitted], _ks(pools)
    near_PK = np.stack([pass_at(first, k) for k in near], axis=1)
    far_P = pass_at(pools, ks[-1])
    counts_P = np.array([sum(pool.right) for pool in first])
    rng, size = np.random.default_rng(0), len(pools)
    picks = [np.arange(size), *(rng.integers(size, size=size) for _ in range(RESAMPLES))]
    fits: dict[str, list[Power] | list[Spread]] = {
        "power law": [power(near, near_PK[pick].mean(axis=0)) for pick in picks],
        "spread": [spread(counts_P[pick], fitted) for pick in picks],
    }
    found = []
    for name, (fit, *again) in fits.items():
        errors = [
            float(each.at([ks[-1]])[0] - far_P[pick].mean()) for each, pick in zip([fit, *again], picks, strict=True)
        ]
        low, high = np.quantile(errors[1:], [0.025, 0.975])
        worst = float(np.abs(fit.at(near) - near_PK.mean(axis=0)).max())
        says = ", ".join(f"{parameter} {value:.2f}" for parameter, value in asdict(fit).items())
        error = Estimate(errors[0], float(low), float(high), size)
        found.append(Forecast(name, tuple(fit.at(ks).tolist()), worst, error, says))
    return found


def table(name: str, pools: Sequence[Pool], config: Config) -> str:
    """Coverage of the three views at each k, in per cent with intervals over problems, and each view's forecasts."""
    ks = _ks(pools)
    views = {"right": pools, SOUND: sound(pools)}
    lines = [f"{name}: {len(pools)} problems", f"{'k':>5}" + "".join(f"{view:>21}" for view in (*views, "shuffled"))]
    for k in ks:
        cells = [*(pass_at(each, k) for each in views.values()), guess_at(pools, k)]
        lines.append(f"{k:>5}" + "".join(f"{percent(estimate(cell)):>21}" for cell in cells))
    for view, each in views.items():
        for told in forecasts(each, config.fitted):
            error = f"{points(told.error.value)} [{points(told.error.low)}, {points(told.error.high)}]"
            lines.append(
                f"{view}, {told.name} of the first {config.fitted}: {told.says}; at most {100 * told.worst:.1f} points "
                f"off there; at {ks[-1]:,} {100 * told.curve[-1]:.1f} %, off by {error}"
            )
    return "\n".join(lines)


def _ks(pools: Sequence[Pool]) -> list[int]:
    return [k for k in KS if k <= min(len(pool.judged) for pool in pools)]


def _measured(name: str, values: Sequence[Values], ks: Sequence[int], kind: str) -> Line:
    told = [estimate(value) for value in values]
    value, low, high = (tuple(getattr(each, side) for each in told) for side in ("value", "low", "high"))
    return Line(name, tuple(map(float, ks)), value, low, high, kind)


def _laws(seed: int, arms: Mapping[str, Sequence[Pool]], config: Config) -> Chart:
    lines = []
    for name, pools in arms.items():
        own, ks = sound(pools), _ks(pools)
        lines.append(_measured(name, [pass_at(own, k) for k in ks], ks, "measured"))
        lines += [
            Line(name, tuple(map(float, ks)), each.curve, kind=each.name) for each in forecasts(own, config.fitted)
        ]
    caption = f"Coverage by sound thoughts. Both curves are fitted to the first {config.fitted} thoughts of a problem."
    return Chart(
        f"The coverage law, seed {seed}", "thoughts (log)", "problems covered", tuple(lines), caption, True, True
    )


def _guessed(seed: int, arms: Mapping[str, Sequence[Pool]]) -> Chart:
    lines = []
    for name, pools in arms.items():
        ks = _ks(pools)
        lines.append(_measured(name, [pass_at(pools, k) for k in ks], ks, "right"))
        lines.append(_measured(name, [guess_at(pools, k) for k in ks], ks, "shuffled"))
    caption = "Right answers, and other problems' answers held against this one's: how much of coverage is guessing."
    return Chart(f"Guessing, seed {seed}", "thoughts (log)", "problems covered", tuple(lines), caption, True, True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
