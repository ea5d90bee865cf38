"""Over-optimisation: does the gold score of best-of-n rise and then fall as a learned proxy is optimised harder?

    python -m forethought.labs.over_optimisation

The paper (Gao, Schulman and Hilton, arXiv 2210.10760, section 3): against d = sqrt(KL), best-of-n's gold score is
d (alpha - beta d), KL being log n - (n-1)/n; the proxy's own score goes on rising; more comparisons, or a larger proxy,
move the peak outwards; with fewer than about 2,000 comparisons there is hardly a gain.

Here the policy writes chains at a temperature at which it errs, the gold score is a program's (`gold`), and a proxy is
a Bradley-Terry head with its trunk, from the policy's weights, on so many pairs of thoughts; those of one question are
compared with one another too. Arms: pairs; the most pairs with labels that were flipped at random; the most pairs with
the trunk left as it is.

The pre-registered shape: beta above 0 and a last gold score below the best one for the fewest pairs; the peak further
out, or none, for more; noise lowers the curve of as many pairs. `docs/labs.md` has what came of it.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from forethought.labs.runs import check, finish, kept, taught
from forethought.problems import Task, open_task
from forethought.recipes import sft, verifier
from forethought.recipes.label import cut, noted
from forethought.recipes.run import at_least
from forethought.recipes.student import Student
from forethought.search.seeds import derive
from forethought.store import open_store
from forethought.types import Problem, Sampling, Trace, Verdict
from forethought.verify.open import open_verifier

GOLD = "gold"
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """Arms, seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A policy, its pairs and its bank for each of them."""
    problems: str = "chain:steps=3,modulus=3"
    """What the policy thinks about."""
    pairs: tuple[int, ...] = (32, 128, 512)
    """Comparisons that proxies learn from, one arm each."""
    noise: float = 0.3
    """Share of comparisons that the noisy arm is told the wrong way round."""
    epochs: int = 4
    """Times that a proxy sees each comparison."""
    prompts: int = 8
    """Problems of the bank, for each seed."""
    samples: int = 512
    """Thoughts of each: the largest n."""
    temperature: float = 1.3
    """Of all thoughts."""
    policy_steps: int = 200
    """Optimizer steps of the policy."""
    out: str = "runs/over-optimisation"
    """Where the runs go; those that are there already are gone on with."""

    def __post_init__(self) -> None:
        at_least(self, 1, "epochs", "prompts", "policy_steps")
        at_least(self, 8, "samples")
        if not self.seeds or not self.pairs or min(self.pairs) < 8:
            raise ValueError(f"seeds are {self.seeds} and pairs {self.pairs}; give a seed, and 8 pairs or more an arm")
        if not 0 <= self.noise <= 0.5:
            raise ValueError(f"noise is {self.noise}; a share of flipped labels is from 0 to 0.5")


def main(config: Config) -> Path:
    """Run what is missing of all arms and seeds, and print the tables.

    Raises ValueError, before anything is run, where a folder holds a run with other settings than this lab's.
    """
    plans = {seed: plan(config, seed) for seed in config.seeds}
    check(run for policy, proxies in plans.values() for run in (policy, *proxies.values()))
    names = ("pairs", "noise", "epochs", "prompts", "samples", "temperature")
    settings = {name: getattr(config, name) for name in names}
    banks = []
    for seed, (policy, proxies) in plans.items():
        finish(policy)
        measure = partial(bank, config, seed, policy, proxies)
        banks.append(kept(Path(config.out) / f"bank-{seed}.json", settings, measure))
    print(report(banks))
    return Path(config.out)


def plan(config: Config, seed: int) -> tuple[sft.Config, dict[str, verifier.Config]]:
    """A seed's policy, and its proxies by the name of their arm."""
    common: dict[str, Any] = {"problems": config.problems, "seed": seed, "dtype": "fp32", "eval_problems": 0}
    policy = taught(config.out, seed, config.problems, config.policy_steps)
    most = max(config.pairs)
    arms = {f"{count} pairs": (count, False) for count in sorted(config.pairs)}
    arms |= {f"{most} noisy": (most, False), f"{most} head": (most, True)}
    proxies = {
        arm: verifier.Config(
            **common, model=policy.out, kind="bradley_terry", labels=GOLD, store=f"{config.out}/pairs-{seed}",
            run=arm if arm.endswith("noisy") else f"{count} pairs", batch=16, lr=1e-3, warmup=2, freeze=freeze,
            steps=max(2, count * config.epochs // 16), out=f"{config.out}/{arm.replace(' ', '-')}-{seed}",
        )
        for arm, (count, freeze) in arms.items()
    }  # fmt: skip
    return policy, proxies


def bank(
    config: Config, seed: int, policy: sft.Config, proxies: dict[str, verifier.Config]
) -> dict[str, list[list[float]]]:
    """The gold scores of a seed's bank, and by arm its proxy's rewards: P problems of K samples each. The proxies are
    trained where they are not there yet."""
    task = open_task(config.problems)
    student = Student.load(policy.out, dtype="fp32")
    pairs = Path(config.out) / f"pairs-{seed}"
    if not (pairs / "done").exists():
        shutil.rmtree(pairs, ignore_errors=True)  # what an interruption left half written
        _pairs(config, seed, student, task)
        (pairs / "done").touch()
    for proxy in proxies.values():
        finish(proxy)
    problems = task.load("test", count=config.prompts, seed=seed)
    groups = _thoughts(config, student, task, problems, config.samples, derive(seed, "bank"))
    found = {GOLD: [[_gold(trace) for trace in group] for group in groups]}
    traces = [trace for group in groups for trace in group]
    for arm, proxy in proxies.items():
        judged = verifier.score(traces, open_verifier(proxy.out, dtype="fp32"), arm)
        rewards = [trace.verdicts[arm].parts["reward"] for trace in judged]
        found[arm] = [rewards[at : at + config.samples] for at in range(0, len(rewards), config.samples)]
    return found


def _gold(trace: Trace) -> float:
    score = trace.verdicts[GOLD].score
    assert score is not None
    return score


def gold(problem: Problem, trace: Trace, task: Task) -> float:
    """Right lines less wrong ones."""
    assert task.labels is not None
    labels = [label for label in task.labels(problem, trace) if label is not None]
    return 2 * math.fsum(labels) - len(labels)


def _thoughts(
    config: Config, student: Student, task: Task, problems: Sequence[Problem], n: int, seed: int | None
) -> list[list[Trace]]:
    """n thoughts of each problem in lines, with the gold score."""
    sampling = Sampling(80, config.temperature, seed=seed)
    groups = student.sample(problems, task, n, sampling, "thoughts")
    cut_up = [[cut(trace, student.engine.decode) for trace in group] for group in groups]
    return [
        [noted(trace, GOLD, Verdict(gold(problem, trace, task))) for trace in group]
        for problem, group in zip(problems, cut_up, strict=True)
    ]


def _pairs(config: Config, seed: int, student: Student, task: Task) -> None:
    """Stores with so many comparisons: two thoughts of a problem whose gold scores differ, the smaller sets the
    beginnings of the larger; and the largest with labels flipped."""
    most = max(config.pairs)
    found: list[tuple[Trace, Trace]] = []
    problems = task.load("train", count=most + most // 2, seed=seed)
    for first, second in _thoughts(config, student, task, problems, 2, derive(seed, "pairs")):
        if _gold(first) != _gold(second) and len(found) < most:
            found.append((first, second))
    if len(found) < most:
        raise ValueError(f"{len(found)} of {len(problems)} pairs of thoughts differ in gold; ask for fewer than {most}")
    rng = random.Random(seed)
    noisy = []
    for first, second in found:
        one, two = first.verdicts[GOLD], second.verdicts[GOLD]
        flipped = rng.random() < config.noise
        noisy.append((noted(first, GOLD, two if flipped else one), noted(second, GOLD, one if flipped else two)))
    store = open_store(Path(config.out) / f"pairs-{seed}")
    sets = {**{f"{count} pairs": found[:count] for count in config.pairs}, f"{most} noisy": noisy}
    for name, chosen in sets.items():
        with store.writer(name) as writer:
            for pair in chosen:
                writer.extend([replace(trace, nodes=(at,)) for at, trace in enumerate(pair)])


def best_of(values_N: Values, rewards_N: Values, n: int) -> float:
    """The expected value of the sample with the highest reward among n, over all n-subsets of the N (Gao et al.,
    appendix I); equal rewards are chosen among with equal chance."""
    size = len(values_N)
    _, group_N = np.unique(-rewards_N, return_inverse=True)
    ranked_N = (np.bincount(group_N, weights=values_N) / np.bincount(group_N))[np.sort(group_N)]
    return math.fsum(comb(size - i - 1, n - 1) / comb(size, n) * ranked_N[i] for i in range(size - n + 1))


@dataclass(frozen=True)
class Curve:
    """What best-of-n by one proxy comes to, in standard deviations of the policy's own gold score (within problems)."""

    arm: str
    accuracy: float
    """Share of comparisons of the bank's neighbours that the proxy gets right."""
    ns: tuple[int, ...]
    gold_PN: Values
    """Gold less the problem's mean: P problems of all seeds by the N values of n."""
    proxy_N: Values
    """The proxy's own reward, likewise, mean over problems."""


def kl(n: int) -> float:
    """KL(best-of-n || policy) in nats."""
    return math.log(n) - (n - 1) / n


def curves(banks: Sequence[dict[str, Any]]) -> list[Curve]:
    """Every arm's curve over the problems of all banks (one for each seed)."""
    ns = tuple(2**power for power in range(len(banks[0][GOLD][0]).bit_length()) if 2**power <= len(banks[0][GOLD][0]))
    found = []
    for arm in (GOLD, *(arm for arm in banks[0] if arm != GOLD)):
        gold: list[list[float]] = []
        proxy: list[list[float]] = []
        right: list[float] = []
        for bank in banks:
            gold_PK, reward_PK = np.array(bank[GOLD], dtype=float), np.array(bank[arm], dtype=float)
            right += _agreements(gold_PK, reward_PK)
            for values_PK, into in ((gold_PK, gold), (reward_PK, proxy)):
                values_PK = values_PK - values_PK.mean(axis=1, keepdims=True)
                values_PK = values_PK / values_PK.std()
                into += [
                    [best_of(values, rewards, n) for n in ns]
                    for values, rewards in zip(values_PK, reward_PK, strict=True)
                ]
        found.append(Curve(arm, float(np.mean(right)), ns, np.array(gold), np.array(proxy).mean(axis=0)))
    return found


def _agreements(gold_PK: Values, reward_PK: Values) -> list[float]:
    difference, said = (np.diff(values, axis=1)[:, ::2] for values in (gold_PK, reward_PK))
    return [*((difference > 0) == (said > 0))[difference != 0].astype(float)]


def fit(ns: Sequence[int], gold_N: Values) -> tuple[float, float]:
    """alpha and beta of d (alpha - beta d), d = sqrt(KL), by least squares (section 3.2)."""
    d_N = np.sqrt([kl(n) for n in ns])
    (alpha, minus), *_ = np.linalg.lstsq(np.stack([d_N, d_N**2], axis=1), gold_N, rcond=None)
    return float(alpha), -float(minus)


def report(banks: Sequence[dict[str, Any]], *, resamples: int = 1000) -> str:
    """The arms' gold scores by n, and their fits with 95 % intervals (bootstrap over problems)."""
    rng = np.random.default_rng(0)
    lines: list[str] = []
    for curve in curves(banks):
        if not lines:
            lines.append(f"{'':>14}  right " + " ".join(f"{n:>5}" for n in curve.ns) + "   alpha, beta, KL of the peak")
            lines.append(f"{'KL (nats)':>14}        " + " ".join(f"{kl(n):5.2f}" for n in curve.ns))
        picks = rng.integers(len(curve.gold_PN), size=(resamples, len(curve.gold_PN)))
        mean_RN = curve.gold_PN[picks].mean(axis=1)
        gold_N = curve.gold_PN.mean(axis=0)
        alpha, beta = fit(curve.ns, gold_N)
        low, high = np.quantile([fit(curve.ns, row)[1] for row in mean_RN], [0.025, 0.975])
        best = int(gold_N.argmax())
        fall = np.quantile(mean_RN[:, best] - mean_RN[:, -1], [0.025, 0.975])
        lines.append(f"{curve.arm:>14} {100 * curve.accuracy:4.0f} % " + " ".join(f"{value:5.2f}" for value in gold_N))
        peak = f"{(alpha / 2 / beta) ** 2:.2f}" if alpha > 0 and beta > 0 else "none"
        lines[-1] += f"   {alpha:.2f}, {beta:.2f} [{low:.2f}, {high:.2f}], {peak}"
        lines.append(
            f"{'its own reward':>14}        " + " ".join(f"{value:5.2f}" for value in curve.proxy_N)
            + f"   best at n = {curve.ns[best]}, {gold_N[best] - gold_N[-1]:.2f} [{fall[0]:.2f}, {fall[1]:.2f}] lost"
        )  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
