"""Thinking no longer than it pays: when to stop drawing, and how much to spend on which problem.

    python -m forethought.labs.allocation

Two claims, both measured on one bank of thoughts a seed, drawn once and replayed in random orders:

- Stopping early loses nothing (adaptive consistency, arXiv 2305.11860: up to 7.9 times fewer samples, 0.1 points lost;
  early-stopping self-consistency, arXiv 2401.10480: a third to four fifths of the samples saved; DeepConf, arXiv
  2508.15260: up to 84.7 % of the tokens). The pre-registered shape: every rule within 1 point of the vote of 40.
- Compute-optimal allocation reaches best-of-64 with a quarter of its compute (arXiv 2408.03314, section 5.3 and figure
  4: 16 generations instead of 64). Difficulty is told by the first 4 thoughts, whose cost counts, as the verifier's
  does; choices are made on one half of the problems and tried on the other. Arms, at 1/16 to 1/2 of best-of-64's
  tokens: `fixed`, the best single search for all; `bins`, the best for each bin, every problem under that budget;
  `average`, the same under that budget on average; `oracle`, averages by pass@1 as nobody knows it beforehand. The
  pre-registered shape: `average` at a quarter is not below best-of-64, and no arm passes `oracle` by more than noise.

`docs/labs.md` has what came of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from forethought.engines.open import open_engine
from forethought.labs.chains import MAX_TOKENS, mixed, pictures, tasks, taught
from forethought.labs.runs import check, finish
from forethought.problems import open_task
from forethought.problems.task import Task
from forethought.recipes import verifier
from forethought.recipes.run import at_least, write_config
from forethought.scaling.allocation import Option, firsts, options, oracle, tried
from forethought.scaling.bank import Drawn, Replay, banked, fill, orders, prices, replayed
from forethought.scaling.deepconf import online, surest
from forethought.scaling.measure import Values, estimate
from forethought.scaling.stages import Chart, Line
from forethought.scaling.strategies import mean, smallest
from forethought.scaling.sweep import append, read
from forethought.scaling.words import percent, points
from forethought.search.choose import Thought, majority
from forethought.search.size import Parallel
from forethought.search.stop import adaptive_consistency, adaptive_dirichlet, unanimous_window
from forethought.store import open_store
from forethought.types import Problem, Sampling
from forethought.verify.open import open_verifier

BANK = "bank"
STRATEGIES = ("majority", "adaptive-consistency", "weighted", "best-of-n")
SIZES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Thoughts that a strategy may be given."""
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of best-of-64's tokens."""
VOTES = 40
"""Most thoughts that a stopping rule may draw; the vote of all of them is what it is held against."""
WARM_UP = 5
"""One in so many of them sets DeepConf's bar."""
GROUP = 16
"""Tokens of DeepConf's groups: thoughts have 40 to 80, where the paper's have thousands for its 2,048."""
NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Config:
    """Arms, seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A policy, a verifier, problems and thoughts of their own for each of them."""
    stages: int = 3
    """Of the policy's cold start."""
    examples: int = 4000
    """Worked examples of the cold start."""
    steps: int = 300
    """Optimizer steps of a stage, of 16 examples each."""
    levels: tuple[int, ...] = (2, 3, 4, 5)
    """Steps of the chains."""
    modulus: int = 7
    """Of the chains."""
    problems: int = 150
    """Held-out problems."""
    temperature: float = 1.0
    """Of the thoughts."""
    probe: int = 4
    """First thoughts, by which difficulty is told."""
    bins: int = 5
    """Difficulties to tell apart."""
    orders: int = 8
    """In which a bank is replayed."""
    verifier_examples: int = 128
    """Problems, with 8 thoughts each, that the outcome verifier learns from."""
    verifier_steps: int = 100
    """Its optimizer steps, of 16 thoughts each."""
    taught: str = "runs/coverage"
    """Where policies are kept, those of the lab on coverage among them."""
    addition: str = ""
    """Where the lab `star_addition` keeps its runs: their `star` arm is the stopping rules' second task."""
    addition_problems: int = 60
    """Held-out problems of that task."""
    out: str = "runs/allocation"
    """Where thoughts and verifiers are kept; what is there already is gone on with."""

    def __post_init__(self) -> None:
        at_least(self, 1, "stages", "steps", "probe", "bins", "orders", "addition_problems")
        at_least(self, 4, "verifier_examples")
        at_least(self, 1, "verifier_steps")
        at_least(self, 2, "problems")
        if self.probe > SIZES[-1]:
            raise ValueError(f"probe is {self.probe}; the bank has {SIZES[-1]} thoughts a problem")


def main(config: Config) -> Path:
    """Teach and draw what is missing, and print the tables.

    Raises ValueError, before anything is drawn, where a folder holds a run with other settings than this lab's.
    """
    out = Path(config.out)
    for seed in config.seeds:
        folder, own = out / f"bank-{seed}", replace(config, seeds=(seed,), probe=4, bins=5, orders=8)
        write_config(folder, "allocation", own, resume=(folder / "config.json").exists())
    told: dict[str, list[dict[str, Values]]] = {}
    shared: list[dict[str, Values]] = []
    for seed in config.seeds:
        for name, bank in _banks(config, seed).items():
            told.setdefault(name, []).append(stopped(bank, config.orders))
            print(stopping_table(f"{name}, seed {seed}", told[name][-1:]))
            if name == "chain":
                shared.append(allocated(bank, config))
                print(allocation_table(f"{name}, seed {seed}", shared[-1:]))
    if len(config.seeds) > 1:
        for name, each in told.items():
            print(stopping_table(f"{name}, all seeds", each))
        print(allocation_table("chain, all seeds", shared))
    charts = [*(_saved(name, each) for name, each in told.items()), _shares(shared)]
    print(pictures(out / "allocation.html", charts))
    return out


def _banks(config: Config, seed: int) -> dict[str, tuple[Drawn, ...]]:
    """A bank for each task, drawn as far as it is not there."""
    policy = taught(
        Path(config.taught),
        seed,
        levels=config.levels,
        modulus=config.modulus,
        stages=config.stages,
        steps=config.steps,
        examples=config.examples,
    )[-1]
    problems = mixed(config.levels, config.modulus, "test", config.problems, seed)
    folder, sampling = Path(config.out) / f"bank-{seed}", Sampling(MAX_TOKENS, config.temperature, seed=seed)
    judge = _judge(config, seed, policy)
    task = tasks(config.levels, config.modulus)[0]
    banks = {"chain": _bank(folder / "chain", policy, task, problems, SIZES[-1], sampling, str(judge))}
    if config.addition:
        task = open_task("addition:digits=1-5")
        problems = task.load("test", count=config.addition_problems, seed=seed)
        policy = Path(config.addition) / f"star-{seed}"
        sampling = replace(sampling, max_tokens=2 * MAX_TOKENS)
        banks["addition"] = _bank(folder / "addition", policy, task, problems, VOTES, sampling, "")
    return banks


def _judge(config: Config, seed: int, policy: Path) -> Path:
    """An outcome verifier on the policy's thoughts about what it was taught with."""
    run = verifier.Config(
        model=str(policy),
        problems=f"gsm8k:{Path(config.taught) / f'problems-{seed}'}",
        kind="outcome",
        examples=config.verifier_examples,
        samples=8,
        steps=config.verifier_steps,
        max_tokens=MAX_TOKENS,
        eval_problems=config.verifier_examples // 4,
        eval_samples=8,
        seed=seed,
        out=str(Path(config.out) / f"verifier-{seed}"),
    )
    check([run])
    return finish(run)


def _bank(
    folder: Path, policy: Path, task: Task, problems: Sequence[Problem], n: int, sampling: Sampling, judge: str
) -> tuple[Drawn, ...]:
    """n thoughts of each problem by the policy, with the judge's verdicts where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = {row["problem"] for row in read(folder / "bank.jsonl")}
    if todo := [problem for problem in problems if problem.id not in done]:
        asyncio.run(_draw(folder, policy, task, todo, n, sampling, judge))
    prompts = {row["problem"]: row["prompt"] for row in read(folder / "bank.jsonl")}
    traces = (trace for trace in open_store(folder / "store").traces(run=BANK) if trace.problem_id in prompts)
    return banked(traces, prompts, sampling.max_tokens)


async def _draw(
    folder: Path, policy: Path, task: Task, todo: Sequence[Problem], n: int, sampling: Sampling, judge: str
) -> None:
    stream = fill(
        todo,
        open_engine(str(policy), dtype="fp32"),
        n=n,
        grade=task.grade,
        verify=open_verifier(judge, dtype="fp32") if judge else None,
        sampling=sampling,
        concurrency=8,
    )
    whole = {"rows": NO_LIMIT, "size": NO_LIMIT}  # a shard never holds a part of a problem
    with (
        tqdm(total=len(todo), desc=f"{folder}: thoughts", unit="problem") as bar,
        open_store(folder / "store").writer(BANK, **whole) as writer,
    ):
        async with aclosing(stream) as groups:
            waiting: list[dict[str, object]] = []
            async for traces, prompt in groups:
                writer.extend(traces)
                waiting.append({"problem": traces[0].problem_id, "prompt": prompt})
                if len(waiting) == 32 or len(waiting) + bar.n == len(todo):
                    writer.flush()
                    append(folder / "bank.jsonl", waiting)
                    bar.update(len(waiting))
                    waiting = []


Rule = Callable[[Drawn, Sequence[int]], Replay]


def stopping_rules(most: int) -> dict[str, Rule]:
    """The vote of `most` thoughts, and what ends it earlier or leaves some out."""
    votes = {
        f"vote of {most}": Parallel(majority),
        "adaptive consistency, beta": Parallel(majority, stop=_remembered(adaptive_consistency)),
        "adaptive consistency, Dirichlet": Parallel(majority, stop=_remembered(adaptive_dirichlet)),
        "unanimous window of 5": Parallel(majority, stop=unanimous_window),
        "unanimous window of 8": Parallel(majority, stop=partial(unanimous_window, window=8)),
        "DeepConf offline, 10 %": Parallel(partial(surest, keep=0.1, group=GROUP)),
        "DeepConf offline, 90 %": Parallel(partial(surest, keep=0.9, group=GROUP)),
    }
    return {
        **{name: partial(_vote, rule, most) for name, rule in votes.items()},
        **{
            f"DeepConf online, {100 * keep:.0f} %": partial(
                online, most=most, warm_up=max(1, most // WARM_UP), keep=keep, group=GROUP
            )
            for keep in (0.1, 0.9)
        },
    }


def _vote(rule: Parallel, most: int, drawn: Drawn, order: Sequence[int]) -> Replay:
    return replayed(drawn, order, rule, [(most, NO_LIMIT)])[0]


def _remembered(rule: Callable[[Sequence[Thought]], bool]) -> Callable[[Sequence[Thought]], bool]:
    """The same answer for the same votes: they recur, and the Dirichlet criterion is an integral."""

    @cache
    def asked(votes: tuple[int, ...]) -> bool:
        return rule([Thought(0, (), str(answer), None) for answer, count in enumerate(votes) for _ in range(count)])

    def remembering(thoughts: Sequence[Thought]) -> bool:
        return asked(tuple(sorted(Counter(each.answer for each in thoughts if each.answer is not None).values())))

    return remembering


def stopped(bank: Sequence[Drawn], count: int) -> dict[str, Values]:
    """For each rule, of P problems: right, thoughts and tokens (3, P), means over `count` orders."""
    size = smallest(bank)
    ways = orders(size, count)
    found = {}
    for name, rule in stopping_rules(min(VOTES, size)).items():
        told = [[rule(drawn, order.tolist()) for order in ways] for drawn in bank]
        rows_PR3 = np.array([[(each.right, each.samples, each.tokens) for each in row] for row in told], dtype=float)
        found[name] = np.stack([mean(rows_PR3[:, :, place]) for place in range(3)])
    return found


def _joined(seeds: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    """The problems of all seeds side by side, of what every seed has."""
    return {
        name: np.concatenate([each[name] for each in seeds], axis=1)
        for name in seeds[0]
        if all(name in each for each in seeds)
    }


def stopping_table(title: str, seeds: Sequence[Mapping[str, Values]]) -> str:
    """Accuracy, the difference to the vote of all, thoughts and tokens, and the shares that were saved."""
    rows = _joined(seeds)
    whole = next(iter(rows.values()))
    lines = [
        title,
        f"{'rule':<32}{'right, %':>21}{'difference':>21}{'thoughts':>10}{'saved':>8}{'tokens':>8}{'saved':>8}",
    ]
    for name, (right_P, samples_P, tokens_P) in rows.items():
        saved = [1 - float(each.mean() / all_.mean()) for each, all_ in ((samples_P, whole[1]), (tokens_P, whole[2]))]
        lines.append(
            f"{name:<32}{percent(estimate(right_P)):>21}{_difference(right_P - whole[0]):>21}{samples_P.mean():>10.1f}"
            f"{100 * saved[0]:>6.0f} %{tokens_P.mean():>8.0f}{100 * saved[1]:>6.0f} %"
        )
    return "\n".join(lines)


def _difference(values: Values) -> str:
    told = estimate(values)
    return f"{points(told.value)} [{points(told.low)}, {points(told.high)}]"


def allocated(bank: Sequence[Drawn], config: Config) -> dict[str, Values]:
    """For each arm, of P problems: right and tokens (2, P), means over orders. The first is best-of-64."""
    price, judged_price, _ = prices(bank)
    grid = sorted({n * each for n in SIZES for each in (price, judged_price)})
    first = firsts(bank, config.probe, "agreement", config.orders)
    alone = options(bank, [], STRATEGIES, grid, count=config.orders)
    after = options(bank, [], STRATEGIES, grid, after=first, count=config.orders)
    largest: dict[str, Option] = {option.choice.search: option for option in alone}
    found = {
        f"{name} of {SIZES[-1]}": np.stack([mean(largest[name].right_PR), mean(largest[name].spend_PR)])
        for name in ("best-of-n", "weighted", "majority")
    }
    whole = float(next(iter(found.values()))[1].mean())
    known = oracle(bank, config.orders)
    for share in SHARES:
        budget = int(share * whole)
        arms = {
            "fixed": tried(alone, known, budget, bins=1, average=True),
            "bins": tried(after, first.ease_PR, budget, bins=config.bins),
            "average": tried(after, first.ease_PR, budget, bins=config.bins, average=True),
            "oracle": tried(alone, known, budget, bins=config.bins, average=True),
        }
        found |= {f"{name}, {share:.4g}": np.stack(told) for name, told in arms.items() if told is not None}
    return found


def allocation_table(title: str, seeds: Sequence[Mapping[str, Values]]) -> str:
    """Accuracy and tokens of every arm, beside best-of-64's."""
    rows = _joined(seeds)
    whole = next(iter(rows.values()))
    lines = [title, f"{'arm':<24}{'right, %':>21}{'to best-of-64':>21}{'tokens':>9}{'of its tokens':>15}"]
    for name, (right_P, spend_P) in rows.items():
        lines.append(
            f"{name:<24}{percent(estimate(right_P)):>21}{_difference(right_P - whole[0]):>21}{spend_P.mean():>9,.0f}"
            f"{100 * spend_P.mean() / whole[1].mean():>13.1f} %"
        )
    return "\n".join(lines)


def _saved(name: str, seeds: Sequence[Mapping[str, Values]]) -> Chart:
    lines = [_point(rule, tokens_P, right_P) for rule, (right_P, _, tokens_P) in _joined(seeds).items()]
    return Chart(f"Stopping early, {name}", "tokens a problem", "problems solved", tuple(lines), percent=True)


def _point(name: str, x_P: Values, y_P: Values) -> Line:
    told = estimate(y_P)
    return Line(name, (float(x_P.mean()),), (told.value,), (told.low,), (told.high,))


def _shares(seeds: Sequence[Mapping[str, Values]]) -> Chart:
    arms: dict[str, list[Values]] = {}
    for name, values in _joined(seeds).items():
        arms.setdefault(name.partition(",")[0], []).append(values)
    lines = []
    for name, each in arms.items():
        told = [estimate(right_P) for right_P, _ in each]
        value, low, high = (tuple(getattr(one, side) for one in told) for side in ("value", "low", "high"))
        lines.append(Line(name, tuple(float(spend_P.mean()) for _, spend_P in each), value, low, high))
    return Chart(
        "Allocation",
        "tokens a problem, judging included (log)",
        "problems solved",
        tuple(lines),
        log_x=True,
        percent=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
