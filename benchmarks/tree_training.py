"""Tree training: one pass over a search tree, every shared token once, against its paths one by one.

    python benchmarks/tree_training.py --json

The tree is as MCTS leaves it: 64 leaves, 12 levels of steps. Both sides are the same learner on the same weights.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
import tyro
from race import PROMPT, THREADS, Race, by_turns, header, machine, row, unending, verdict

from forethought.train.learner import Learner
from forethought.train.losses import policy_gradient
from forethought.types import Datum

LEAVES, LEVELS = 64, 12
STEP = (4, 16)
"""Fewest and most tokens of a step."""
TOLERANCE = 1e-5
"""Largest difference of a gradient, as a share of its parameter's largest."""


@dataclass(frozen=True)
class Config:
    """Tokens computed, gradients and time of training on a tree, against its paths one by one."""

    quick: bool = False
    """One round: does it run? The time means little."""
    json: bool = False
    """Print one last line of JSON."""


def paths(vocabulary: int, seed: int = 0) -> list[Datum]:
    """The tree's root-to-leaf paths: every leaf at the last level, branches spread evenly over the levels; an advantage
    for each path."""
    draw = random.Random(seed)

    def step(size: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocabulary) for _ in range(size))

    level = [step(PROMPT)]
    for depth in range(LEVELS):
        # Leaves grow geometrically with depth, so that branches are spread over all levels.
        wanted = round(LEAVES ** ((depth + 1) / LEVELS))
        parents = level + draw.choices(level, k=wanted - len(level))
        level = [parent + step(draw.randint(*STEP)) for parent in parents]
    data = []
    for tokens in level:
        mask = tuple(place >= PROMPT for place in range(len(tokens)))
        advantage = draw.uniform(-1, 1)
        data.append(Datum(tokens, mask, tuple(advantage if target else 0.0 for target in mask)))
    return data


def furthest(left: Learner, right: Learner) -> float:
    """The largest difference of a gradient, as a share of the largest in its parameter."""
    worst = 0.0
    for one, other in zip(left.parameters, right.parameters, strict=True):
        if one.grad is None or other.grad is None:
            raise RuntimeError("a parameter has no gradient; the step was not taken")
        worst = max(worst, ((one.grad - other.grad).abs().max() / other.grad.abs().max()).item())
    return worst


def count(name: str, ours: float, theirs: float, ratio: float, goal: float, unit: str) -> dict[str, Any]:
    """A figure that is counted, not timed, as a row of the table."""
    figures = {"unit": unit, "ours": ours, "theirs": theirs, "against": "path by path", "ratio": ratio}
    return {"name": name, **figures, "goal": goal, "range": [ratio, ratio], "rounds": 1}


def measure(data: Sequence[Datum], quick: bool) -> list[dict[str, Any]]:
    """The three figures: tokens, gradients, time."""
    model, _ = unending("tiny")
    torch.set_num_threads(THREADS["tiny"])
    longest = max(len(datum.tokens) for datum in data)
    # No clipping: it would hide a gradient that is wrong by a factor.
    settings: dict[str, Any] = {"lr": 1e-5, "grad_clip": None}
    tree = Learner(copy.deepcopy(model), max_tokens=1 << 20, **settings)
    single = Learner(copy.deepcopy(model), max_tokens=longest, share=False, **settings)
    beside = Learner(model, share=False, **settings)  # many paths in one pack, nothing shared
    step = partial(Learner.step, data=data, loss=partial(policy_gradient, tis=None), normaliser="sequences")
    computed, naive = (int(step(learner)["computed"]) for learner in (tree, single))
    worst = furthest(tree, single)
    theirs = {"path by path": partial(step, single), "paths side by side": partial(step, beside)}
    mine, others = by_turns(partial(step, tree), theirs, rounds=1 if quick else 6)
    time = Race("time", "steps/s", 1, 1.0, mine, others)
    print(header(f"tiny, float32: {LEAVES} leaves, {LEVELS} levels, paths of up to {longest} tokens"))
    return [
        count("tokens computed", computed, naive, naive / computed, 4.0, "tokens"),
        count("gradients", worst, TOLERANCE, TOLERANCE / worst, 1.0, "relative difference and its bound"),
        time.figures(),
    ]


def main(config: Config) -> int:
    """Measure, print, and say by the exit status whether the goals were reached."""
    transformers.logging.set_verbosity_error()
    about = machine(torch, transformers)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    races = measure(paths(100), config.quick)
    print("\n".join(map(row, races)))
    return verdict("tree_training", races, about, as_json=config.json)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
