"""Labels for the steps of thoughts: what a program knows, or what comes of going on from there.

    forethought label mc --store runs/cold --problems chain:steps=6 --model runs/cold --k 8

A labeller takes the traces of one problem and returns those that it could label, with a `Verdict` under its own name
whose `steps` are the labels; `verifier` trains process and value heads on them. Labels of people need no labeller: the
store has them already, as the verdicts of `people` and of each `person:NAME`.

`true` says that a step is right. `monte_carlo` and `omega` say what share of k continuations from its end are right:
the value of the model that goes on, not correctness (arXiv 2501.07301), which a head should read by its last step.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from forethought.problems import Task
from forethought.rollout import Grade
from forethought.search.budget import spent
from forethought.search.seeds import derive
from forethought.thought.steps import split
from forethought.types import Engine, Problem, Sampling, Step, Trace, Verdict

Labeller = Callable[[Problem, Sequence[Trace]], Awaitable[list[Trace]]]
Decode = Callable[[Sequence[int]], str]
Value = Callable[[int], Awaitable[float | None]]
"""MC of a thought's first so many steps; `None` where it could not be judged."""


@dataclass(slots=True)
class Completer:
    """Goes on from the middle of thoughts, k times from each place, and counts what that took."""

    engine: Engine
    grade: Grade
    sampling: Sampling
    """Of continuations; `max_tokens` is that of the whole thought."""
    decode: Decode | None
    """Tokens as text, to cut continuations into steps; `None` cuts their text alone (a server's)."""
    k: int = 8
    continuations: int = 0
    """Drawn so far."""
    tokens: int = 0
    """Sampled for them."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; a place needs at least 1 continuation to be valued")
        if self.k > 1 and self.sampling.temperature == 0:
            raise ValueError(f"temperature 0 draws the same continuation {self.k} times; give one above 0, or k=1")

    async def go_on(self, problem: Problem, trace: Trace, count: int) -> State:
        """The thought cut after its first `count` steps, and k graded thoughts that begin so.

        Their seeds come from the sampling's, the problem and the text so far: whoever asks draws the same.

        Raises:
            ValueError: so many tokens stand before that none is left of `sampling.max_tokens`.
        """
        prefix = trace.steps[:count]
        so_far = "".join(step.text for step in prefix)
        used = sum(len(step.tokens) or len(step.logprobs) for step in prefix)
        if used >= self.sampling.max_tokens:
            raise ValueError(
                f"a thought on {problem.id} has {used} tokens in its first {count} steps, and max_tokens is "
                f"{self.sampling.max_tokens}; allow as many as it was drawn with"
            )
        sampling = replace(self.sampling, max_tokens=self.sampling.max_tokens - used)

        async def one(number: int) -> Step:
            own = replace(sampling, seed=derive(sampling.seed, problem.id, so_far, number))
            return await self.engine.sample(trace.messages, prefix, own)

        drawn = await asyncio.gather(*(one(number) for number in range(self.k)))
        cost = sum(spent(step, sampling.max_tokens) for step in drawn)
        self.continuations += self.k
        self.tokens += cost
        whole = [
            Trace(problem.id, trace.messages, (*prefix, *_moves(step, self.decode)), self.engine.name) for step in drawn
        ]
        graded = await asyncio.to_thread(lambda: [_graded(problem, each, self.grade) for each in whole])
        return State(prefix, graded, share(graded), cost)


@dataclass(slots=True)
class State:
    """A place in a problem's thoughts, and what came of going on from it."""

    steps: tuple[Step, ...]
    rollouts: list[Trace]
    """Whole thoughts that begin with `steps`, graded."""
    value: float | None
    """MC(s): the share of them that are right; `None` where none could be judged."""
    cost: int = 0
    """Tokens sampled to say so."""
    visits: int = field(default=0)
    """N(s): binary searches that began here."""


def _graded(problem: Problem, trace: Trace, grade: Grade) -> Trace:
    return trace if trace.stop == "error" else replace(trace, verdicts={"grade": grade(problem, trace)})


def share(traces: Iterable[Trace]) -> float | None:
    """The share of the judged traces that are right; `None` where none was judged."""
    judged = [trace.reward == 1 for trace in traces if trace.reward is not None]
    return sum(judged) / len(judged) if judged else None


def cut(trace: Trace, decode: Decode | None) -> Trace:
    """The trace with every sampled step cut into moves (`thought.steps.split`), as labels and process heads need it.

    Raises:
        ValueError: it has tokens, and there is no `decode` to cut them by.
    """
    if decode is None and any(step.tokens and step.sampled for step in trace.steps):
        raise ValueError(
            f"the thoughts of {trace.policy} have tokens, which a server does not cut into steps: label them with a "
            "checkpoint that has their tokenizer"
        )
    return replace(
        trace,
        steps=tuple(piece for step in trace.steps for piece in (_moves(step, decode) if step.sampled else (step,))),
    )


def _moves(step: Step, decode: Decode | None) -> tuple[Step, ...]:
    return split(step, decode) if decode else split(replace(step, tokens=(), logprobs=()), str)


def noted(trace: Trace, judge: str, verdict: Verdict) -> Trace:
    """The trace with one more verdict."""
    return replace(trace, verdicts={**trace.verdicts, judge: verdict})


async def true(problem: Problem, traces: Sequence[Trace], *, task: Task, judge: str = "true") -> list[Trace]:
    """The task's own labels: 1 right, 0 wrong, `None` where a step claims nothing; the score is the worst of them.

    Raises:
        ValueError: the task does not know the steps of its thoughts.
    """
    if task.labels is None:
        raise ValueError(f"{task.name} does not know which steps are right; label by mc or omega")
    found = []
    for trace in traces:
        steps = task.labels(problem, trace)
        if told := [label for label in steps if label is not None]:
            found.append(noted(trace, judge, Verdict(min(told), steps)))
    return found


async def monte_carlo(
    problem: Problem, traces: Sequence[Trace], *, completer: Completer, judge: str = "mc"
) -> list[Trace]:
    """Math-Shepherd (arXiv 2312.08935, section 3.3): a step's label is the share of k continuations from its end that
    are right, the soft estimate (equation 4); above 0 is the hard one (equation 3). The last step's is the grade.

    A beginning that several traces have in common is gone on from once, and paid by the first of them.
    """
    judged = [trace for trace in traces if trace.reward is not None and trace.stop != "error"]
    first: dict[str, tuple[Trace, int]] = {}
    for trace in judged:
        for count in _ends(trace):
            first.setdefault(_so_far(trace, count), (trace, count))
    states = await asyncio.gather(*(completer.go_on(problem, trace, count) for trace, count in first.values()))
    values = dict(zip(first, states, strict=True))
    found = []
    for trace in judged:
        labels: list[float | None] = [None] * len(trace.steps)
        cost = 0
        for count in _ends(trace):
            state = values[_so_far(trace, count)]
            labels[count - 1] = state.value
            cost, state.cost = cost + state.cost, 0
        labels[-1] = float(trace.reward == 1)
        found.append(noted(trace, judge, Verdict(trace.reward, tuple(labels), cost=cost)))
    return found


async def bisect(value: Value, sound: int, wrong: int) -> int | None:
    """The first error between `sound` steps, from which a right end was seen, and `wrong` steps, from which none is to
    be had, by a binary search (arXiv 2406.06592, section 3.2): it looks at most at ceil(log2(wrong - sound)) places.

    It takes for granted that hopeless places have only hopeless ones behind them. Returns the step's number from 0, the
    first after which `value` is 0; `None` where a place could not be judged.
    """
    while wrong - sound > 1:
        middle = (sound + wrong) // 2
        found = await value(middle)
        if found is None:
            return None
        sound, wrong = (middle, wrong) if found else (sound, middle)
    return wrong - 1


async def scan(value: Value, sound: int, wrong: int) -> int | None:
    """As `bisect`, one place after the other: as many as there are steps to the first after which `value` is 0."""
    for count in range(sound + 1, wrong):
        found = await value(count)
        if found is None:
            return None
        if not found:
            return count - 1
    return wrong - 1


async def omega(
    problem: Problem,
    traces: Sequence[Trace],
    *,
    completer: Completer,
    judge: str = "omega",
    searches: int = 100,
    alpha: float = 0.5,
    beta: float = 0.9,
    length: int = 500,
    explore: float = 0.125,
) -> list[Trace]:
    """OmegaPRM (arXiv 2406.06592, section 3.3): binary searches for the first error of wrong thoughts, k continuations
    at each place looked at, log2 of the steps many; the continuations are thoughts that may be searched next.

    The traces are the root's rollouts. Of all wrong rollouts r of places s with 0 < MC(s) < 1, the one with the
    largest Q + U is searched: Q = alpha^(1 - MC(s)) * beta^(tokens of r / length), U = explore * sqrt(sum of N) /
    (1 + N(s)). A problem whose traces are all right, or all wrong, has no such place and is left out.

    Returns:
        The thoughts that were searched, at most `searches`. `steps` has MC where it is known and 0 at the end;
        `parts["first_error"]` is the first step, from 0, after which no continuation was right.
    """
    judged = [trace for trace in traces if trace.reward is not None and trace.stop != "error"]
    root = State((), judged, share(judged))
    states = {"": root}
    pool: list[tuple[State, Trace]] = []
    seen: set[str] = set()

    def admit(state: State) -> None:
        """The wrong rollouts of a place from which right ones begin too, each text of the problem once."""
        for trace in state.rollouts if state.value and state.value < 1 else ():
            if trace.reward is not None and trace.reward != 1 and trace.text not in seen:
                seen.add(trace.text)
                pool.append((state, trace))

    admit(root)
    searched: list[tuple[Trace, int, int]] = []
    while pool and len(searched) < searches:
        visits = sum(state.visits for state in states.values())

        def worth(candidate: tuple[State, Trace], visits: int = visits) -> float:
            state, trace = candidate
            tokens = sum(len(step.tokens) for step in trace.steps[len(state.steps) :])
            quality: float = alpha ** (1 - (state.value or 0)) * beta ** (tokens / length)
            return quality + explore * math.sqrt(visits) / (1 + state.visits)

        state, trace = pool.pop(max(range(len(pool)), key=lambda index: worth(pool[index])))
        state.visits += 1
        costs: list[int] = []

        async def value(count: int, trace: Trace = trace, costs: list[int] = costs) -> float | None:
            so_far = _so_far(trace, count)
            if so_far not in states:
                states[so_far] = await completer.go_on(problem, trace, count)
                admit(states[so_far])
                costs.append(states[so_far].cost)
            return states[so_far].value

        error = await bisect(value, len(state.steps), len(trace.steps))
        if error is not None:
            searched.append((trace, error, sum(costs)))
    found = []
    for trace, error, cost in searched:
        known = [states.get(_so_far(trace, count)) for count in range(1, len(trace.steps))]
        labels = (*(None if state is None else state.value for state in known), 0.0)
        verdict = Verdict(trace.reward, labels, parts={"first_error": float(error)}, cost=cost)
        found.append(noted(trace, judge, verdict))
    return found


def _ends(trace: Trace) -> list[int]:
    """Where a trace can be gone on from: after every step that was sampled, but the last."""
    return [count for count, step in enumerate(trace.steps[:-1], 1) if step.sampled]


def _so_far(trace: Trace, count: int) -> str:
    return "".join(step.text for step in trace.steps[:count])


def problems_of(task: Task, ids: Iterable[str]) -> dict[str, Problem]:
    """The task's problems with these ids, by id.

    Raises:
        ValueError: the task has no such problem.
    """
    wanted = dict.fromkeys(ids)
    found: dict[str, Problem] = {}
    if task.finite:
        found = {problem.id: problem for split in ("train", "test") for problem in task.load(split)}
    else:
        most: dict[tuple[str, str], int] = {}
        for id in wanted:
            _, split, seed, index = ["", "", "", *id.split("/")][-4:]
            if split in ("train", "test") and seed.lstrip("-").isdigit() and index.isdigit():
                most[split, seed] = max(most.get((split, seed), 0), int(index) + 1)
        for (split, seed), count in most.items():
            problems = task.load("train" if split == "train" else "test", count=count, seed=int(seed))
            found |= {problem.id: problem for problem in problems}
    if missing := [id for id in wanted if id not in found]:
        raise ValueError(f"{task.name} has no problem {missing[0]!r}; name the task that the traces were drawn from")
    return {id: found[id] for id in wanted}


async def labelled(
    groups: Iterable[tuple[Problem, Sequence[Trace]]], labeller: Labeller, *, concurrency: int = 16
) -> AsyncGenerator[list[Trace], None]:
    """Each problem's traces with their labels, as they are ready; `concurrency` problems are at work at one time."""
    places = asyncio.Semaphore(concurrency)

    async def one(problem: Problem, traces: Sequence[Trace]) -> list[Trace]:
        async with places:
            return await labeller(problem, traces)

    tasks = [asyncio.create_task(one(problem, traces)) for problem, traces in groups]
    try:
        for ready in asyncio.as_completed(tasks):
            yield await ready
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
