"""Problems x search x grade -> traces, as a stream in bounded memory."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from forethought.search.best_of_n import best_of_n
from forethought.search.budget import UNLIMITED
from forethought.search.seeds import derive
from forethought.search.work import PLAIN
from forethought.types import Budget, Engine, Messages, Problem, Sampling, Step, Trace, Tree, Verdict
from forethought.verify.verdict import Verify

log = logging.getLogger(__name__)

Grade = Callable[[Problem, Trace], Verdict]
"""A task's own judge; it may read the answer."""


class Search(Protocol):
    """What `rollout` calls for each problem; a search's own knobs are bound with `functools.partial`."""

    async def __call__(
        self, messages: Messages, engine: Engine, *, budget: Budget, verify: Verify | None, sampling: Sampling
    ) -> Tree: ...


@dataclass(frozen=True, slots=True)
class _Guarded:
    """The boundary at the engine call: whatever it raises becomes a step that says so, and the run goes on.

    A `ValueError` passes: it names what the caller must change. The traceback of a fault goes to the log.
    """

    engine: Engine

    @property
    def name(self) -> str:
        return self.engine.name

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        try:
            return await self.engine.sample(messages, prefix, sampling)
        except ValueError:
            raise
        except Exception as error:
            log.warning("engine %s failed; the sample is kept as an error", self.engine.name, exc_info=True)
            return Step(text=f"{type(error).__name__}: {error}", stop="error", sampled=False)

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        return await self.engine.logprobs(messages, steps)


def traces_of(tree: Tree, problem_id: str, name: str | None = None) -> list[Trace]:
    """Every root-to-leaf path of `tree`, leaves in order; `name` is what the store will call the tree.

    A search in which no sample ended at all still gives one trace, without steps (its `stop` is `error`).
    """
    found = []
    for leaf in tree.leaves() or (0,):
        path = tree.path(leaf)
        values = tuple(tree.nodes[node].value for node in path)
        found.append(Trace(problem_id, tree.messages, tree.steps(leaf), tree.policy, name, path, values))
    return found


async def rollout(
    problems: Iterable[Problem],
    engine: Engine,
    *,
    search: Search = best_of_n,
    grade: Grade | None = None,
    verify: Verify | None = None,
    sampling: Sampling = PLAIN,
    budget: Budget = UNLIMITED,
    concurrency: int = 64,
    progress: Callable[[Sequence[Trace]], None] | None = None,
) -> AsyncGenerator[list[Trace], None]:
    """Search each problem and stream its traces: one list per problem, one trace per leaf, in the problems' order.

    `concurrency` problems are searched at once, each under a `budget` of its own; all their samples are asked for
    before the first list is awaited. At most twice as many problems are ahead of the consumer, so a slow one halts
    the stream rather than filling memory, and `problems` may be endless. Leave early through `contextlib.aclosing`:
    what is in flight is then cancelled.

    A problem's seed comes from `sampling.seed` and its id alone, so neither order nor resumption changes its samples;
    without a seed a fresh one is drawn for the whole rollout. `Trace.tree` is `policy/problem id/seed`, the seed being
    the rollout's: give another one to sample a problem again under the same policy.

    `grade` runs in threads; its verdict is `Trace.verdicts["grade"]`. A trace that ended in an engine's fault (any
    exception out of the engine call but `ValueError`) is kept with `stop="error"`; it is not graded, and its verdict
    has `score=None` and the fault as its note. Bugs of a search, a verifier or a grade propagate, in problem order.
    `progress` is called with each problem's traces as soon as they are there, before their turn.

    Raises:
        ValueError: `concurrency` is below 1, or the engine or a judge refuses a problem, which is named.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; at least 1 problem must be searched at a time")
    seed = secrets.randbelow(2**53) if sampling.seed is None else sampling.seed
    guarded = _Guarded(engine)
    places = asyncio.Semaphore(concurrency)

    async def one(problem: Problem) -> list[Trace]:
        own = replace(sampling, seed=derive(seed, problem.id))
        async with places:
            try:
                tree = await search(problem.messages, guarded, budget=budget, verify=verify, sampling=own)
            except ValueError as error:
                raise ValueError(f"problem {problem.id}: {error}") from error
        traces = traces_of(tree, problem.id, f"{tree.policy}/{problem.id}/{seed}")
        if grade is not None:
            traces = await asyncio.to_thread(_graded, problem, traces, grade, tree.note)
        if progress is not None:
            progress(traces)
        return traces

    upcoming = iter(problems)
    window: deque[asyncio.Task[list[Trace]]] = deque()
    try:
        while True:
            while len(window) < 2 * concurrency and (problem := next(upcoming, None)) is not None:
                window.append(asyncio.create_task(one(problem)))
            if not window:
                return
            traces = await window[0]
            window.popleft()
            yield traces
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)


def _graded(problem: Problem, traces: list[Trace], grade: Grade, note: str) -> list[Trace]:
    def verdict(trace: Trace) -> Verdict:
        if trace.stop != "error":
            return grade(problem, trace)
        return Verdict(score=None, note=trace.steps[-1].text if trace.steps else note or "no sample ended")

    return [replace(trace, verdicts={**trace.verdicts, "grade": verdict(trace)}) for trace in traces]


def collect(problems: Iterable[Problem], engine: Engine, **options: Any) -> list[list[Trace]]:
    """All of `rollout(problems, engine, **options)` in a list, for scripts without an event loop of their own."""

    async def run() -> list[list[Trace]]:
        async with aclosing(rollout(problems, engine, **options)) as groups:
            return [group async for group in groups]

    return asyncio.run(run())
