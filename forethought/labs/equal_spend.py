"""Searches at equal spend: does a tree buy more than whole thoughts, when the judge's tokens are counted too?

    python -m forethought.labs.equal_spend

Snell et al. (arXiv 2408.03314, section 5): beam search is better than weighted best-of-n at small budgets, worse at
large ones, and worse on easy problems. TSLLM (arXiv 2309.17179): MCTS pays where thoughts are deep and the value is
good. For each task and seed: a small policy that has half learned its task, a process head trained on its own thoughts
of training problems, a value head on its frozen trunk, and every search under one grid of tokens; the task `planted`
has a policy of known errors and judges of known noise instead (`labs.planted`). Controls: MCTS that follows random
values.

The pre-registered shape: on long chains `beam` or `mcts` is above `weighted` at some budget by more than the interval
of their paired difference, and the lead is largest on the hardest third; `mcts` led by random values, its answer chosen
by a vote or by those values, is where as many tokens of best-of-n are under the same choice. `docs/labs.md` has what
came of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from forethought.engines.open import open_engine
from forethought.engines.scripted import Scripted
from forethought.labs.leads import BASE, leads, thirds
from forethought.labs.planted import judge, policy
from forethought.labs.runs import check, finish
from forethought.problems import Task, open_task
from forethought.recipes import sft, verifier
from forethought.recipes.run import at_least
from forethought.scaling.bank import Drawn, banked, fill, prices
from forethought.scaling.measure import gather
from forethought.scaling.report import write_report
from forethought.scaling.stages import Report, Stage
from forethought.scaling.strategies import charts, replays, rows, runs, text
from forethought.scaling.sweep import Record, append, read, swept
from forethought.scaling.words import counted
from forethought.search.choose import highest, majority, weighted
from forethought.search.seeds import derive
from forethought.search.size import sized
from forethought.store import open_store
from forethought.types import Engine, Messages, Problem, Sampling, Step, Verdict
from forethought.verify.open import open_verifier
from forethought.verify.verdict import Verify

BANK = "bank"
NOISE = 1.2
"""Of the planted judge, in logits: it tells a line's truth with an AUC of 0.96. The planted value head has twice the
noise (0.81) and costs a token a verdict."""


@dataclass(frozen=True)
class Asked:
    """A task of the lab, and how far its policy is taught."""

    problems: str
    examples: int
    """Worked examples that the policy learns by heart: as few as leave it half taught; 0 for a planted policy."""
    max_tokens: int
    """Of a whole thought."""
    step_tokens: int
    """Of one step of a search by steps."""


TASKS = {
    "planted": Asked("chain:steps=8,modulus=7", 0, 160, 24),
    "chain": Asked("chain:steps=8,modulus=10", 150, 160, 24),
    "addition": Asked("addition:digits=6", 150, 160, 24),
}


@dataclass(frozen=True)
class Arm:
    """A search as it is run, beside those that the bank replays."""

    search: str
    judge: str = "process"
    """process, value, random; or none."""
    knobs: tuple[tuple[str, Any], ...] = ()
    whole: bool = False
    """Does it draw whole thoughts, rather than steps?"""
    once: bool = False
    """Run it at the largest budget alone: a control, or what this policy was never taught (to revise, to wait)."""


WEIGHTED = (("choose", weighted),)
ARMS = {
    "beam": Arm("beam"),
    "dvts": Arm("dvts"),
    "lookahead": Arm("lookahead", once=True),
    "mcts": Arm("mcts", knobs=WEIGHTED),
    "mcts, highest": Arm("mcts", knobs=(("choose", highest),)),
    "particle": Arm("particle", knobs=WEIGHTED),
    "revise": Arm("revise", whole=True, knobs=WEIGHTED, once=True),
    "mix": Arm("mix", whole=True, knobs=WEIGHTED, once=True),
    "force": Arm("force", "none", once=True),
    "weighted, value": Arm("weighted", "value", whole=True),
    "beam, value": Arm("beam", "value"),
    "mcts, value": Arm("mcts", "value", knobs=WEIGHTED),
    "mcts, random": Arm("mcts", "random", knobs=(("choose", highest),), once=True),
    "best-of-n, random": Arm("best-of-n", "random", whole=True, once=True),
    "mcts, random, vote": Arm("mcts", "random", knobs=(("choose", majority),), once=True),
}
REPLAYED = ("majority", "adaptive-consistency", "best-of-n", BASE)
PICTURED = ("majority", BASE, "beam", "mcts", "particle", "weighted, value", "beam, value", "mcts, value")


@dataclass(frozen=True)
class Config:
    """Tasks, seeds and size of the lab."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """planted, chain, addition."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Searches that are run; votes and best-of-n are replayed from the bank in any case."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each has a policy, verifiers and test problems of its own."""
    grid: tuple[int, ...] = (512, 1024, 2048)
    """Budgets a problem."""
    problems: int = 60
    """Of each task and seed, that nothing was trained or chosen on."""
    k: int = 32
    """Thoughts of each in the bank."""
    policy_steps: int = 500
    """Optimizer steps of a policy, 16 worked examples each."""
    learned: int = 4000
    """Training problems, two thoughts each, that a process head learns from."""
    verifier_steps: int = 1000
    """Its optimizer steps, 32 thoughts each."""
    labelled: str = ""
    """Where the lab `step_labels` keeps its runs: the policies and process heads of `chain` are then its own."""
    out: str = "runs/equal-spend"
    """Where the runs go; those that are there already are gone on with."""

    def __post_init__(self) -> None:
        at_least(self, 1, "problems", "k", "policy_steps", "learned", "verifier_steps")


def main(config: Config) -> Path:
    """Run what is missing, print the tables, write a page for each task; returns the folder.

    Raises ValueError, before anything is run, for unknown tasks and arms, and where a folder holds a run with other
    settings than this lab's.
    """
    if odd := [name for name in config.tasks if name not in TASKS]:
        raise ValueError(f"there is no task {odd[0]!r} in this lab; there is {', '.join(TASKS)}")
    if odd := [name for name in config.arms if name not in ARMS]:
        raise ValueError(f"there is no arm {odd[0]!r} in this lab; there is {', '.join(ARMS)}")
    if config.labelled and (odd := [name for name in config.arms if ARMS[name].judge == "value"]):
        raise ValueError(f"the heads of {config.labelled} have no value head, which {odd[0]!r} asks; leave the arm out")
    places = [(task, seed) for task in config.tasks for seed in config.seeds]
    check(run for place in places for run in plan(config, *place))
    for task, seed in places:
        for run in plan(config, task, seed):
            finish(run)
        asyncio.run(measure(config, task, seed))
    for task in config.tasks:
        print(report(config, task))
    return Path(config.out)


def place_of(config: Config, task: str, seed: int) -> Path:
    """Where a task's runs of one seed are."""
    return Path(config.out) / f"{task}-{seed}"


def plan(config: Config, task: str, seed: int) -> list[sft.Config | verifier.Config]:
    """The policy, and the heads that are trained on its own thoughts of training problems; a value head where an arm
    has one."""
    asked, place = TASKS[task], place_of(config, task, seed)
    if not asked.examples or given(config, task, seed):
        return []
    taught = sft.Config(
        problems=asked.problems,
        examples=asked.examples,
        batch=16,
        steps=config.policy_steps,
        save_every=config.policy_steps,
        lr=3e-3,
        warmup=20,
        layers=2,
        width=96,
        seed=seed,
        eval_problems=0,
        max_tokens=asked.max_tokens,
        out=str(place / "policy"),
    )
    process = verifier.Config(
        model=taught.out,
        problems=asked.problems,
        kind="process",
        examples=config.learned,
        samples=2,
        batch=32,
        steps=config.verifier_steps,
        save_every=config.verifier_steps,
        lr=1e-3,
        seed=seed + 1000,
        eval_problems=32,
        eval_samples=8,
        max_tokens=asked.max_tokens,
        out=str(place / "process"),
    )
    value = replace(
        process,
        kind="value",
        freeze=True,
        store=process.out,
        lr=3e-3,
        steps=100,
        save_every=100,
        out=str(place / "value"),
    )
    return [taught, process, *([value] if "value" in {ARMS[name].judge for name in config.arms} else [])]


def given(config: Config, task: str, seed: int) -> dict[str, Path]:
    """The policy and the process head that another lab has trained, where they are to be taken from there."""
    if task != "chain" or not config.labelled:
        return {}
    return {name: Path(config.labelled) / f"{arm}-{seed}" for name, arm in (("policy", "cold"), ("process", "process"))}


async def random_value(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
    """A score that knows nothing, the same for the same thought."""
    said = "".join(step.text for step in steps)
    return Verdict((derive(0, messages[-1]["content"], said) or 0) / 2**53)


async def measure(config: Config, task: str, seed: int) -> None:
    """Draw the bank and run the arms, whatever is missing, of a task's seed."""
    asked, place = TASKS[task], place_of(config, task, seed)
    opened = open_task(asked.problems)
    problems = opened.load("test", count=config.problems, seed=seed)
    drawn = {row["problem"] for row in read(place / "bank.jsonl")}
    undrawn = [problem for problem in problems if problem.id not in drawn]
    left = {arm: todo for arm in arms(config) if (todo := _left(place, problems, *arm))}
    if not undrawn and not left:
        return
    place.mkdir(parents=True, exist_ok=True)
    kinds = {"process", *(ARMS[name].judge for name, _ in left)}
    engine, judges = players(place, kinds, planted=not asked.examples, given=given(config, task, seed))
    if undrawn:
        await _fill(place, opened, undrawn, engine, judges["process"], Sampling(asked.max_tokens, seed=seed), config.k)
    bank = bank_of(config, task, seed)
    price, judged_price, dearest = prices(bank)
    prompt = max(drawn.prompt for drawn in bank)
    total = sum(map(len, left.values()))
    with tqdm(total=total, unit="search", smoothing=0.05, disable=not total) as bar:
        for (name, budget), todo in left.items():
            arm = ARMS[name]
            bar.set_description(f"{task} {seed} {name} {budget:,}")
            verdict = {"process": dearest if arm.whole else prompt + asked.step_tokens, "value": asked.step_tokens}
            size = judged_price if arm.judge == "process" else price
            knobs = {"verify_tokens": verdict.get(arm.judge, 0), **dict(arm.knobs)}
            found = swept(
                todo,
                engine,
                partial(sized(arm.search, budget, size), **knobs),
                strategy=name,
                budget=budget,
                seed=0,
                grade=opened.grade,
                verify=judges[arm.judge],
                sampling=Sampling(asked.max_tokens if arm.whole else asked.step_tokens, seed=seed),
            )
            async with aclosing(found) as records:
                async for record, _ in records:
                    append(place / "records.jsonl", [asdict(record)])
                    bar.update()


def players(
    place: Path, kinds: Collection[str], *, planted: bool, given: Mapping[str, Path]
) -> tuple[Engine, dict[str, Verify | None]]:
    """The policy and the judges: those that were trained, here or elsewhere, or those that were planted."""
    judges: dict[str, Verify | None] = {"random": random_value, "none": None}
    if planted:
        return Scripted(policy, "planted"), {**judges, "process": judge(NOISE), "value": judge(2 * NOISE, 1)}
    engine = open_engine(str(given.get("policy", place / "policy")))
    judges["process"] = open_verifier(str(given.get("process", place / "process")))
    if "value" in kinds:
        judges["value"] = open_verifier(str(place / "value"), engine)
    return engine, judges


async def _fill(
    place: Path,
    opened: Task,
    problems: Sequence[Problem],
    engine: Engine,
    verify: Verify | None,
    sampling: Sampling,
    k: int,
) -> None:
    """Draw, grade and judge the bank; where it is cut off, all of it is drawn again, and kept once."""
    stream = fill(problems, engine, n=k, grade=opened.grade, verify=verify, sampling=sampling)
    told = []
    with open_store(place / "store").writer(BANK) as writer:
        async with aclosing(stream) as groups:
            async for traces, prompt in groups:
                writer.extend(traces)
                told.append({"problem": traces[0].problem_id, "prompt": prompt})
    append(place / "bank.jsonl", told)


def arms(config: Config) -> Iterator[tuple[str, int]]:
    """What is run: an arm at a budget."""
    most = max(config.grid)
    return ((name, budget) for budget in config.grid for name in config.arms if budget == most or not ARMS[name].once)


def _left(place: Path, problems: Sequence[Problem], name: str, budget: int) -> list[Problem]:
    done = {
        row["problem"] for row in read(place / "records.jsonl") if (row["strategy"], row["budget"]) == (name, budget)
    }
    return [problem for problem in problems if problem.id not in done]


def bank_of(config: Config, task: str, seed: int) -> tuple[Drawn, ...]:
    """A seed's thoughts; none where they are not drawn yet."""
    place = place_of(config, task, seed)
    prompts = {row["problem"]: row["prompt"] for row in read(place / "bank.jsonl")}
    if not prompts:
        return ()
    return banked(open_store(place / "store").traces(run=BANK), prompts, TASKS[task].max_tokens)


def report(config: Config, task: str) -> str:
    """The tables of a task, all seeds together; writes its page."""
    bank = tuple(drawn for seed in config.seeds for drawn in bank_of(config, task, seed))
    places = [place_of(config, task, seed) for seed in config.seeds]
    found = [Record(**row) for place in places for row in read(place / "records.jsonl")]
    asked = set(arms(config))
    ran = runs((record for record in found if (record.strategy, record.budget) in asked), bank)
    cells = [*replays(bank, REPLAYED, config.grid), *ran]
    table = rows(cells, bank)
    (Path(config.out) / f"{task}.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    traces = (trace for place in places for trace in open_store(place / "store").traces(run=BANK))
    examples = TASKS[task].examples
    policy = f"tiny, {examples} worked examples" if examples else "a planted policy and judge"
    page = Report(
        title=f"{TASKS[task].problems}: searches at equal spend",
        model=f"{policy}, {counted(len(config.seeds), 'seed')}",
        stages=(Stage(BANK, gather(traces)),),
        ks=tuple(1 << place for place in range(config.k.bit_length())),
        charts=charts([cell for cell in cells if cell.strategy in PICTURED], bank),
        config=asdict(config),
        command="python -m forethought.labs.equal_spend",
    )
    path = write_report(Path(config.out) / f"{task}.html", page)
    return "\n\n".join([TASKS[task].problems, text(table), leads(cells), thirds(cells, bank), str(path)])


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
