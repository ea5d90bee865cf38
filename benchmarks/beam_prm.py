"""A 4 × 4 beam of 8 steps over 16 problems with a process reward model: is any token computed twice?

    python benchmarks/beam_prm.py --model tiny                     # tiny | smollm2-135m | both

All problems are searched at once and begin with the same instructions. Steps are of `STEP_TOKENS` tokens. Counted, for
the generator and for the scorer (an engine of its own with a scalar head), are the tokens run through the model against
the different tokens there are: the nodes of the tree of all prompts and paths. Beside them stands what it would cost to
read each path anew at every step.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import transformers
import tyro
from race import THREADS, Model, machine, unending, verdict

from forethought.engines.local import LocalEngine
from forethought.engines.usage import counting
from forethought.search.beam import beam
from forethought.thought.tokens import prompt_tokens
from forethought.types import Messages, Sampling, Step, Tree, user
from forethought.verify.heads import Head
from forethought.verify.scalar import process

PROBLEMS, WIDTH, BRANCH, STEPS, STEP_TOKENS = 16, 4, 4, 8, 12
GOAL = 1 / 1.05
"""Least share of the computed tokens that are different ones."""
INSTRUCTIONS = "Solve the problem below step by step, one step a line, and end with the answer.\n"


@dataclass(frozen=True)
class Config:
    """Tokens that a beam search with a process reward model computes, against those there are."""

    model: Literal["tiny", "smollm2-135m", "both"] = "both"
    """Which model."""
    quick: bool = False
    """Four problems of three steps: does it run?"""
    json: bool = False
    """Print one last line of JSON."""


class Stepping:
    """An engine whose steps end at their length, as a trained model's do at the end of a line."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self.name = engine.name

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        """A step of `STEP_TOKENS` tokens after which the thought goes on."""
        step = await self._engine.sample(messages, prefix, sampling)
        return replace(step, stop="stop")

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        """The engine's own."""
        return await self._engine.logprobs(messages, steps)


def main(config: Config) -> int:
    """Search, count, print; the exit status is 0 where at most one token in twenty was computed again."""
    about = machine(torch, transformers)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    names: tuple[Model, ...] = ("tiny", "smollm2-135m") if config.model == "both" else (config.model,)
    count, steps = (4, 3) if config.quick else (PROBLEMS, STEPS)
    figures = [figure for name in names for figure in measured(name, count, steps)]
    return verdict("beam_prm", figures, about, as_json=config.json)


def measured(name: Model, count: int, steps: int) -> list[dict[str, Any]]:
    """The generator's and the scorer's figures for one model."""
    model, tokenizer = unending(name)
    torch.set_num_threads(THREADS[name])
    generator = LocalEngine(model, tokenizer, name=name)
    scorer = LocalEngine(model, tokenizer, name=f"{name}-prm")
    weight = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0)) / 8
    judge = process(scorer, Head("process", tuple(weight.tolist())))
    questions = [user(f"{INSTRUCTIONS}{7 * number + 11} + {number} * {number + 3} = ?") for number in range(count)]

    async def search() -> list[Tree]:
        searches = (
            beam(
                question,
                Stepping(generator),
                verify=judge,
                sampling=Sampling(max_tokens=STEP_TOKENS, seed=number),
                n=WIDTH * BRANCH,
                branch=BRANCH,
                rounds=steps,
            )
            for number, question in enumerate(questions)
        )
        return list(await asyncio.gather(*searches))

    began = time.perf_counter()
    with counting() as usage:
        trees = asyncio.run(search())
    seconds = time.perf_counter() - began
    samples = sum(len(tree.nodes) - 1 for tree in trees)
    paths = [
        (*prompt_tokens(tokenizer, tree.messages), *(token for step in tree.steps(node) for token in step.tokens))
        for tree in trees
        for node in range(1, len(tree.nodes))
    ]
    anew = sum(map(len, paths))
    drawn = sum(len(node.step.tokens) for tree in trees for node in tree.nodes if node.step)
    different = distinct(paths)
    print(f"\n{name}: {count} problems, {samples:,} steps of {STEP_TOKENS} tokens, {seconds:.1f} s")
    print(f"{'':24}{'computed':>10}{'different':>10}{'times':>8}{'anew':>12}   times")
    # A sample's last token is drawn and not run; whoever goes on from it runs it.
    computed = {"generator": usage.prefilled + drawn - samples, "scorer": usage.scored}
    told = {"generator": anew - drawn, "scorer": anew}
    figures = []
    for who, tokens in computed.items():
        print(
            f"{who:24}{tokens:10,}{different:10,}{tokens / different:8.3f}{told[who]:12,}   {told[who] / different:.1f}"
        )
        about = {"computed": tokens, "different": different, "anew": told[who], "seconds": seconds}
        figures.append({"name": f"{name}/{who}", "ratio": different / tokens, "goal": GOAL, **about})
    return figures


def distinct(paths: Iterable[Sequence[int]]) -> int:
    """Nodes of the tree that all paths make together."""
    total, before = 0, tuple[int, ...]()
    for path in sorted(map(tuple, paths)):
        pairs = zip(before, path, strict=False)
        total += len(path) - next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(before), len(path)))
        before = path
    return total


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
