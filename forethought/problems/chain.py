"""Chains of modular arithmetic: k steps, each using the one before.

Mod 7: a=3, b=a*4, c=b+5. c=?
b=3*4=12=5
c=5+5=10=3

Everything is meant modulo m, so there is no question of which operator binds first; a step's line gives the plain
result and then its remainder.
"""

from __future__ import annotations

import random
from functools import partial
from string import ascii_lowercase

from forethought.problems.generate import Draft, Option, by_lines, whole
from forethought.problems.task import Task
from forethought.types import Problem

OPTIONS: dict[str, Option] = {"steps": whole(1, len(ascii_lowercase) - 1), "modulus": whole(3, 1000)}


def task(spec: str, *, steps: int = 3, modulus: int = 7) -> Task:
    """`steps` operations (+, - or * with a number below `modulus`); `meta` has steps, modulus, start and moves."""
    return by_lines(spec, partial(_draw, steps=steps, modulus=modulus), _lines)


def _apply(value: int, move: str) -> int:
    number = int(move[1:])
    return {"+": value + number, "-": value - number, "*": value * number}[move[0]]


def _lines(problem: Problem) -> list[str]:
    value, modulus = problem.meta["start"], problem.meta["modulus"]
    lines = []
    for name, move in zip(ascii_lowercase[1:], problem.meta["moves"], strict=False):
        result = _apply(value, move)
        lines.append(f"{name}={value}{move}={result}={result % modulus}")
        value = result % modulus
    return lines


def _draw(rng: random.Random, *, steps: int, modulus: int) -> Draft:
    start = rng.randrange(modulus)
    moves = []
    for _ in range(steps):
        operator = rng.choice("+-*")
        moves.append(f"{operator}{rng.randrange(2 if operator == '*' else 1, modulus)}")
    value = start
    for move in moves:
        value = _apply(value, move) % modulus
    links = [
        f"{name}={before}{move}"
        for before, name, move in zip(ascii_lowercase, ascii_lowercase[1:], moves, strict=False)
    ]
    question = f"Mod {modulus}: {', '.join([f'a={start}', *links])}. {ascii_lowercase[steps]}=?"
    meta = {"level": steps, "steps": steps, "modulus": modulus, "start": start, "moves": moves}
    return Draft(question, question, str(value), meta)
