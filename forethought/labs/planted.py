"""A policy of known errors and a judge of known noise, for chains of modular arithmetic: what a search is worth where
nothing else is in doubt.

The policy writes a chain's lines as a model would that knows some facts and not others: how surely it knows `3*4` is
the fact's own, and half of its errors there are always the same one. The judge sees each line's truth through noise.
"""

from __future__ import annotations

import random
import re
from string import ascii_lowercase

from forethought.thought.marks import BOXED, CLOSE, OPEN
from forethought.types import Messages, Sampling, Step, Verdict
from forethought.verify.verdict import Verify, sigmoid

SURE = 0.55
"""The least chance that the policy knows a fact; the mean over facts is 0.83."""
LOGIT = 1.5
"""What the judge says of a right line, and minus this of a wrong one, before its noise."""

_START, _MOVE = re.compile(r"a=(\d+)"), re.compile(r"=[a-z]([-+*]\d+)")


def moves_of(messages: Messages) -> tuple[int, int, list[str]]:
    """(modulus, first value, moves) of a question of the task `chain`."""
    asked = messages[-1]["content"]
    start, modulus = _START.search(asked), re.search(r"Mod (\d+)", asked)
    if start is None or modulus is None:
        raise ValueError(f"{asked!r} is no chain; the planted policy knows nothing else")
    return int(modulus[1]), int(start[1]), _MOVE.findall(asked)


def result(value: int, move: str) -> int:
    """What a move makes of a value, before the modulus."""
    number = int(move[1:])
    return {"+": value + number, "-": value - number, "*": value * number}[move[0]]


def values_of(said: str) -> list[int]:
    """What each line that was written so far came to."""
    return [int(line.rpartition("=")[2]) for line in said.split("\n")[1:] if "=" in line]


def policy(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
    """The rest of a thought, as a script of `engines.scripted` that draws by its seed."""
    modulus, start, moves = moves_of(messages)
    said, rng = "".join(step.text for step in prefix), random.Random(f"{sampling.seed}")
    found = [start, *values_of(said)]
    text = "" if said else f"{OPEN}\n"
    for place in range(len(found) - 1, len(moves)):
        value, move = found[-1], moves[place]
        truth = result(value, move)
        fact = random.Random(f"{value}{move}")
        known, usual = fact.uniform(SURE, 1.15), fact.randrange(1, modulus)
        slip = 0 if rng.random() < known else usual if rng.random() < 0.5 else rng.randrange(1, modulus)
        found.append((truth + slip) % modulus)
        text += f"{ascii_lowercase[place + 1]}={value}{move}={truth + slip}={found[-1]}\n"
    return text + ("" if CLOSE in said else f"{CLOSE}\n") + f"{BOXED}{found[-1]}}}"


def judge(noise: float, price: int | None = None) -> Verify:
    """A process judge: the product over lines of sigmoid(+-`LOGIT` + a normal of deviation `noise`, fixed by the path).

    A verdict costs `price` tokens; `None`: those of the last step, as of a judge that reads each token once.
    """

    async def verify(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        modulus, value, moves = moves_of(messages)
        score, path = 1.0, ""
        found = values_of("".join(step.text for step in steps))
        for move, said in zip(moves, found, strict=False):
            right, path = said == result(value, move) % modulus, f"{path},{said}"
            drawn = random.Random(f"{messages[-1]['content']}{path}").gauss(0.0, noise)
            score, value = score * sigmoid((LOGIT if right else -LOGIT) + drawn), said
        return Verdict(score, cost=len(steps[-1].tokens) if price is None else price)

    return verify
