"""A critic of tampered chains: does force-sampled best-of-n trade precision for recall better than best-of-n?

    python -m forethought.labs.critic

The paper (arXiv 2407.00215, sections 2.1 and 3.3, figure 8): a critic that learned from inserted bugs finds them, and
natural ones less often; force-sampled best-of-n (FSBS: 28 critiques, a modifier that pays for highlights) moves along a
frontier of comprehensiveness against hallucinations. Arms, all with the same critic and reward model of a seed:

- `single`: one critique;
- `best of 28`: critiques drawn freely;
- `forced 28`: FSBS with n = 4, keep = 2, 4 rounds.

The pre-registered shape: in both searches recall rises and precision falls with the modifier; at equal recall `forced`
is the more precise; inserted errors are found more often than natural ones. `docs/labs.md` has what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from forethought.engines.open import open_engine
from forethought.labs.runs import check, finish, kept, taught
from forethought.problems import open_task
from forethought.recipes import critic, sft, verifier
from forethought.recipes.run import at_least
from forethought.recipes.student import Student
from forethought.scaling.measure import Estimate, estimate
from forethought.search.seeds import derive
from forethought.types import Sampling
from forethought.verify.critic import critiques
from forethought.verify.open import open_verifier

ARMS: dict[str, dict[str, int]] = {
    "single": {"n": 1, "rounds": 0},
    "best of 28": {"n": 28, "rounds": 0},
    "forced 28": {"n": 4, "keep": 2, "rounds": 4},
}
SETS = ("inserted", "natural", "clean")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """Seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A policy, a critic and a reward model for each of them."""
    problems: str = "chain:steps=3,modulus=3"
    """What the solutions solve."""
    solutions: int = 64
    """Solutions of each seed that are criticised; half are tampered, half the policy's own."""
    temperature: float = 1.3
    """Of the policy's own solutions, hot enough to err."""
    modifiers: tuple[float, ...] = (-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)
    """Rewards, in nats of preference, that one highlight is worth."""
    policy_steps: int = 200
    """Optimizer steps of the policy, on worked examples."""
    examples: int = 4000
    """Tampered solutions that the critic learns from."""
    critic_steps: int = 240
    """Its optimizer steps."""
    graded: int = 128
    """Solutions whose critiques, 8 of each, teach the reward model."""
    reward_steps: int = 80
    """Of the reward model of critiques."""
    out: str = "runs/critic"
    """Where the runs go; those that are there already are gone on with."""

    def __post_init__(self) -> None:
        at_least(self, 1, "solutions", "policy_steps", "examples", "critic_steps", "graded", "reward_steps")
        if not self.seeds or not self.modifiers:
            raise ValueError("seeds and modifiers must each name at least one")


def main(config: Config) -> Path:
    """Run what is missing of all seeds, and print the table.

    Raises ValueError, before anything is run, where a folder holds a run with other settings than this lab's.
    """
    check(run for seed in config.seeds for run in plan(config, seed))
    rows: list[dict[str, Any]] = []
    for seed in config.seeds:
        for run in plan(config, seed):
            finish(run)
        settings = {"solutions": config.solutions, "temperature": config.temperature}
        rows += kept(Path(config.out) / f"critiques-{seed}.json", settings, partial(criticised, config, seed))
    print(table(rows, config.modifiers))
    return Path(config.out)


def plan(config: Config, seed: int) -> tuple[sft.Config, critic.Config, verifier.Config]:
    """The runs of a seed, in order: the policy, the critic and the reward model of its critiques."""
    common: dict[str, Any] = {"problems": config.problems, "seed": seed, "dtype": "fp32"}
    policy = taught(config.out, seed, config.problems, config.policy_steps)
    told = critic.Config(
        **common, model=policy.out, asked="Errors?", examples=config.examples, drawn=config.examples // 6,
        steps=config.critic_steps, lr=3e-3, max_tokens=140, eval_problems=config.graded,
        eval_temperature=config.temperature, out=f"{config.out}/critic-{seed}",
    )  # fmt: skip
    reward = verifier.Config(
        **common, model=told.out, kind="bradley_terry", store=told.out, batch=8, steps=config.reward_steps, lr=5e-4,
        per_problem=4, eval_problems=config.graded // 8, out=f"{config.out}/reward-{seed}",
    )  # fmt: skip
    return policy, told, reward


def criticised(config: Config, seed: int) -> list[dict[str, Any]]:
    """Every arm's critiques of every solution of a seed: `set`, `errors` and, by arm, `pool` and `tokens`."""
    policy, told, reward = plan(config, seed)
    task = open_task(config.problems)
    half = config.solutions // 2
    # Problems of another seed than those whose critiques taught the reward model.
    other = replace(told, seed=derive(seed, "lab") or 0)
    fresh = critic.solutions(
        Student.load(policy.out, dtype="fp32"), task, other, config.solutions - half, half, "grade"
    )
    engine, rank = open_engine(told.out, dtype="fp32"), open_verifier(reward.out, dtype="fp32")

    async def one(at: int) -> dict[str, Any]:
        problem, steps = fresh[at]
        labels = critic.truth(problem, steps, task)
        errors = labels.count(0.0)
        arms = {}
        for arm, knobs in ARMS.items():
            sampling = Sampling(told.max_tokens, seed=derive(seed, "critiques", at, arm))
            search = critiques(engine, rank=rank, sampling=sampling, asked=told.asked, **knobs)
            pool, cost, _ = await search(problem.messages, steps)
            counted = [(each, *critic.counts(each.text, steps, labels)) for each in pool]
            rows = [(each.reward, len(each.found), hits, quotes) for each, hits, _, quotes in counted]
            arms[arm] = {"pool": rows, "tokens": cost}
        own = SETS[at >= config.solutions - half] if errors else "clean"
        return {"set": own, "errors": errors, "arms": arms}

    async def every() -> list[dict[str, Any]]:
        return await asyncio.gather(*map(one, range(len(fresh))))

    return asyncio.run(every())


def table(rows: Sequence[dict[str, Any]], modifiers: Sequence[float]) -> str:
    """Recall, precision and quotes by set, arm and modifier, each the mean over solutions with its 95 % interval; and
    what forcing is worth where both searches reach the same recall."""
    lines = [f"{'':>10}  {'solutions':>9} {'modifier':>8} {'recall':>18} {'precision':>18} {'quotes':>6} {'tokens':>6}"]
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        if not own:
            continue
        for arm in ARMS:
            tokens = np.mean([row["arms"][arm]["tokens"] for row in own])
            for modifier in modifiers if arm != "single" else (0.0,):
                recall_N, precision_N, quotes_N = scores(own, arm, modifier)
                lines.append(
                    f"{arm:>10}  {name:>9} {modifier:8.1f} {_said(recall_N)} {_said(precision_N)} "
                    f"{quotes_N.mean():6.2f} {tokens:6.0f}"
                )
        if name != "clean":
            gain, low, high = advantage(own, modifiers)
            lines.append(
                f"at equal recall forcing is more precise by {100 * gain:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            )
    return "\n".join(lines)


def scores(rows: Sequence[dict[str, Any]], arm: str, modifier: float) -> tuple[Values, Values, Values]:
    """Of the critique chosen for each of N solutions: the share of its errors that are located (not-a-number without
    an error), the share of quotes that locate one (not-a-number without a quote), and its quotes."""
    found = []
    for row in rows:
        _, _, hits, quotes = max(row["arms"][arm]["pool"], key=lambda one: one[0] + modifier * one[1])
        errors = row["errors"]
        found.append((hits / errors if errors else np.nan, hits / quotes if quotes else np.nan, quotes))
    recall_N, precision_N, quotes_N = np.array(found, dtype=float).T
    return recall_N, precision_N, quotes_N


def advantage(
    rows: Sequence[dict[str, Any]], modifiers: Sequence[float], *, resamples: int = 1000
) -> tuple[float, float, float]:
    """Precision of forced less that of plain best-of-28 at the same recall, mean over the recalls that both reach, with
    its 95 % interval (bootstrap over solutions); not-a-number where they reach none in common."""
    both = [[scores(rows, arm, modifier)[:2] for modifier in sorted(modifiers)] for arm in ("forced 28", "best of 28")]
    forced_M2N, plain_M2N = (np.array(arm) for arm in both)

    def gap(pick_N: NDArray[np.int64]) -> float:
        ends, curves = [], []
        for values_M2N in (forced_M2N, plain_M2N):
            told_M2N = values_M2N[:, :, pick_N]
            counts_M2 = (~np.isnan(told_M2N)).sum(axis=2)
            told_M2N = told_M2N[counts_M2.all(axis=1)]  # where nothing was quoted there is no precision
            if not len(told_M2N):
                return float("nan")
            recall_M, precision_M = np.nanmean(told_M2N, axis=2).T
            order = np.argsort(recall_M, kind="stable")
            curves.append((recall_M[order], precision_M[order]))
            ends.append((recall_M.min(), recall_M.max()))
        low, high = max(end[0] for end in ends), min(end[1] for end in ends)
        at = np.linspace(low, high, 21)
        forced, plain = (np.interp(at, *curve) for curve in curves)
        return float((forced - plain).mean()) if low <= high else float("nan")

    count = len(rows)
    rng = np.random.default_rng(0)
    drawn = [gap(rng.integers(count, size=count)) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if not np.isnan(drawn).all() else (np.nan, np.nan)
    return gap(np.arange(count)), float(low), float(high)


def _said(values_N: Values) -> str:
    """A mean in per cent with its interval; a dash where no solution has a value."""
    if np.isnan(values_N).all():
        return f"{'-':>18}"
    told: Estimate = estimate(values_N)
    return f"{100 * told.value:5.1f} [{100 * told.low:4.1f}, {100 * told.high:5.1f}]"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
