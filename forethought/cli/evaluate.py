"""`forethought eval`: measure a model on problems whose answers can be checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Annotated, TypeVar

import tyro
from tqdm import tqdm

from forethought.cli.model import (
    UNTRAINED,
    Instruct,
    check_judge,
    instructs,
    is_untrained,
    judging,
    opened,
    thinking_tokens,
)
from forethought.cli.runs import again, config_of, resumed, typed
from forethought.cli.terminal import say, tell
from forethought.engines.http_body import Api
from forethought.engines.open import described, find, public
from forethought.problems import Split, Task, open_task
from forethought.problems.tools import open_tools
from forethought.recipes.run import folder_of, write_config
from forethought.rollout import Search, rollout
from forethought.scaling.sweep import Bill, answering
from forethought.scaling.words import counted
from forethought.search.best_of_n import best_of_n
from forethought.search.budget import UNLIMITED
from forethought.search.seeds import derive
from forethought.search.size import named, sized
from forethought.search.tree import Growth
from forethought.search.work import together
from forethought.store import Store, open_store
from forethought.thought.tools import Tools, instructed
from forethought.types import Budget, Engine, Messages, Problem, Sampling, Trace, Tree
from forethought.verify.verdict import Verify

RUN = "eval"
PROG = "forethought eval"
DESCRIPTION = """Measure a model: draw k answers to each problem, grade them, and tell pass@k and maj@k with intervals.

Everything drawn is kept in the run's store as it comes. `forethought eval --resume RUN` goes on with a run that was
stopped; problems that it has are not drawn again."""
FLUSH_TRACES, FLUSH_SECONDS = 512, 30.0
"""A shard is written when so many traces wait, or after so long: what a kill can lose."""
FAILURES = 16
"""Problems in a row that the engine failed on before the run stops."""


@dataclass(frozen=True)
class Asked:
    """What whoever measures a model on problems is asked."""

    problems: Annotated[str, tyro.conf.arg(metavar="TASK|FILE")]
    """A task (`sums:terms=3`, `gsm8k:FOLDER`), or a .jsonl, .json or .parquet file."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "smollm2-135m"
    """A name, path, run, hub name or URL: see `forethought models`."""
    question: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = "question"
    """The file's column of questions."""
    answer: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = "answer"
    """The file's column of answers."""
    split: Split = "test"
    """For a task: train and test share no problem. A single file is both."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Take the first so many problems."""
    k: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Answers to each problem."""
    search: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: one thought)")] = ""
    """How each answer is searched for: majority, weighted, beam, mcts, ..."""
    verify: Annotated[str, tyro.conf.arg(metavar="VERIFIER", help_behavior_hint="(default: none)")] = ""
    """Who judges thoughts in a search: a trained one's folder, confidence, generative:MODEL, a URL, ..."""
    max_tokens: Annotated[int, tyro.conf.arg(metavar="N")] = 256
    """Longest thought, its answer included; where a search goes by steps, the longest step."""
    temperature: Annotated[float, tyro.conf.arg(metavar="T")] = 1.0
    """0 is greedy, for k = 1."""
    top_p: Annotated[float, tyro.conf.arg(metavar="P")] = 1.0
    """Draw from the smallest set of tokens that reaches this probability."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of the generated problems and of the samples."""
    instruct: Instruct = "auto"
    """Ask for a thought between think marks and a boxed answer; auto: unless the model is tiny or was trained here."""
    concurrency: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    """Problems at work at one time."""
    dtype: Annotated[str, tyro.conf.arg(metavar="auto|bf16|fp32")] = "auto"
    """What to compute in."""
    cache_gib: Annotated[
        float | None, tyro.conf.arg(metavar="GIB", help_behavior_hint="(default: 2, on a GPU more)")
    ] = None
    """Most memory for keys and values, of a model that is computed with here."""
    api: Annotated[
        Api | None, tyro.conf.arg(metavar="chat|completions|tokens", help_behavior_hint="(default: chat)")
    ] = None
    """How a server is asked: by its chat template, by plain text, or by token ids."""
    out: Annotated[str, tyro.conf.arg(metavar="RUN", help_behavior_hint="(default: runs/eval-TIME)")] = ""
    """The run's folder."""


@dataclass(frozen=True)
class Config(Asked):
    """What `forethought eval` is asked; kept as the run's config.json."""

    think: Annotated[str, tyro.conf.arg(metavar="low|medium|high|TOKENS")] = "medium"
    """Tokens that a search may spend on one answer."""
    verify_tokens: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """The most that one verdict computes: kept free for it, so that the budget holds."""
    tools: Annotated[str, tyro.conf.arg(metavar="NAMES", help_behavior_hint="(default: none)")] = ""
    """What a thought may call: python, calculator, or both with a comma."""


class Patience:
    """Ends a run whose engine is gone: `FAILURES` problems in a row on which it failed altogether."""

    def __init__(self, problems: int) -> None:
        self._most, self._row = min(FAILURES, problems), 0

    def see(self, failed: bool, trace: Trace) -> bool:
        """Take note of a problem and of one of its traces; is `failed`. Raises ConnectionError at once too often."""
        self._row = self._row + 1 if failed else 0
        if self._row == self._most:
            fault = trace.steps[-1].text if trace.steps else "no sample ended"
            raise ConnectionError(f"the engine failed on {self._row} problems in a row: {fault}")
        return failed


A = TypeVar("A", bound=Asked)


def prepared(config: A, tools: Tools | None = None) -> tuple[A, Task, list[Problem], Sampling]:
    """The problems that are asked for, as the model is to be asked them; `tools` are what its thoughts may call.

    A model that is a run is its newest checkpoint from now on: it must stay the same when the run is resumed.
    """
    for name in ("k", "concurrency"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1")
    if config.temperature == 0 and config.k > 1:
        raise ValueError(f"temperature 0 draws the same answer {config.k} times; take k=1 or a temperature above 0")
    if (found := find(config.model)).kind == "path":
        config = replace(config, model=found.value)
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, seed=config.seed)
    task = open_task(config.problems, question=config.question, answer=config.answer)
    problems = task.load(config.split, count=config.limit, seed=config.seed)
    if instructs(config.model, config.instruct):
        problems = [replace(problem, messages=instructed(problem.messages, tools)) for problem in problems]
    return config, task, problems, sampling


def eval(words: list[str]) -> int:
    """Run or go on with an evaluation; the path of its report is printed last."""
    folder = resumed(words, PROG)
    if folder is None:
        config: Config = tyro.cli(Config, prog=PROG, description=DESCRIPTION, args=words)
    else:
        config = config_of(folder, RUN, Config)
    budget = Budget(tokens=thinking_tokens(config.think)) if config.search else UNLIMITED
    if config.search:
        check_judge(named(config.search), config.verify)
    elif config.verify:
        raise ValueError(f"verify is {config.verify!r}, and one thought needs no judge; give --search as well")
    tools = open_tools(config.tools)
    config, task, problems, sampling = prepared(config, tools)
    if folder is None:
        folder = folder_of(RUN, config.out, None)
        config = replace(config, out=str(folder))
        write_config(folder, RUN, config, resume=False)
    store = open_store(folder / "store")
    done = _drawn(store, problems)
    todo = [problem for problem in problems if problem.id not in done]
    began, bills = time.perf_counter(), dict[int | None, Bill]()
    if todo:
        if is_untrained(config.model):
            tell(UNTRAINED)
        each = budget.tokens or config.max_tokens
        most = len(todo) * config.k * each
        tell(
            f"{counted(len(todo), 'problem')} × {config.k} × up to {each} tokens: at most {most:,} to draw"
            + (f" ({counted(len(done), 'problem')} drawn already)" if done else "")
        )
        try:
            asyncio.run(_draw(config, task, todo, sampling, budget, store, bills, tools))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(again(PROG, folder)) from None
        except ConnectionError as error:
            raise ConnectionError(f"{error}; go on with: {again(PROG, folder)}") from error
    # Of a run in several parts only the last one's time is known, which would mislead.
    _report(folder, config, problems, store, 0.0 if done else time.perf_counter() - began, _price(config, bills))
    return 0


def _price(config: Config, bills: Mapping[int | None, Bill]) -> str:
    """What the searches of this time have spent, which the answers' own tokens do not tell."""
    if not bills:
        return ""
    drawn, judged = fmean(bill.tokens for bill in bills.values()), fmean(bill.judge for bill in bills.values())
    return (
        f"{config.search} spent {drawn:,.0f} tokens and {judged:,.0f} on judging for an answer "
        f"(mean of {len(bills):,}); the table's tokens are those of the answers alone"
    )


def _drawn(store: Store, problems: Sequence[Problem]) -> set[str]:
    """The problems that the store holds answers to; those that the engine failed on altogether do not count.

    Raises:
        ValueError: the store holds a problem that is not, or no longer, among them.
    """
    asked = {problem.id: problem.messages for problem in problems}
    done = set()
    for trace in store.traces(run=RUN):
        if asked.get(trace.problem_id) != trace.messages:
            raise ValueError(f"problem {trace.problem_id} is not what it was when {store.path} was begun; start anew")
        if trace.stop != "error":
            done.add(trace.problem_id)
    return done


async def _draw(
    config: Config,
    task: Task,
    problems: Sequence[Problem],
    sampling: Sampling,
    budget: Budget,
    store: Store,
    bills: dict[int | None, Bill],
    tools: Tools | None,
) -> None:
    """Draw and grade the answers and keep them, whole problems at a time.

    Raises:
        ConnectionError: the engine failed on `FAILURES` problems in a row.
    """
    waiting, flushed, patience = 0, time.monotonic(), Patience(len(problems))
    with tqdm(total=len(problems), unit="problem", desc=public(config.model), smoothing=0.05) as bar:
        right = judged = 0

        def progress(traces: Sequence[Trace]) -> None:
            nonlocal right, judged
            rewards = [trace.reward for trace in traces if trace.reward is not None]
            right, judged = right + sum(reward >= 1 for reward in rewards), judged + len(rewards)
            bar.set_postfix_str(f"{right / judged:.1%} right" if judged else "", refresh=False)
            bar.update()

        # The writer never flushes by itself: a problem must not be cut in two, or it would count as drawn.
        with store.writer(RUN, rows=1 << 40, size=1 << 60) as writer:
            async with (
                opened(config.model, config.dtype, config.api, config.cache_gib) as engine,
                judging(config.verify, config.model, engine, config.dtype) as verify,
            ):
                stream = rollout(
                    problems,
                    engine,
                    search=_search(config, budget, bills, tools),
                    grade=task.grade,
                    verify=verify,
                    sampling=sampling,
                    budget=budget,
                    concurrency=config.concurrency,
                    progress=progress,
                )
                async with aclosing(stream) as groups:
                    async for traces in groups:
                        writer.extend(traces)
                        waiting += len(traces)
                        if waiting >= FLUSH_TRACES or time.monotonic() - flushed > FLUSH_SECONDS:
                            writer.flush()
                            waiting, flushed = 0, time.monotonic()
                        patience.see(all(trace.stop == "error" for trace in traces), traces[0])


def _search(config: Config, budget: Budget, bills: dict[int | None, Bill], tools: Tools | None) -> Search:
    """k answers to a problem: one thought each, or each the end of a search of its own."""
    if budget.tokens is None:
        return partial(best_of_n, n=config.k, tools=tools)
    search = sized(config.search, budget.tokens, config.max_tokens)
    one = answering(partial(search, verify_tokens=config.verify_tokens, tools=tools), bills)

    async def several(
        messages: Messages, engine: Engine, *, budget: Budget, verify: Verify | None, sampling: Sampling
    ) -> Tree:
        trees = await together(
            one(messages, engine, budget=budget, verify=verify, sampling=replace(sampling, seed=each))
            for each in (derive(sampling.seed, place) for place in range(config.k))
        )
        growth = Growth(messages, engine.name)
        for tree in trees:
            growth.graft(tree)
        return growth.freeze(budget, note="; ".join(dict.fromkeys(tree.note for tree in trees if tree.note)))

    return several


def _report(
    folder: Path, config: Config, problems: Sequence[Problem], store: Store, seconds: float, price: str
) -> None:
    """Measure what the store holds, print the table, write the page."""
    from forethought.scaling.measure import Pool, gather  # with the page's matplotlib, a second that --help saves
    from forethought.scaling.report import write_report
    from forethought.scaling.stages import Report, Stage, save_report
    from forethought.scaling.table import table

    pools: dict[str, Pool] = {}
    known = {problem.id: problem for problem in problems}
    for problem_id, traces in groupby(store.traces(run=RUN), key=lambda trace: trace.problem_id):
        (pool,) = gather(traces, [known[problem_id]])
        if problem_id in pools:  # drawn again after the engine had failed on all of it
            samples = (*pools[problem_id].samples, *pool.samples)
            pool = replace(pool, samples=tuple(sample for sample in samples if sample.stop != "error") or samples)
        pools[problem_id] = pool
    ks = tuple(sorted({*(1 << i for i in range(config.k.bit_length())), config.k}))
    config = replace(config, model=public(config.model))
    stage = Stage(config.model, tuple(pools.values()), seconds=seconds, note=price)
    say(table(stage, ks))
    record = Report(
        title=f"{Path(config.problems).name}, {counted(len(pools), 'problem')}",
        model=described(config.model) + ", untrained" * is_untrained(config.model),
        stages=(stage,),
        ks=ks,
        config=asdict(config),
        command=typed(PROG, config),
    )
    save_report(folder, record)
    say(str(write_report(folder / "report.html", record)))
