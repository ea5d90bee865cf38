"""STaR on addition: are lengths learned one after the other without rationalisation, and together with it?

    python -m forethought.labs.star_addition

The paper (arXiv 2203.14465, section 4.1 and figure 4): without rationalisation n digits begin to move only when n - 1
work; with it many lengths rise at once; after 16 iterations 89.5 % on 1 to 5 digits against 76.3 % for a model that was
trained on 10,000 direct answers. Arms, each from the same base for a seed:

- `direct`: answers without thoughts, 10,000 of them, on a fresh model of the same shape;
- `star`: thoughts that were right;
- `rationalised`: and those that became right with the answer in sight.

The pre-registered shape: in `star` the lengths cross 50 % in order; in `rationalised` 4 digits cross it earlier than in
`star`; both end above `direct`. `docs/LOG.md` has the curves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from forethought.labs.runs import check, finish
from forethought.recipes import sft, star
from forethought.scaling.measure import pass_at
from forethought.scaling.stages import Stage, load_report
from forethought.train.metrics import read

ARMS = ("direct", "star", "rationalised")


@dataclass(frozen=True)
class Config:
    """Arms, seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each arm for each of them."""
    iterations: int = 8
    """Of the two STaR arms."""
    digits: str = "1-5"
    """Lengths of the numbers."""
    direct_examples: int = 10_000
    """Answers that the direct arm imitates."""
    direct_steps: int = 1200
    """Its optimizer steps, of 32 answers each."""
    out: str = "runs/star-addition"
    """Where the runs go; those that are there already are gone on with."""


def main(config: Config) -> Path:
    """Run what is missing of all arms and seeds, and print the tables.

    Raises ValueError, before anything is run, where a folder holds a run with other settings than this lab's.
    """
    runs = plan(config)
    check(runs)
    for run in runs:
        finish(run)
    for arm in ARMS:
        for seed in config.seeds:
            print(table(Path(config.out) / f"{arm}-{seed}"))
    return Path(config.out)


def plan(config: Config) -> list[star.Config | sft.Config]:
    """The runs of the lab, in order: for each seed the base, the two arms that begin from it, and the direct one."""
    runs: list[star.Config | sft.Config] = []
    for seed in config.seeds:
        base, taught, rationalised, direct = (f"{config.out}/{arm}-{seed}" for arm in ("base", *ARMS[1:], ARMS[0]))
        common = star.Config(problems=f"addition:digits={config.digits}", seed=seed)
        arm = replace(common, model=f"{base}/base", cold_steps=0, iterations=config.iterations)
        runs += [
            replace(common, iterations=0, out=base),
            replace(arm, out=taught),
            replace(arm, rationalise=True, out=rationalised),
            sft.Config(
                problems=common.problems,
                examples=config.direct_examples,
                direct=True,
                batch=32,
                steps=config.direct_steps,
                lr=common.cold_lr,
                warmup=common.warmup,
                layers=common.layers,
                width=common.width,
                seed=seed,
                eval_problems=common.eval_problems,
                eval_samples=1,
                eval_temperature=0.0,
                max_tokens=20,
                out=direct,
            ),
        ]
    return runs


def table(run: Path) -> str:
    """Accuracy in per cent: a row for each length, a column for each stage; and the stage where it crosses 50 %."""
    stages = load_report(run).stages
    levels = sorted({pool.level or "" for stage in stages for pool in stage.pools})
    lines = [f"{run.name:>14} " + " ".join(f"{index:>4}" for index in range(len(stages)))]
    for level in [*levels, "all"]:
        curve = [_accuracy(stage, level) for stage in stages]
        crossing = next((str(index) for index, value in enumerate(curve) if value >= 0.5), "never")
        name = f"{level} digits" if level != "all" else "all"
        lines.append(f"{name:>14} " + " ".join(f"{100 * value:4.0f}" for value in curve) + f"   50 % at {crossing}")
    rows = read(run)
    for name in ("sound_thoughts", "sound_rationales"):
        share = [f"{100 * row[name]:4.0f}" if name in row else "   -" for row in rows]
        if any(name in row for row in rows):
            lines.append(f"{name:>16}    " + " ".join(share) + "   % of the right ones have only right lines")
    return "\n".join(lines)


def _accuracy(stage: Stage, level: str) -> float:
    pools = [pool for pool in stage.pools if level in (pool.level, "all")]
    return float(pass_at(pools, 1).mean())


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
