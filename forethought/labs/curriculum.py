"""Curriculum by measured success: is it worth its name at an equal budget of tokens?

    python -m forethought.labs.curriculum

A small policy has seen chains of 1 to 8 steps, and fails the more often the longer they are. GRPO goes on from it in
three arms, which end with the step that passes the same number of tokens (sampled, of prompts, and learned from):

- `weights`: every length as often as any other;
- `bounds`: four fifths of the problems of lengths that it solves in 20 to 90 % of its newest thoughts
  (a guess is right in 14 %);
- `learnability`: four fifths in proportion to the variance p (1 - p) of their reward.

What is pre-registered: on all lengths together both are above `weights`, in every seed; in them fewer groups are dead.
`docs/labs.md` has what came of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import tyro

from forethought.labs.runs import check, finish, taught
from forethought.recipes import grpo
from forethought.recipes.run import Settings
from forethought.scaling.measure import Pool, estimate, gain, pass_at
from forethought.scaling.stages import load_report
from forethought.scaling.words import percent
from forethought.train.metrics import read

ARMS = {"weights": "", "bounds": "0.2-0.9", "learnability": "learnability"}
"""What each arm draws its problems by."""
MAX_TOKENS = 140
"""Of a thought; one of 8 steps has 110."""


@dataclass(frozen=True)
class Config:
    """Seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1)
    """One policy, and one run of each arm from it, for each of them."""
    cold_steps: int = 500
    """Of the policy's worked examples, in batches of 32."""
    tokens: int = 1_000_000
    """What each arm may spend."""
    lr: float = 1e-4
    """Of each arm."""
    problems: int = 400
    """Held-out ones, of all lengths alike, the same for all arms of a seed."""
    out: str = "runs/curriculum"
    """Where the runs go; those that are there already are gone on with."""


def main(config: Config) -> list[str]:
    """Run what is missing, print the table and return its lines.

    Raises ValueError, before anything is run, where a folder holds a run with other settings than this lab's.
    """
    runs = {(arm, seed): plan(config, arm, seed) for seed in config.seeds for arm in ARMS}
    check([*(policy(config, seed) for seed in config.seeds), *runs.values()])
    for seed in config.seeds:
        finish(policy(config, seed))
    lines = table({name: finish(run) for name, run in runs.items()})
    print("\n".join(lines))
    return lines


def policy(config: Config, seed: int) -> Settings:
    """The run that teaches a policy: examples of every length alike, and too few of them."""
    return taught(config.out, seed, "mix:chain:steps=1..8", config.cold_steps)


def plan(config: Config, arm: str, seed: int) -> grpo.Config:
    """The run of an arm."""
    return grpo.Config(
        model=policy(config, seed).out, problems="mix:chain:steps=1..8", curriculum=ARMS[arm], tokens=config.tokens,
        method="dr-grpo", steps=100_000, prompts=16, group=8, lr=config.lr, warmup=2, max_tokens=MAX_TOKENS,
        eval_problems=config.problems, eval_samples=4, save_every=20, dtype="fp32", seed=seed,
        out=f"{config.out}/{arm}-{seed}",
    )  # fmt: skip


def table(runs: Mapping[tuple[str, int], Path]) -> list[str]:
    """A line for each run: before and after, the gain over the arm without a curriculum, and how it was spent; and
    below it the accuracy at each length."""
    lines = [f"{'arm':>12} {'seed':>4} {'before':>19} {'after':>19} {'over weights':>21} {'steps':>6} {'dead':>6}"]
    below = []
    for (arm, seed), run in runs.items():
        before, after = (stage.pools for stage in load_report(run).stages)
        plain = load_report(runs["weights", seed]).stages[1].pools
        more = gain(plain, after, partial(pass_at, k=1))
        over = f"{100 * more.value:+.1f} [{100 * more.low:+.1f}, {100 * more.high:+.1f}]" if arm != "weights" else ""
        rows = read(run)
        dead = fmean(row["dead"] for row in rows)
        shown = (percent(estimate(pass_at(pools, 1))) for pools in (before, after))
        numbers = " ".join(f"{each:>19}" for each in shown)
        lines.append(f"{arm:>12} {seed:>4} {numbers} {over:>21} {len(rows):>6} {dead:>6.0%}")
        for name, pools in (("before", before), ("after", after)):
            if name == "after" or arm == "weights":
                each = "  ".join(f"{length}: {100 * right:3.0f}" for length, right in _by_length(pools).items())
                below.append(f"{arm:>12} {seed:>4} {name:>6}  {each}")
    return [*lines, "", *below]


def _by_length(pools: Sequence[Pool]) -> dict[int, float]:
    found: defaultdict[int, list[Pool]] = defaultdict(list)
    for pool in pools:
        found[int(pool.level or 0)].append(pool)
    return {length: float(pass_at(found[length], 1).mean()) for length in sorted(found)}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
