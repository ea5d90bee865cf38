"""Particle filtering: a population of thoughts, resampled as a verifier weighs them (arXiv 2502.01618)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Unpack

from forethought.search.budget import UNLIMITED
from forethought.search.seeds import derive
from forethought.search.work import PLAIN, Options, Work, together
from forethought.thought.marks import STEP
from forethought.types import Budget, Engine, Messages, Sampling, Tree
from forethought.verify.verdict import Verify

EDGE = 1e-7
"""Scores are kept this far from 0 and 1, so that their odds are finite."""


async def particle(
    messages: Messages,
    engine: Engine,
    *,
    budget: Budget = UNLIMITED,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    n: int = 8,
    temperature: float = 1.0,
    gate: float = 0.5,
    rounds: int = 40,
    **options: Unpack[Options],
) -> Tree:
    """n thoughts grow by one step a round, then are drawn anew by weight: the odds of their scores, to the power of
    1 / `temperature`, made to sum to 1.

    They are drawn anew only where the effective number of them (1 / the sum of squared weights) is below `gate` * n:
    0 never, 1 always but at equal weights. A finished thought stays in the population as it is, with its last score,
    and draws no more tokens. A score of `None` leaves a thought the odds it had; a limit or a fault gives it weight 0.

    Raises ValueError where a score is not in [0, 1].
    """
    if n < 1 or rounds < 1:
        raise ValueError(f"n is {n} and rounds {rounds}; both are at least 1")
    if not (temperature > 0 and 0 <= gate <= 1):
        raise ValueError(f"temperature is {temperature} and gate {gate}; they are above 0, and from 0 to 1")
    if verify is None:
        raise ValueError("particles are weighed by a verifier's scores, and verify is None; take best_of_n without one")
    work = Work(messages, engine, budget, verify, sampling, mark=STEP, **options)

    async def filtered() -> None:
        particles, odds = [0] * n, [0.0] * n  # a node each, and its score's log-odds
        for t in range(rounds):
            moving = [i for i in range(n) if particles[i] == 0 or work.open(particles[i])]
            grown = await together(work.grow(particles[i]) for i in moving)
            for i, node in zip(moving, grown, strict=True):
                if node is None or not work.alive(node):
                    odds[i] = -math.inf
                elif (score := work.tree.places[node].value) is not None:
                    odds[i] = log_odds(score)
                particles[i] = particles[i] if node is None else node
            if work.ask() or all(node is None for node in grown) or max(odds) == -math.inf:
                return
            weights = softmax([each / temperature for each in odds])
            if 1 / math.fsum(weight * weight for weight in weights) < gate * n:
                offset = random.Random(derive(sampling.seed, "resample", t)).random()
                drawn = systematic(weights, offset)
                particles, odds = [particles[i] for i in drawn], [odds[i] for i in drawn]

    return await work.finish(filtered())


def log_odds(score: float) -> float:
    """ln(score / (1 - score)) of a score in [0, 1], the ends drawn in a little; elsewhere a `ValueError`."""
    if not 0 <= score <= 1:
        raise ValueError(f"a particle's weight is the odds of its score, and the score is {score}; map it into [0, 1]")
    score = min(max(score, EDGE), 1 - EDGE)
    return math.log(score / (1 - score))


def softmax(logits: Sequence[float]) -> list[float]:
    """Weights that sum to 1; minus infinity has none. At least one logit is finite."""
    most = max(logits)
    powers = [math.exp(logit - most) for logit in logits]
    return [power / math.fsum(powers) for power in powers]


def systematic(weights: Sequence[float], offset: float) -> list[int]:
    """n indices drawn by weight with one random number in [0, 1): i comes n * weights[i] times, rounded up or down."""
    n, drawn = len(weights), list[int]()
    for i, reach in enumerate(accumulate(weights)):
        while len(drawn) < n and (len(drawn) + offset) / n < reach:
            drawn.append(i)
    heaviest = max(range(n), key=weights.__getitem__)
    return drawn + [heaviest] * (n - len(drawn))  # where rounding left the sum below 1
