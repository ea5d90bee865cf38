"""A calculator inside the thought: what is a call worth where the arithmetic is too much for the model?

    python -m forethought.labs.tools

Two arms begin as the same fresh model and learn from as many tokens of worked examples (prompts, and what the tool
gives, included): products of two numbers of three digits, a partial product and a sum a line, or by one call of the
calculator (`problems.products`). Both are then asked the same held-out problems by majority vote under the same budgets
of drawn tokens. What is pre-registered: the arm with the tool is above the other at every budget, in every seed; its
thoughts are shorter as well, so that a budget buys it more votes. `docs/labs.md` has what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro

from forethought.engines.local.tiny import build_tokenizer
from forethought.engines.open import open_engine
from forethought.labs.runs import check, finish, kept, taught
from forethought.problems import Task, open_task
from forethought.problems.tools import open_tools
from forethought.recipes import sft
from forethought.scaling.sweep import swept
from forethought.search import SEARCHES
from forethought.train.data import supervised
from forethought.types import Sampling

ARMS = {"lines": "", "calculator": "calculator"}
"""How the worked examples are worked, and what a thought may call."""
MAX_TOKENS = 160
"""Of a thought; one by lines has about 100, one with a call 36."""
VOTES = 16
"""Most thoughts that vote on an answer; the budgets end it earlier."""


@dataclass(frozen=True)
class Config:
    """Seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each arm for each of them."""
    digits: str = "3"
    """Length of the numbers."""
    tokens: int = 945_000
    """What each arm learns from, in batches of 32 examples."""
    budgets: tuple[int, ...] = (128, 512)
    """Tokens drawn for one answer, at most."""
    problems: int = 200
    """Held-out ones, the same for both arms."""
    out: str = "runs/tools"
    """Where the runs go; those that are there already are gone on with."""


def main(config: Config) -> list[str]:
    """Run what is missing, measure what is not measured, print the table and return its lines.

    Raises ValueError, before anything is run, where a folder holds a run with other settings than this lab's.
    """
    runs = {(arm, seed): plan(config, arm, seed) for seed in config.seeds for arm in ARMS}
    check(runs.values())
    found = {}
    for (arm, seed), run in runs.items():
        finish(run)
        settings = {"problems": config.problems, "budgets": config.budgets, "digits": config.digits}
        path = Path(run.out) / "measured.json"
        found[arm, seed] = kept(path, settings, partial(measured, config, arm, seed, run))
    lines = table(config, found)
    print("\n".join(lines))
    return lines


def plan(config: Config, arm: str, seed: int) -> sft.Config:
    """The run that teaches an arm from `config.tokens` tokens."""
    task = _task(config, arm)
    assert task.worked is not None
    examples = [(problem.messages, task.worked(problem)) for problem in task.load("train", count=200, seed=seed)]
    price = fmean(len(datum.tokens) for datum in supervised(examples, build_tokenizer()))
    return taught(f"{config.out}/{arm}", seed, task.name, max(1, round(config.tokens / price / 32)))


def measured(config: Config, arm: str, seed: int, run: sft.Config) -> list[dict[str, Any]]:
    """For each budget: the share of right answers, the tokens an answer cost, and the calls in its thought."""
    task = _task(config, "lines")
    problems = task.load("test", count=config.problems, seed=seed)
    engine = open_engine(run.out, dtype="fp32")
    search = partial(SEARCHES["majority"], n=VOTES, at_once=1, tools=open_tools(ARMS[arm]))

    async def at(budget: int) -> dict[str, Any]:
        answers = swept(
            problems, engine, search, strategy=arm, budget=budget, seed=seed, grade=task.grade, verify=None,
            sampling=Sampling(MAX_TOKENS, seed=seed), concurrency=config.problems,
        )  # fmt: skip
        async with aclosing(answers) as stream:
            rows = [(record, trace) async for record, trace in stream]
        return {
            "budget": budget,
            "right": fmean(bool(record.right) for record, _ in rows),
            "tokens": fmean(record.tokens for record, _ in rows),
            "calls": fmean(sum(step.action == "tool" for step in trace.steps) for _, trace in rows),
        }

    return [asyncio.run(at(budget)) for budget in config.budgets]


def table(config: Config, found: Mapping[tuple[str, int], Sequence[dict[str, Any]]]) -> list[str]:
    """A line for each arm and budget: the seeds' mean and each of them."""
    lines = [f"{'arm':>12} {'budget':>7} {'right, %':>9}  {'of each seed':<18} {'tokens':>7} {'calls':>6}"]
    for arm in ARMS:
        for place, budget in enumerate(config.budgets):
            rows = [found[arm, seed][place] for seed in config.seeds]
            each = " ".join(f"{100 * row['right']:5.1f}" for row in rows)
            right, tokens, calls = (fmean(row[name] for row in rows) for name in ("right", "tokens", "calls"))
            lines.append(f"{arm:>12} {budget:>7} {100 * right:>9.1f}  {each:<18} {tokens:>7.0f} {calls:>6.2f}")
    return lines


def _task(config: Config, arm: str) -> Task:
    return open_task(f"products:digits={config.digits},by={arm}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
