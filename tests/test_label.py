"""Labels of steps against counts made by hand, and what they cost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from forethought.engines.scripted import Reply, Scripted
from forethought.problems import Task, open_task
from forethought.recipes.label import (
    Completer,
    Labeller,
    bisect,
    cut,
    labelled,
    monte_carlo,
    omega,
    problems_of,
    scan,
    true,
)
from forethought.rollout import collect
from forethought.search.best_of_n import best_of_n
from forethought.types import Messages, Problem, Sampling, Step, Trace, Verdict, user

PROBLEM = Problem("letters/train/0/0", user("spell"), "a")
RIGHT, WRONG = "\\boxed{a}", "\\boxed{z}"


def decode(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def spelled(text: str) -> Step:
    return Step(text, tuple(map(ord, text)), (-0.5,) * len(text))


def thought(*lines: str, reward: float | None = None) -> Trace:
    trace = Trace(PROBLEM.id, PROBLEM.messages, tuple(spelled(line) for line in lines), "scripted")
    graded = grade(PROBLEM, trace) if reward is None else Verdict(reward)
    return Trace(trace.problem_id, trace.messages, trace.steps, trace.policy, verdicts={"grade": graded})


def grade(problem: Problem, trace: Trace) -> Verdict:
    return Verdict(float(RIGHT in trace.text), answer="a")


def completer(script: Callable[..., Reply], k: int = 4) -> tuple[Completer, Scripted]:
    engine = Scripted(script)
    return Completer(engine, grade, Sampling(1000, seed=0), decode, k), engine


def label(labeller: Labeller, *traces: Trace) -> list[Trace]:
    async def run() -> list[Trace]:
        return await labeller(PROBLEM, traces)

    return asyncio.run(run())


def sound(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
    """Ends rightly exactly where nothing before is wrong."""
    return "-\n" + (WRONG if any("x" in step.text for step in prefix) else RIGHT)


def wavering(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
    """Of a sound beginning every second continuation goes wrong at its first line, the others end rightly."""
    if any("x" in step.text for step in prefix) or call % 2:
        return "xx\n" + WRONG
    return RIGHT


def test_monte_carlo_labels_are_the_counted_shares() -> None:
    """Right continuations: 4 of 4 after the first step, 2 of 4 after the second, 0 after the third; the last step's
    label is the grade."""
    right = {1: 4, 2: 2, 3: 0}
    said: dict[int, int] = {}

    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        said[len(prefix)] = said.get(len(prefix), 0) + 1
        return RIGHT if said[len(prefix)] <= right[len(prefix)] else WRONG

    worker, engine = completer(script)
    (found,) = label(partial(monte_carlo, completer=worker), thought("a\n", "b\n", "c\n", WRONG))
    assert found.verdicts["mc"].steps == (1.0, 0.5, 0.0, 0.0)
    assert found.verdicts["mc"].cost == worker.tokens == engine.tokens == 12 * len(RIGHT)
    assert worker.continuations == engine.calls == 3 * 4
    assert {len(prefix) for _, prefix, _ in engine.asked} == {1, 2, 3}


def test_what_two_thoughts_begin_with_is_gone_on_from_once() -> None:
    worker, engine = completer(sound)
    both = label(partial(monte_carlo, completer=worker), thought("a\n", "b\n", RIGHT), thought("a\n", "x\n", WRONG))
    assert [trace.verdicts["mc"].steps for trace in both] == [(1.0, 1.0, 1.0), (1.0, 0.0, 0.0)]
    assert engine.calls == 3 * 4  # after "a", "ab" and "ax"
    assert sum(trace.verdicts["mc"].cost for trace in both) == engine.tokens
    assert both[0].verdicts["mc"].cost == 2 * both[1].verdicts["mc"].cost


def test_same_seed_same_continuations_and_the_whole_thought_keeps_its_limit() -> None:
    asked = []
    for _ in range(2):
        worker, engine = completer(sound, k=2)
        label(partial(monte_carlo, completer=worker), thought("a\n", "b\n", RIGHT))
        asked.append([(sampling.seed, sampling.max_tokens) for _, _, sampling in engine.asked])
    assert asked[0] == asked[1]
    assert len({seed for seed, _ in asked[0]}) == 4
    assert [limit for _, limit in asked[0]] == [998, 998, 996, 996]


def test_what_cannot_be_judged_is_no_label() -> None:
    """A continuation that failed is left out of the share; a thought without a grade is not labelled."""
    worker, _ = completer(lambda messages, prefix, sampling, call: OSError("gone") if call % 2 else RIGHT)
    ungraded = Trace(PROBLEM.id, PROBLEM.messages, (spelled("a\n"), spelled(RIGHT)), "scripted")
    (found,) = label(partial(monte_carlo, completer=worker), thought("b\n", WRONG), ungraded)
    assert found.verdicts["mc"].steps == (1.0, 0.0)
    worker, _ = completer(lambda messages, prefix, sampling, call: OSError("gone"))
    (found,) = label(partial(monte_carlo, completer=worker), thought("b\n", WRONG))
    assert found.verdicts["mc"].steps == (None, 0.0)


@pytest.mark.parametrize("steps", [4, 8, 16, 64])
def test_omega_finds_the_first_error_with_log2_of_the_steps_places(steps: int) -> None:
    """Wherever it is, at k continuations for each of log2(M) places; Math-Shepherd asks at M - 1."""
    for error in range(steps):
        lines = [f"{'x' if at >= error else 'a'}\n" for at in range(steps - 1)]
        worker, engine = completer(sound)
        wrong = thought(*lines, WRONG)
        (found,) = label(partial(omega, completer=worker), wrong, thought("a\n", RIGHT))
        verdict = found.verdicts["omega"]
        assert verdict.parts["first_error"] == error
        assert engine.calls == worker.continuations == 4 * math.log2(steps)
        assert verdict.cost == engine.tokens == worker.tokens
        assert all(label in (None, 1.0, 0.0) for label in verdict.steps)
        told = {at: label for at, label in enumerate(verdict.steps) if label is not None}
        assert told[error] == 0.0
        assert all((label == 1.0) == (at < error) for at, label in told.items())
        worker, engine = completer(sound)
        if error in (0, steps - 1):
            label(partial(monte_carlo, completer=worker), wrong)
            assert engine.calls == 4 * (steps - 1)


@pytest.mark.parametrize("search", [bisect, scan])
def test_a_search_ends_where_a_place_cannot_be_judged(search: Callable[..., Any]) -> None:
    async def value(count: int) -> float | None:
        return None

    assert asyncio.run(search(value, 0, 4)) is None
    assert asyncio.run(search(value, 3, 4)) == 3  # nothing to look at: the last step is wrong


def test_omega_goes_on_with_wrong_continuations_and_asks_at_no_place_twice() -> None:
    worker, engine = completer(wavering, k=2)
    found = label(partial(omega, completer=worker), thought("a\n", "b\n", "x\n", WRONG), thought("a\n", "b\n", RIGHT))
    texts = [trace.text for trace in found]
    assert texts[0] == "a\nb\nx\n" + WRONG
    assert len(texts) == len(set(texts)) == 2  # the thought of the store, and "a b xx z", cut from a continuation
    assert [trace.verdicts["omega"].parts["first_error"] for trace in found] == [2.0, 2.0]
    places = ["".join(step.text for step in prefix) for _, prefix, _ in engine.asked]
    assert all(places.count(place) == 2 for place in places)
    assert found[1].reward == 0.0
    assert found[0].verdicts["omega"].steps[1] == 0.5


def test_omega_takes_the_place_that_is_nearest_to_right_and_the_shortest_way_to_wrong() -> None:
    """Q prefers the shorter of two rollouts of one place; `searches` ends the work."""
    worker, _ = completer(sound)
    short, long = thought("x\n", WRONG), thought("x" * 40 + "\n", WRONG)
    (found,) = label(partial(omega, completer=worker, searches=1), long, short, thought(RIGHT))
    assert found.text == short.text
    (found,) = label(partial(omega, completer=worker, searches=1, beta=1.1), long, short, thought(RIGHT))
    assert found.text == long.text


@pytest.mark.parametrize("ends", [RIGHT, WRONG])
def test_omega_leaves_out_a_problem_without_both_right_and_wrong(ends: str) -> None:
    worker, engine = completer(sound)
    assert label(partial(omega, completer=worker), thought("a\n", ends), thought("b\n", ends)) == []
    assert engine.calls == 0


def test_true_labels_are_the_tasks_own() -> None:
    task = open_task("chain:steps=2")
    (problem,) = task.load("train", count=1)
    assert task.worked is not None
    whole = task.worked(problem)
    steps = (Step(whole, tuple(map(ord, whole))),)
    trace = cut(Trace(problem.id, problem.messages, steps, "t"), decode)
    wrong = Trace(problem.id, problem.messages, (*trace.steps[:2], Step("c=1*1=9=9\n"), *trace.steps[3:]), "t")
    talk = Trace(problem.id, problem.messages, (Step("let me see\n"),), "t")
    found = asyncio.run(true(problem, [trace, wrong, talk], task=task))
    assert [one.verdicts["true"].score for one in found] == [1.0, 0.0]
    assert found[1].verdicts["true"].steps == (None, 1.0, 0.0, None, 1.0)
    with pytest.raises(ValueError, match="mc or omega"):
        asyncio.run(true(problem, [trace], task=Task("t", task.load, task.grade)))


def test_cutting_keeps_every_token() -> None:
    engine = Scripted(["a\nb\n" + RIGHT])
    ((trace,),) = collect([PROBLEM], engine, search=partial(best_of_n, n=1), grade=grade, sampling=Sampling(50, seed=1))
    pieces = cut(trace, decode)
    assert [step.text for step in pieces.steps] == ["a\n", "b\n", RIGHT]
    assert sum((step.tokens for step in pieces.steps), ()) == trace.steps[0].tokens
    assert pieces.verdicts == trace.verdicts


def test_a_server_labels_thoughts_that_came_as_text_alone() -> None:
    """Its own continuations are cut by their text; thoughts with tokens are refused, for they would be lost."""
    written = Trace(PROBLEM.id, PROBLEM.messages, (Step(f"a\nx\n{WRONG}"),), "server", verdicts={"grade": Verdict(0.0)})
    pieces = cut(written, None)
    assert [step.text for step in pieces.steps] == ["a\n", "x\n", WRONG]
    worker = Completer(Scripted(wavering), grade, Sampling(1000, seed=0), None, 2)
    found = label(partial(omega, completer=worker), pieces, thought(RIGHT))
    assert {(trace.text, trace.verdicts["omega"].parts["first_error"]) for trace in found} >= {(pieces.text, 1.0)}
    state = asyncio.run(worker.go_on(PROBLEM, pieces, 1))
    assert {tuple(step.text for step in one.steps) for one in state.rollouts} == {
        ("a\n", RIGHT),
        ("a\n", "xx\n", WRONG),
    }
    with pytest.raises(ValueError, match="the thoughts of scripted have tokens, which a server does not cut"):
        cut(thought("a\n", RIGHT), None)


def test_problems_are_found_again_by_their_ids() -> None:
    task = open_task("chain:steps=2")
    asked = [task.load("train", count=4, seed=3)[3], task.load("test", count=2)[1]]
    assert problems_of(task, [problem.id for problem in asked]) == {problem.id: problem for problem in asked}
    with pytest.raises(ValueError, match="no problem 'sums/train/0/1'"):
        problems_of(task, ["sums/train/0/1"])


def test_a_fault_of_a_labeller_reaches_the_caller() -> None:
    async def broken(problem: Problem, traces: Sequence[Trace]) -> list[Trace]:
        raise ZeroDivisionError

    async def run(labeller: Any) -> list[list[Trace]]:
        return [group async for group in labelled([(PROBLEM, [thought(RIGHT)])] * 3, labeller, concurrency=1)]

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(broken))
    worker, _ = completer(sound)
    assert len(asyncio.run(run(partial(monte_carlo, completer=worker)))) == 3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        completer(sound, k=0)
    with pytest.raises(ValueError, match="temperature 0"):
        Completer(Scripted([""]), grade, Sampling(temperature=0), decode, 8)
    worker = Completer(Scripted([RIGHT]), grade, Sampling(2, seed=0), decode)
    with pytest.raises(ValueError, match="2 tokens in its first 1 steps, and max_tokens is 2"):
        label(partial(monte_carlo, completer=worker), thought("a\n", RIGHT))
