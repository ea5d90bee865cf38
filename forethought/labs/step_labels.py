"""Step labels: what a process reward model buys, what Monte-Carlo labels are worth, what finding a first error costs.

    python -m forethought.labs.step_labels

Three claims, on chains of modular arithmetic, where a program knows which steps are right. All arms of a seed share one
policy, one set of thoughts to learn from, and one bank of thoughts to choose among.

- Let's Verify Step by Step (arXiv 2305.20050, figure 3): of 1,860 thoughts on MATH the process reward model chooses
  78.2 % right, the outcome reward model 72.4, the vote 69.6, and the gap grows with n. Shape: at the largest n process
  above outcome above vote, each paired difference clear of 0; product and minimum above last.
- Math-Shepherd (arXiv 2312.08935, section 5.3): hard labels are 86 % accurate at N = 4 and no better beyond, for the
  strong completer. Shape: the false negatives of hard labels fall with N and their false positives rise, as the mean
  over places of (1 - p)^N and 1 - (1 - q)^N; their accuracy has its peak at a small N, soft labels' has none.
- OmegaPRM (arXiv 2406.06592, section 3.2): the first error of M steps in O(k log M) continuations, not O(k M). Shape:
  of the two fits a + b log2 M is the better one for the binary search, a + b M for the linear one.

`docs/labs.md` has what came of it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from forethought.engines.open import open_engine
from forethought.labs import first_error, label_quality, selection
from forethought.labs.first_error import Found
from forethought.problems import Task, open_task
from forethought.recipes import sft, verifier
from forethought.recipes.label import Completer, cut, monte_carlo, true
from forethought.recipes.run import at_least, write_config
from forethought.recipes.student import Student
from forethought.rollout import collect
from forethought.search.best_of_n import best_of_n
from forethought.search.seeds import derive
from forethought.store import open_store
from forethought.types import Problem, Sampling, Trace
from forethought.verify.open import open_verifier

VERIFIERS = ("outcome", "process")
"""Two heads on trunks of one size, that learn from one set of thoughts: by their answers, and by their true steps."""
COMPLETERS = ("weak", "policy", "strong")
PARTS = ("a", "b")
"""Of a completer's continuations: labels are made of the first, p and q are told by the second."""
FOUND = "found.json"


@dataclass(frozen=True)
class Config:
    """Arms, seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A policy, its verifiers and its bank for each of them."""
    arms: tuple[str, ...] = ()
    """Those to run now, in this order; empty runs all. Tables are printed of what is there."""
    steps: int = 8
    """Links of a chain."""
    modulus: int = 10
    """Not a prime, so that a later step can undo a mistake."""
    layers: int = 2
    """Of the policy and of every verifier."""
    width: int = 96
    """Of the same."""
    cold_examples: int = 6000
    """Worked examples that the policy has seen."""
    cold_steps: int = 500
    """Optimizer steps on them, of `cold_batch`."""
    cold_batch: int = 16
    """Worked examples in one step."""
    weak_steps: int = 400
    """The weak completer is the policy after so many of them."""
    strong_steps: int = 125
    """The strong completer has so many more."""
    cold_lr: float = 3e-3
    """Peak learning rate of both."""
    max_tokens: int = 160
    """Longest thought."""
    examples: int = 200
    """Problems whose thoughts the verifiers learn from."""
    samples: int = 8
    """Thoughts for each of them."""
    verifier_steps: int = 600
    """Optimizer steps of each verifier, of 32 thoughts."""
    verifier_lr: float = 1e-3
    """Peak learning rate of each verifier."""
    first_error: bool = True
    """Teach the process head no step behind a first wrong one (2305.20050, section 2.6)."""
    problems: int = 24
    """Held-out problems of a bank."""
    bank: int = 256
    """Thoughts for each of them."""
    labelled: int = 4
    """Problems of a bank whose thoughts are labelled by each completer."""
    thoughts: int = 3
    """Distinct thoughts of each of these."""
    drawn: int = 32
    """Continuations from each of their steps, and as many again from which p and q are told."""
    searched: int = 12
    """Wrong thoughts of a bank whose first error is searched for."""
    ks: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Continuations at each place of these searches."""
    lengths: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Steps of the scripted completers' thoughts."""
    reliability: tuple[float, ...] = (0.995, 0.98)
    """The chance of each of them to do a step rightly."""
    scripted: int = 60
    """Wrong thoughts of each length."""
    out: str = "runs/step-labels"
    """Where everything goes; what is there already is gone on with."""

    def __post_init__(self) -> None:
        at_least(self, 1, "samples", "problems", "bank", "labelled", "thoughts", "drawn", "searched", "scripted")
        if not 0 < self.weak_steps < self.cold_steps:
            raise ValueError(f"weak_steps is {self.weak_steps}; it must be from 1 to {self.cold_steps - 1}")
        if not all(0 < chance < 1 for chance in self.reliability):
            raise ValueError(f"reliability is {self.reliability}; each must be above 0 and below 1")
        if odd := [name for name in self.arms if name not in ARMS]:
            raise ValueError(f"there is no arm {odd[0]!r} in this lab; there is {', '.join(ARMS)}")
        if not self.seeds or not self.ks or not self.lengths:
            raise ValueError("seeds, ks and lengths each need at least one number")

    @property
    def task(self) -> Task:
        """The chains."""
        return open_task(f"chain:steps={self.steps},modulus={self.modulus}")

    def folder(self, name: str, seed: int) -> Path:
        """Where an arm of a seed goes."""
        return Path(self.out) / f"{name}-{seed}"


def main(config: Config) -> Path:
    """Run what is missing of the arms and seeds, and print the tables of those that are there.

    Raises ValueError, before anything is run, where the folder holds a lab with other settings; `seeds` and `arms` may
    differ.
    """
    out = Path(config.out)
    write_config(out, "step_labels", replace(config, seeds=(0,), arms=()), resume=(out / "config.json").exists())
    for seed in config.seeds:
        for name in config.arms or ARMS:
            began, folder = time.process_time(), config.folder(name, seed)
            if not (folder / "done").exists():
                ARMS[name](config, seed)
                (folder / "done").write_text(f"{time.process_time() - began:.0f} s of processor time\n")
    if _there(config, "judged"):
        banks = [list(chain(*_stored(config, seed, "judged").values())) for seed in config.seeds]
        print(selection.table(banks, VERIFIERS))
    for name, told in (("places", quality), ("searches", errors)):
        if _there(config, name):
            print("", told(config), sep="\n")
    return out


def _there(config: Config, name: str) -> bool:
    """Is the arm done, for all seeds?"""
    return all((config.folder(name, seed) / "done").exists() for seed in config.seeds)


def _cold(config: Config, seed: int) -> None:
    """The policy, and on its way the weak completer."""
    _run(sft, _school(config, seed, "cold"))


def _strong(config: Config, seed: int) -> None:
    """A stronger completer: the policy after more of the same."""
    more = replace(_school(config, seed, "strong"), model=str(config.folder("cold", seed)), seed=seed + 1000)
    _run(sft, replace(more, steps=config.strong_steps, save_every=config.strong_steps))


def _school(config: Config, seed: int, name: str) -> sft.Config:
    return sft.Config(
        problems=config.task.name,
        examples=config.cold_examples,
        batch=config.cold_batch,
        steps=config.cold_steps,
        save_every=config.weak_steps,
        lr=config.cold_lr,
        warmup=20,
        layers=config.layers,
        width=config.width,
        max_tokens=config.max_tokens,
        eval_problems=0,
        seed=seed,
        out=str(config.folder(name, seed)),
    )


def _learned(config: Config, seed: int) -> None:
    """The thoughts that both verifiers learn from, drawn together."""
    folder, task = config.folder("learned", seed), config.task
    shutil.rmtree(folder, ignore_errors=True)  # what an interruption left half written
    sampling = Sampling(config.max_tokens, seed=derive(seed, "thoughts"))
    problems = task.load("train", count=config.examples, seed=seed)
    groups = Student.load(str(config.folder("cold", seed))).sample(problems, task, config.samples, sampling, "learned")
    with open_store(folder / "store").writer("learned") as writer:
        writer.extend(chain(*groups))


def _verifier(config: Config, seed: int, *, kind: str) -> None:
    """A verifier."""
    asked = verifier.Config(
        model=str(config.folder("cold", seed)),
        problems=config.task.name,
        kind=kind,
        store=str(config.folder("learned", seed)),
        per_problem=config.samples,
        batch=32,
        steps=config.verifier_steps,
        save_every=config.verifier_steps,
        lr=config.verifier_lr,
        first_error=config.first_error and kind == "process",
        max_tokens=config.max_tokens,
        eval_problems=0,
        seed=seed,
        out=str(config.folder(kind, seed)),
    )
    _run(verifier, asked)


def _run(recipe: Any, asked: Any) -> None:
    """A recipe from where it stands to its end."""
    place = Path(asked.out)
    recipe.main(asked, place if (place / "config.json").exists() else None)


def _engine(config: Config, seed: int, who: str = "policy") -> Any:
    """The policy or one of the completers."""
    cold = config.folder("cold", seed)
    weak = cold / "checkpoints" / f"step-{config.weak_steps:06d}"
    return open_engine(str({"weak": weak, "policy": cold, "strong": config.folder("strong", seed)}[who]))


def _completer(config: Config, seed: int, who: str, k: int, part: str = "") -> Completer:
    engine = _engine(config, seed, who)
    sampling = Sampling(config.max_tokens, seed=derive(seed, who, part))
    return Completer(engine, config.task.grade, sampling, engine.decode, k)


def _bank(config: Config, seed: int) -> None:
    """Thoughts of held-out problems."""
    engine = _engine(config, seed, "policy")
    sampling = Sampling(config.max_tokens, seed=derive(seed, "bank"))

    def drawn(problem: Problem) -> list[Trace]:
        search = partial(best_of_n, n=config.bank)
        (group,) = collect([problem], engine, search=search, grade=config.task.grade, sampling=sampling)
        return [cut(trace, engine.decode) for trace in group]

    _kept(config, seed, "bank", drawn)


def _judged(config: Config, seed: int) -> None:
    """These thoughts with the verdicts of every verifier."""
    judges = {name: open_verifier(str(config.folder(name, seed))) for name in VERIFIERS}
    bank = _stored(config, seed, "bank")

    def told(problem: Problem) -> list[Trace]:
        traces = bank[problem.id]
        for name, judge in judges.items():
            traces = verifier.score(traces, judge, name)
        return traces

    _kept(config, seed, "judged", told)


def _kept(
    config: Config, seed: int, name: str, made: Callable[[Problem], list[Trace]], most: int | None = None
) -> None:
    """What is made of each held-out problem, or of the first `most`, in the arm's store; those that it has are left."""
    store = open_store(config.folder(name, seed) / "store")
    done = {entry.problem_id for entry in store.entries()}
    with store.writer(name) as writer:
        for problem in tqdm(_held(config, seed)[:most], desc=name, unit="problem"):
            if problem.id not in done:
                writer.extend(made(problem))
                writer.flush()


def _places(config: Config, seed: int) -> None:
    """Thoughts of the bank labelled by each completer, twice: once to be judged, once to tell p and q."""
    labellers = [
        partial(monte_carlo, completer=_completer(config, seed, who, config.drawn, part), judge=f"{who} {part}")
        for who in COMPLETERS
        for part in PARTS
    ]

    bank = _stored(config, seed, "bank")

    async def every(problem: Problem) -> list[Trace]:
        distinct = list({trace.text: trace for trace in bank[problem.id] if trace.stop == "end"}.values())
        found = await true(problem, distinct[: config.thoughts], task=config.task)
        for labeller in labellers:
            found = await labeller(problem, found)
        return found

    _kept(config, seed, "places", lambda problem: asyncio.run(every(problem)), config.labelled)


def _searches(config: Config, seed: int) -> None:
    """Searches for the first error, in one wrong thought of each of the first problems of the bank."""
    completer = _completer(config, seed, "policy", max(config.ks))
    bank = _stored(config, seed, "bank")

    async def one(problem: Problem) -> list[Found]:
        for trace in await true(problem, bank[problem.id], task=config.task):
            labels = trace.verdicts["true"].steps
            # Only thoughts of the usual form, so that all have as many steps.
            if trace.reward == 0 and 0.0 in labels and len(labels) == config.steps + 3 and trace.stop == "end":
                return await first_error.searched(problem, trace, labels.index(0.0), completer, config.ks)
        return []

    async def every() -> list[list[Found]]:
        return await asyncio.gather(*map(one, _held(config, seed)[: config.searched]))

    rows = [asdict(found) for group in asyncio.run(every()) for found in group]
    folder = config.folder("searches", seed)
    folder.mkdir(exist_ok=True)
    (folder / FOUND).write_text(json.dumps(rows), encoding="utf-8")


ARMS: dict[str, Callable[[Config, int], None]] = {
    "cold": _cold,
    "strong": _strong,
    "bank": _bank,
    "learned": _learned,
    **{kind: partial(_verifier, kind=kind) for kind in VERIFIERS},
    "judged": _judged,
    "places": _places,
    "searches": _searches,
}
"""By name, each of which finds what those before it left."""


def _held(config: Config, seed: int) -> list[Problem]:
    return config.task.load("test", count=config.problems, seed=seed)


def _stored(config: Config, seed: int, name: str) -> dict[str, list[Trace]]:
    """An arm's traces, by problem."""
    groups: dict[str, list[Trace]] = {}
    for trace in open_store(config.folder(name, seed) / "store").traces():
        groups.setdefault(trace.problem_id, []).append(trace)
    return groups


def quality(config: Config) -> str:
    """Of what Monte-Carlo labels are worth, a table for each completer."""
    groups = [group for seed in config.seeds for group in _stored(config, seed, "places").values()]
    tables = []
    for who in COMPLETERS:
        judged, told = (
            [label_quality.places_of(group, f"{who} {part}", config.drawn) for group in groups] for part in PARTS
        )
        tables.append(f"{who} completer, {label_quality.table(judged, told)}")
    return "\n\n".join(tables)


def errors(config: Config) -> str:
    """What it takes to find a first error, by scripted completers and by the policy."""
    ks = sorted(config.ks)
    k = min(ks, key=lambda k: abs(k - 8))
    found = {
        f"scripted completer, {chance:g} a step": [
            one
            for steps in config.lengths
            for one in asyncio.run(first_error.scripted(steps, chance, config.scripted, ks))
        ]
        for chance in config.reliability
    }
    found["the policy"] = [
        Found(**row)
        for seed in config.seeds
        for row in json.loads((config.folder("searches", seed) / FOUND).read_text(encoding="utf-8"))
    ]
    return "\n\n".join(
        f"{who}, k = {k}\n{first_error.by_length(rows, k)}\n\n"
        f"{who}, {rows[-1].steps} steps\n{first_error.by_k(rows, rows[-1].steps)}"
        for who, rows in found.items()
        if rows
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
