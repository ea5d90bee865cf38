"""`forethought sweep`: accuracy against everything spent, for many searches at one grid of budgets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from forethought.cli.evaluate import FLUSH_SECONDS, FLUSH_TRACES, Asked, Patience, prepared
from forethought.cli.model import UNTRAINED, check_judge, is_untrained, judging, opened
from forethought.cli.runs import again, config_of, resumed, typed
from forethought.cli.terminal import say, tell
from forethought.engines.open import described, public
from forethought.problems import Task
from forethought.problems.tools import open_tools
from forethought.recipes.run import folder_of, write_config
from forethought.scaling.bank import JUDGE, Drawn, banked, fill, prices
from forethought.scaling.measure import gather
from forethought.scaling.strategies import ORDERS, Cell, charts, replays, rows, runs, text
from forethought.scaling.sweep import Record, append, read, swept
from forethought.scaling.words import counted
from forethought.search.size import PARALLEL, named, sized
from forethought.store import Store, open_store
from forethought.thought.tools import Tools
from forethought.types import Engine, Problem, Sampling
from forethought.verify.verdict import Verify

RUN = "sweep"
BANK = "bank"
"""The run in the store that has the bank's thoughts; those that a search answered with stand under its name."""
PROG = "forethought sweep"
DESCRIPTION = """Measure searches at one grid of token budgets, the verifier's tokens included.

K thoughts of each problem are drawn and judged once: the bank. Best-of-n, votes and adaptive stopping are replayed from
it; every other search is run, once a seed, at each budget. What is done is kept as it comes, and
`forethought sweep --resume RUN` goes on. `forethought allocate RUN` then chooses for each difficulty and budget."""


@dataclass(frozen=True)
class Config(Asked):
    """What `forethought sweep` is asked; kept as the run's config.json."""

    k: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    """Thoughts of each problem in the bank; parallel searches are measured up to so many."""
    search: Annotated[str, tyro.conf.arg(metavar="NAME,NAME,...")] = "majority,adaptive-consistency"
    """What to compare: best-of-n, majority, weighted, beam, mcts, revise, ..."""
    verify: Annotated[str, tyro.conf.arg(metavar="VERIFIER", help_behavior_hint="(default: none)")] = ""
    """Who judges thoughts: a trained one's folder, confidence, generative:MODEL, a URL, ..."""
    tools: Annotated[str, tyro.conf.arg(metavar="NAMES", help_behavior_hint="(default: none)")] = ""
    """What a thought may call: python, calculator, or both with a comma."""
    grid: Annotated[str, tyro.conf.arg(metavar="TOKENS,TOKENS,...")] = "256,512,1024,2048,4096"
    """Budgets a problem, the same for all searches."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """Repetitions of each search that is run."""
    out: Annotated[str, tyro.conf.arg(metavar="RUN", help_behavior_hint="(default: runs/sweep-TIME)")] = ""
    """The run's folder."""

    @property
    def strategies(self) -> tuple[str, ...]:
        """The searches asked for, by the names of the house."""
        return tuple(dict.fromkeys(named(name) for name in self.search.split(",")))

    @property
    def budgets(self) -> tuple[int, ...]:
        """The grid, rising."""
        try:
            return tuple(sorted({int(word) for word in self.grid.split(",")}))
        except ValueError:
            raise ValueError(f"grid is {self.grid!r}; give numbers of tokens, as 256,512,1024") from None


def sweep(words: list[str]) -> int:
    """Run or go on with a sweep; the path of its report is printed last."""
    folder = resumed(words, PROG)
    if folder is None:
        config: Config = tyro.cli(Config, prog=PROG, description=DESCRIPTION, args=words)
    else:
        config = config_of(folder, RUN, Config)
    if config.seeds < 1:
        raise ValueError(f"seeds is {config.seeds}; it must be at least 1")
    if config.budgets[0] < 1:
        raise ValueError(f"grid is {config.grid!r}; a search needs a budget of at least 1 token")
    for name in config.strategies:
        check_judge(name, config.verify)
    tools = open_tools(config.tools)
    config, task, problems, sampling = prepared(config, tools)
    if folder is None:
        folder = folder_of(RUN, config.out, None)
        config = replace(config, out=str(folder))
        write_config(folder, RUN, config, resume=False)
    if is_untrained(config.model):
        tell(UNTRAINED)
    plan = _Plan(config, folder, task, problems, sampling, open_store(folder / "store"), tools)
    tell(_most(plan))
    try:
        asyncio.run(_draw(plan))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(again(PROG, folder)) from None
    except ConnectionError as error:
        raise ConnectionError(f"{error}; go on with: {again(PROG, folder)}") from error
    _report(folder, config, problems)
    return 0


@dataclass(frozen=True)
class _Plan:
    """What is to be measured, and where it is kept."""

    config: Config
    folder: Path
    task: Task
    problems: Sequence[Problem]
    sampling: Sampling
    store: Store
    tools: Tools | None


async def _draw(plan: _Plan) -> None:
    """Whatever is not done yet: the bank, then the searches, whose sizes it tells."""
    config = plan.config
    if not _undrawn(plan) and not any(_unsearched(plan).values()):
        return
    async with (
        opened(config.model, config.dtype, config.api, config.cache_gib) as engine,
        judging(config.verify, config.model, engine, config.dtype) as verify,
    ):
        await _fill(plan, engine, verify)
        await _search(plan, engine, verify)


def _undrawn(plan: _Plan) -> list[Problem]:
    done = {row["problem"] for row in read(plan.folder / "bank.jsonl")}
    return [problem for problem in plan.problems if problem.id not in done]


def _unsearched(plan: _Plan) -> dict[tuple[str, int, int], list[Problem]]:
    """Of each search that is to be run, budget and seed: the problems that are left."""
    config = plan.config
    done = {(row["strategy"], row["budget"], row["seed"], row["problem"]) for row in read(_records(plan.folder))}
    run = [name for name in config.strategies if name not in PARALLEL]
    return {
        arm: [problem for problem in plan.problems if (*arm, problem.id) not in done]
        for arm in product(run, config.budgets, range(config.seeds))
    }


def _most(plan: _Plan) -> str:
    """What is left to do, and how many tokens that may take."""
    config, arms = plan.config, _unsearched(plan)
    problems, searches = len(_undrawn(plan)), sum(map(len, arms.values()))
    drawn = problems * config.k * config.max_tokens
    tokens = sum(budget * len(todo) for (_, budget, _), todo in arms.items())
    return (
        f"{counted(problems, 'problem')} × {config.k} thoughts × up to {config.max_tokens} tokens: at most {drawn:,} "
        f"to draw; {searches:,} searches: at most {tokens:,}"
    )


def _records(folder: Path) -> Path:
    return folder / "records.jsonl"


async def _fill(plan: _Plan, engine: Engine, verify: Verify | None) -> None:
    config, file, todo = plan.config, plan.folder / "bank.jsonl", _undrawn(plan)
    patience, waiting, flushed = Patience(len(todo)), list[dict[str, Any]](), time.monotonic()
    stream = fill(
        todo,
        engine,
        n=config.k,
        grade=plan.task.grade,
        verify=verify,
        sampling=plan.sampling,
        concurrency=config.concurrency,
        tools=plan.tools,
    )
    with (
        tqdm(
            total=len(plan.problems), initial=len(plan.problems) - len(todo), unit="problem", desc=BANK, smoothing=0.05
        ) as bar,
        plan.store.writer(BANK, rows=1 << 40, size=1 << 60) as writer,  # whole problems: it flushes where we say
    ):

        def keep() -> None:
            writer.flush()
            append(file, waiting)
            waiting.clear()

        try:
            async with aclosing(stream) as groups:
                async for traces, prompt in groups:
                    bar.update()
                    if patience.see(all(trace.stop == "error" for trace in traces), traces[0]):
                        continue
                    writer.extend(traces)
                    waiting.append({"problem": traces[0].problem_id, "prompt": prompt})
                    if len(waiting) * config.k >= FLUSH_TRACES or time.monotonic() - flushed > FLUSH_SECONDS:
                        keep()
                        flushed = time.monotonic()
        finally:
            keep()


async def _search(plan: _Plan, engine: Engine, verify: Verify | None) -> None:
    config, arms = plan.config, _unsearched(plan)
    price, judged_price, dearest = prices(bank_of(plan.folder, config))
    total, left = len(arms) * len(plan.problems), sum(map(len, arms.values()))
    with tqdm(total=total, initial=total - left, unit="search", smoothing=0.05, disable=not arms) as bar:
        for (name, budget, seed), todo in arms.items():
            bar.set_description(f"{name} {budget:,}")
            patience = Patience(len(todo))
            records = swept(
                todo,
                engine,
                partial(
                    sized(name, budget, judged_price if verify else price), verify_tokens=dearest, tools=plan.tools
                ),
                strategy=name,
                budget=budget,
                seed=seed,
                grade=plan.task.grade,
                verify=verify,
                sampling=plan.sampling,
                concurrency=config.concurrency,
            )
            with plan.store.writer(f"{name}@{budget}") as writer:
                async with aclosing(records) as found:
                    async for record, trace in found:
                        bar.update()
                        if not patience.see(record.right is None and trace.stop == "error", trace):
                            append(_records(plan.folder), [asdict(record)])
                            writer.append(trace)


def bank_of(folder: Path, config: Config) -> tuple[Drawn, ...]:
    """The bank of a sweep, as it is replayed; a `ValueError` where it is empty."""
    prompts = {row["problem"]: row["prompt"] for row in read(folder / "bank.jsonl")}
    traces = (trace for trace in open_store(folder / "store").traces(run=BANK) if trace.problem_id in prompts)
    bank = banked(traces, prompts, config.max_tokens)
    if not bank:
        raise ValueError(f"{folder} holds no thoughts yet; go on with it: {again(PROG, folder)}")
    return bank


def runs_of(folder: Path, bank: Sequence[Drawn]) -> list[Cell]:
    """What the searches of a sweep came to, those that were run."""
    return runs((Record(**row) for row in read(_records(folder))), bank)


def _report(folder: Path, config: Config, problems: Sequence[Problem]) -> None:
    """Print the table, keep it as JSON, write the page."""
    from forethought.scaling.report import write_report  # matplotlib takes a second to load: not for --help
    from forethought.scaling.stages import Report, Stage, save_report

    bank = bank_of(folder, config)
    cells = [*replays(bank, config.strategies, config.budgets), *runs_of(folder, bank)]
    config = replace(config, model=public(config.model))
    table = rows(cells, bank)
    if not table:
        raise ValueError(f"no budget of the grid {config.grid} can be told from {config.k} thoughts; raise --k")
    say(text(table))
    record = {"config": asdict(config), "problems": len(bank), "rows": table}
    (folder / "sweep.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    ks = tuple(sorted({*(1 << place for place in range(config.k.bit_length())), config.k}))
    pools = gather(open_store(folder / "store").traces(run=BANK), problems, judge=JUDGE)
    report = Report(
        title=f"{Path(config.problems).name}, {counted(len(bank), 'problem')}: what thinking longer buys",
        model=described(config.model) + ", untrained" * is_untrained(config.model),
        stages=(Stage(BANK, pools, note=f"judged by {config.verify}" if config.verify else ""),),
        ks=ks,
        charts=charts(cells, bank),
        config=asdict(config),
        command=typed(PROG, config),
        notes=(
            "A parallel search is replayed from the bank: in the order its thoughts were drawn and in "
            f"{ORDERS - 1} random ones, as many as its budget surely carries.",
            f"Every other search was run, {counted(config.seeds, 'time')} a problem, under a budget of tokens that "
            "counts its verifier's; one in which no thought finished is wrong.",
        ),
    )
    save_report(folder, report)
    say(str(write_report(folder / "report.html", report)))
