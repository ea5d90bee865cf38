"""`forethought label`: label the steps of a store's thoughts, and say what that cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from forethought.cli.terminal import rows, say, tell
from forethought.engines.open import needing_weights, open_engine
from forethought.engines.usage import Usage, counting
from forethought.problems import Task, open_task
from forethought.store import Store
from forethought.types import Problem, Sampling, Trace

DESCRIPTION = """Label the steps of a store's thoughts; they are kept there again with the labels, as another run.

true: what the task knows; is the step right? It costs nothing.

mc: the share of k continuations from the step's end that are right (Math-Shepherd).

omega: the same, at the places that a binary search for the first error looks at (OmegaPRM).

Thoughts are labelled whole problems at a time; the same command goes on where it was stopped. What people said
on the page Label is in the store already: `forethought train verifier --labels people` reads it."""

FLUSH_TRACES, FLUSH_SECONDS = 512, 30.0
"""A shard is written, whole problems only, when so many traces wait, or after so long: what a kill can lose."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `forethought label` is asked."""

    method: Annotated[tyro.conf.Positional[Literal["true", "mc", "omega"]], tyro.conf.arg(metavar="true|mc|omega")]
    """Where labels come from."""
    store: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """A store, or the folder of a run."""
    problems: Annotated[str, tyro.conf.arg(metavar="TASK|FILE")]
    """What the thoughts were drawn on; it grades continuations, and has the true labels."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    """Who goes on from the middle of thoughts, and whose tokenizer cuts them into steps; a server cuts text alone."""
    run: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the only one)")] = ""
    """The run whose thoughts are labelled."""
    name: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the method)")] = ""
    """What the labels, and the run that has them, are called."""
    k: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Continuations from each place."""
    searches: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """Most thoughts of one problem that omega searches."""
    max_tokens: Annotated[int, tyro.conf.arg(metavar="N")] = 256
    """Longest thought, its continuation included."""
    temperature: Annotated[float, tyro.conf.arg(metavar="T")] = 1.0
    """Of continuations."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Take the first so many problems."""
    concurrency: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Problems at work at one time."""
    question: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = "question"
    """A file's column of questions."""
    answer: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = "answer"
    """A file's column of answers."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of continuations."""
    dtype: Annotated[str, tyro.conf.arg(metavar="auto|bf16|fp32")] = "auto"
    """What to compute in."""


def label(words: list[str]) -> int:
    """Label what is not labelled yet, and print what the labels are and what they cost."""
    options = tyro.cli(Options, prog="forethought label", description=DESCRIPTION, args=words)
    for name in ("k", "searches", "concurrency"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} is {getattr(options, name)}; it must be at least 1")
    with needing_weights("forethought label"):
        from forethought.recipes.label import problems_of
        from forethought.recipes.verifier import chosen

    store, run = chosen(options.store, options.run)
    name = options.name or options.method
    if name == run:
        raise ValueError(f"{name!r} is the run whose thoughts are labelled; give the labels another --name")
    task = open_task(options.problems, question=options.question, answer=options.answer)
    groups: dict[str, list[Trace]] = {}
    for trace in store.traces(run=run):
        groups.setdefault(trace.problem_id, []).append(trace)
    done = {entry.problem_id for entry in store.entries(run=name)}
    ids = [id for id in list(groups)[: options.limit] if id not in done]
    if not ids:
        raise ValueError(f"all problems of run {run!r} are labelled already, in run {name!r}; give another --name")
    problems = problems_of(task, ids)
    before = f" ({len(done):,} are labelled already)" if done else ""
    tell(f"{len(ids):,} problems, {sum(len(groups[id]) for id in ids):,} thoughts{before}")
    asyncio.run(_label(options, name, task, [(problems[id], groups[id]) for id in ids], store))
    return 0


async def _label(
    options: Options, name: str, task: Task, groups: Sequence[tuple[Problem, list[Trace]]], store: Store
) -> None:
    from forethought.recipes.label import Completer, Labeller, cut, labelled, monte_carlo, omega, true

    began = time.monotonic()
    engine = open_engine(options.model, dtype=options.dtype)
    decode = getattr(engine, "decode", None)  # a server has none: it labels thoughts that came as text alone
    sampling = Sampling(options.max_tokens, options.temperature, seed=options.seed)
    completer = Completer(engine, task.grade, sampling, decode, options.k)
    labellers: dict[str, Labeller] = {
        "true": partial(true, task=task, judge=name),
        "mc": partial(monte_carlo, completer=completer, judge=name),
        "omega": partial(omega, completer=completer, judge=name, searches=options.searches),
    }
    pieces = [(problem, [cut(trace, decode) for trace in traces]) for problem, traces in groups]
    work = labelled(pieces, labellers[options.method], concurrency=options.concurrency)
    found: list[Trace] = []
    waiting, flushed = 0, time.monotonic()
    with store.writer(name) as writer, tqdm(total=len(pieces), unit="problem", desc=name) as bar, counting() as usage:
        async with aclosing(work) as ready:
            async for traces in ready:
                writer.extend(traces)
                found += traces
                waiting += len(traces)
                if waiting >= FLUSH_TRACES or time.monotonic() - flushed >= FLUSH_SECONDS:
                    writer.flush()
                    waiting, flushed = 0, time.monotonic()
                bar.update()
    say(_summary(found, name, completer.continuations, completer.tokens, usage, time.monotonic() - began))
    say(f"{store.path} (run {name})")


def _summary(found: Sequence[Trace], name: str, continuations: int, tokens: int, usage: Usage, seconds: float) -> str:
    """What was labelled, and its price: all of it, and for each label and each first error that was found."""
    labels = [label for trace in found for label in trace.verdicts[name].steps if label is not None]
    errors = sum(0.0 in trace.verdicts[name].steps for trace in found)
    counts = {
        "thoughts labelled": len(found),
        "labels": len(labels),
        "thoughts with a first error": errors,
        "continuations": continuations,
        "tokens sampled": tokens,
        "tokens prefilled": usage.prefilled,
    }
    lines = [(what, f"{count:,}") for what, count in counts.items()]
    lines.append(("mean label", f"{sum(labels) / len(labels):.3f}" if labels else "–"))
    if tokens and labels:
        lines.append(("tokens sampled a label", f"{tokens / len(labels):,.1f}"))
    if tokens and errors:
        lines.append(("tokens sampled a first error", f"{tokens / errors:,.1f}"))
    return rows(("", name), [*lines, ("seconds", f"{seconds:,.1f}")], "<>")
