"""Does a judge keep to a rubric's rules? Its yes and no against rules whose truth a program knows.

    python -m forethought.labs.rubric_agreement --model smollm2-135m

The rules are those of `problems.instructions` ("Use no commas.", "Write exactly 3 lines."), half of them with an
exception that is such a rule too ("... counts as kept, where: Begin with the word 'river'"). Texts are worked
examples, which follow the rules of their own problem and keep or break another's as it happens; of each kind of rule as
many are taken that keep it as break it. The judge is shown a topic, a text and a rule through `verify.rubric`: not the
truth, nor which problem the text was written for. `docs/labs.md` has what came of it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from forethought.engines.open import open_engine
from forethought.labs.runs import kept
from forethought.problems.instructions import CHECKS, task, words
from forethought.scaling.agreement import Agreement, agreement
from forethought.types import Engine, Step, user
from forethought.verify.rubric import explicit, rule

UNLESS = ("at least", "at most", "starts", "lines")
"""Rules that an exception may be."""


@dataclass(frozen=True)
class Config:
    """The judge and the size of the set."""

    model: str = "smollm2-135m"
    """Who judges: as `--model` has it everywhere."""
    items: int = 16
    """Of each kind of rule, half of them kept; a kind with fewer gives what it has."""
    concurrency: int = 8
    """Questions at a time."""
    seed: int = 0
    """Of the texts and rules."""
    out: str = "runs/rubric-agreement"
    """Where the verdicts go; they are asked for once."""


@dataclass(frozen=True, slots=True)
class Item:
    """A text and a rule, and whether the text keeps it."""

    topic: str
    text: str
    kind: str
    rule: str
    unless: str
    """An exception in words, or nothing."""
    kept: bool


def main(config: Config) -> list[str]:
    """Ask for what was not asked for yet, print the table and return its lines.

    Raises ValueError where the folder has the verdicts of other settings.
    """
    items = made(config.items, config.seed)
    print(f"{len(items)} questions to {config.model} -> {config.out}")
    settings = {"model": config.model, "items": config.items, "seed": config.seed}
    path = Path(config.out) / "judged.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = kept(path, settings, lambda: asyncio.run(judged(items, open_engine(config.model), config.concurrency)))
    lines = table(items, scores)
    print("\n".join(lines))
    return lines


def made(count: int, seed: int) -> list[Item]:
    """`count` of each kind of rule, half of them kept, in an order that tells nothing; no kind without both halves."""
    rng = random.Random(f"rubric-agreement/{seed}")
    source = task("instructions:checks=1-3", checks=range(1, 4))
    assert source.worked is not None
    problems = source.load("test", count=60 * count, seed=seed)
    texts = [(problem.messages[0]["content"].partition(".")[0], source.worked(problem)) for problem in problems]
    told = [(own, kind, value) for own, problem in enumerate(problems) for kind, value in json.loads(problem.answer)]
    exceptions = [(kind, value) for _, kind, value in told if kind in UNLESS]
    found: defaultdict[tuple[str, bool], list[Item]] = defaultdict(list)
    for own, kind, value in told:
        # The text that was written for this rule, or any other: whether it keeps it, the program says.
        topic, text = rng.choice((texts[own], rng.choice(texts)))
        unless = rng.choice(exceptions) if rng.random() < 0.5 else None
        follows = _follows(text, kind, value) or (unless is not None and _follows(text, *unless))
        exception = CHECKS[unless[0]][0](unless[1]) if unless else ""
        found[kind, follows].append(Item(topic, text, kind, CHECKS[kind][0](value), exception, follows))
    items = []
    for kind in CHECKS:
        half = min(count // 2, len(found[kind, True]), len(found[kind, False]))
        items += found[kind, True][:half] + found[kind, False][:half]
    rng.shuffle(items)
    return items


async def judged(items: Sequence[Item], engine: Engine, concurrency: int) -> list[float | None]:
    """The judge's p(Yes) of each, `None` where it could not be read."""
    slots = asyncio.Semaphore(concurrency)
    bar = tqdm(total=len(items), desc="judge", unit="question")

    async def one(item: Item) -> float | None:
        criterion = rule(item.rule, [item.unless] if item.unless else ())
        async with slots:
            verdict = await explicit(engine, [criterion])(user(f"{item.topic}."), (Step(item.text),))
        bar.update()
        return verdict.score

    with bar:
        return list(await asyncio.gather(*map(one, items)))


def table(items: Sequence[Item], scores: Sequence[float | None]) -> list[str]:
    """A line for all, for rules with and without an exception, and for each kind."""
    groups: dict[str, list[int]] = {"all": list(range(len(items)))}
    groups["without exceptions"] = [at for at, item in enumerate(items) if not item.unless]
    groups["with an exception"] = [at for at, item in enumerate(items) if item.unless]
    for kind in CHECKS:
        groups[kind] = [at for at, item in enumerate(items) if item.kind == kind]
    lines = [
        f"{'rules':>20} {'items':>6} {'accuracy':>9} {'kappa':>21} {'AUC':>5}  kept: yes/no  broken: yes/no  unread"
    ]
    for name, places in groups.items():
        if places:
            found = agreement([scores[at] for at in places], [items[at].kept for at in places])
            lines.append(f"{name:>20} {len(places):>6} {_row(found)}")
    return lines


def _row(found: Agreement) -> str:
    of, kappa = found.confusion, found.kappa
    interval = f"{kappa.value:+.2f} [{kappa.low:+.2f}, {kappa.high:+.2f}]"
    kept_, broken = f"{of.true_yes}/{of.false_no}", f"{of.false_yes}/{of.true_no}"
    return f"{of.accuracy:>9.0%} {interval:>21} {found.auc:>5.2f}  {kept_:>12}  {broken:>14}  {found.unjudged:>6}"


def _follows(text: str, kind: str, value: object) -> bool:
    return bool(words(text)) and CHECKS[kind][1](text.strip(), value)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
