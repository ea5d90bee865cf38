"""Rollouts: order, back-pressure, faults as data, bugs as bugs."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest

from forethought.engines.scripted import Scripted, always
from forethought.rollout import collect, rollout, traces_of
from forethought.search.best_of_n import best_of_n
from forethought.search.tree import Growth
from forethought.types import Budget, Messages, Problem, Sampling, Step, Trace, Verdict, user

PAIR = partial(best_of_n, n=2)


def problems(count: int) -> list[Problem]:
    return [Problem(id=f"sum/{i}", messages=user(f"{i}+0?"), answer=str(i)) for i in range(count)]


def echo(messages: Messages, prefix: Any, sampling: Sampling, call: int) -> str:
    """Answers right, and shows its seed so that a draw can be recognised."""
    return f"{sampling.seed} \\boxed{{{messages[0]['content'].split('+')[0]}}}"


def grade(problem: Problem, trace: Trace) -> Verdict:
    return Verdict(float(f"boxed{{{problem.answer}}}" in trace.text), answer=problem.answer)


class Failing(Scripted):
    """Raises `error` on every call whose number is in `calls`."""

    def __init__(self, error: Exception, calls: Sequence[int]) -> None:
        super().__init__(echo)
        self.error, self.at = error, calls

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        call = self.calls
        step = await super().sample(messages, prefix, sampling)
        if call in self.at:
            raise self.error
        return step


def test_groups_come_in_order_one_trace_a_leaf_and_graded() -> None:
    groups = collect(problems(5), Scripted(echo), search=PAIR, grade=grade, sampling=Sampling(seed=1), concurrency=2)
    assert [[trace.problem_id for trace in group] for group in groups] == [[f"sum/{i}"] * 2 for i in range(5)]
    assert [trace.tree for trace in groups[3]] == ["scripted/sum/3/1"] * 2
    assert [trace.nodes for trace in groups[0]] == [(1,), (2,)]
    assert [trace.values for trace in groups[0]] == [(None,), (None,)]
    assert all(trace.reward == 1.0 and trace.stop == "end" for group in groups for trace in group)
    assert groups[2][0].messages == user("2+0?")


def test_samples_depend_on_seed_and_id_alone() -> None:
    options: dict[str, Any] = {"search": PAIR, "sampling": Sampling(seed=3)}
    whole = collect(problems(4), Scripted(echo), **options)
    resumed = collect(problems(4)[::-1][:2], Scripted(echo), concurrency=1, **options)
    assert resumed == [whole[3], whole[2]]
    assert len({trace.text.split()[0] for group in whole for trace in group}) == 8
    assert collect(problems(1), Scripted(echo), search=PAIR, sampling=Sampling(seed=4))[0] != whole[0]


def test_without_a_seed_every_rollout_is_a_fresh_one() -> None:
    first, second = (collect(problems(1), Scripted(echo), search=PAIR)[0] for _ in range(2))
    assert first[0].tree == first[1].tree != second[0].tree
    assert first[0].text != second[0].text


def test_samples_of_all_first_problems_are_asked_for_together() -> None:
    engine = Scripted(echo, delay=0.02)
    collect(problems(20), engine, search=partial(best_of_n, n=4), concurrency=10)
    assert engine.most_in_flight == 40


def test_a_slow_consumer_halts_an_endless_stream() -> None:
    taken = 0

    def endless() -> Iterator[Problem]:
        nonlocal taken
        for taken in itertools.count(1):
            yield Problem(id=str(taken), messages=user(f"{taken}+0?"), answer="")

    async def run() -> list[int]:
        seen = []
        async with aclosing(rollout(endless(), Scripted(echo), search=PAIR, concurrency=3)) as groups:
            async for _ in groups:
                await asyncio.sleep(0.005)
                seen.append(taken)
                if len(seen) == 10:
                    break
        return seen

    assert asyncio.run(run()) == [6 + i for i in range(10)]


def test_leaving_early_cancels_what_is_in_flight() -> None:
    class Stuck(Scripted):
        async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
            self.delay = 60.0 if self.calls >= 2 else 0.0
            return await super().sample(messages, prefix, sampling)

    async def run() -> int:
        engine = Stuck(echo)
        async with aclosing(rollout(problems(9), engine, search=PAIR)) as groups:
            await anext(groups)
        return engine.in_flight

    assert asyncio.run(run()) == 0


def test_one_slow_problem_does_not_halt_the_others() -> None:
    class Late(Scripted):
        async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
            step = await super().sample(messages, prefix, sampling)
            await asyncio.sleep(0.1 if messages == user("0+0?") else 0)
            return step

    ended: list[str] = []
    options: dict[str, Any] = {"concurrency": 3, "progress": lambda traces: ended.append(traces[0].problem_id)}
    groups = collect(problems(9), Late(echo), search=PAIR, **options)
    assert ended[:6] == ["sum/1", "sum/2", "sum/3", "sum/4", "sum/5", "sum/0"]
    assert [group[0].problem_id for group in groups] == [f"sum/{i}" for i in range(9)]


def test_a_fault_of_the_engine_is_data(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Trace] = []

    def strict(problem: Problem, trace: Trace) -> Verdict:
        asked.append(trace)
        return grade(problem, trace)

    engine = Failing(RuntimeError("CUDA out of memory"), calls=[2])
    groups = collect(problems(3), engine, search=PAIR, grade=strict, concurrency=1)
    failed, fine = groups[1]
    assert (failed.stop, failed.steps[0].sampled, failed.reward) == ("error", False, None)
    assert failed.verdicts["grade"] == Verdict(None, note="RuntimeError: CUDA out of memory")
    assert fine.reward == 1.0
    assert len(asked) == 5
    assert "Traceback" in caplog.text


def test_an_error_step_of_the_engine_is_not_graded_either() -> None:
    group = collect(problems(1), Scripted(always(OSError("gone"))), search=PAIR, grade=grade)[0]
    assert [trace.verdicts["grade"] for trace in group] == [Verdict(None, note="OSError: gone")] * 2


def test_a_search_without_any_sample_still_says_so() -> None:
    engine = Scripted(echo, delay=60.0)
    group = collect(problems(1), engine, search=PAIR, grade=grade, budget=Budget(seconds=0.02))[0]
    assert [(trace.steps, trace.stop) for trace in group] == [((), "error")]
    assert group[0].verdicts["grade"].note == "2 of 2 samples cut off after 0.02 seconds"
    assert group[0].reward is None


def test_bad_input_passes_and_names_the_problem() -> None:
    engine = Failing(ValueError("a prompt of 9000 tokens"), calls=[3])
    with pytest.raises(ValueError, match="problem sum/1: a prompt of 9000 tokens"):
        collect(problems(3), engine, search=PAIR)


def test_bugs_of_search_grade_and_judge_propagate() -> None:
    def buggy(problem: Problem, trace: Trace) -> Verdict:
        raise KeyError("gold")

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        raise TypeError("no such head")

    with pytest.raises(KeyError, match="gold"):
        collect(problems(2), Scripted(echo), search=PAIR, grade=buggy)
    with pytest.raises(TypeError, match="no such head"):
        collect(problems(2), Scripted(echo), search=PAIR, verify=judge)


def test_a_slow_grade_does_not_block_the_engine() -> None:
    def slow(problem: Problem, trace: Trace) -> Verdict:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.05)
        return Verdict(1.0)

    engine = Scripted(echo)
    sampled: list[int] = []
    options: dict[str, Any] = {"progress": lambda traces: sampled.append(engine.calls)}
    collect(problems(8), engine, search=partial(best_of_n, n=1), grade=slow, concurrency=1, **options)
    assert sampled[0] >= 2


def test_each_problem_has_a_budget_of_its_own() -> None:
    groups = collect(problems(3), Scripted(always("x" * 8)), search=PAIR, budget=Budget(tokens=10))
    assert [[(len(trace.text), trace.stop) for trace in group] for group in groups] == [[(8, "end"), (2, "budget")]] * 3


def test_a_deep_tree_gives_every_path() -> None:
    growth = Growth(user("?"), "m@3")
    first = growth.add(0, Step("a"), value=0.1)
    for text, value in (("b", 0.2), ("c", None)):
        growth.add(first, Step(text), value)
    traces = traces_of(growth.freeze(Budget()), "p", "t")
    assert [(trace.text, trace.nodes, trace.values) for trace in traces] == [
        ("ab", (1, 2), (0.1, 0.2)),
        ("ac", (1, 3), (0.1, None)),
    ]
    assert {(trace.policy, trace.tree, trace.problem_id) for trace in traces} == {("m@3", "t", "p")}


def test_no_problems_no_traces_and_no_room_is_refused() -> None:
    assert collect([], Scripted(echo)) == []
    with pytest.raises(ValueError, match="concurrency is 0"):
        collect(problems(1), Scripted(echo), concurrency=0)
