"""The planted policy and its judge: chains in the task's own form, errors and noise as they were planted."""

from __future__ import annotations

import asyncio
from functools import partial
from statistics import fmean

import pytest

from forethought.engines.scripted import Scripted
from forethought.labs.planted import judge, policy
from forethought.problems import open_task
from forethought.rollout import collect
from forethought.scaling.verifiers import auc
from forethought.search.best_of_n import best_of_n
from forethought.types import Messages, Sampling, Step, Trace, Verdict, user
from forethought.verify.verdict import Verify

TASK = open_task("chain:steps=8,modulus=7")


def in_lines(trace: Trace) -> tuple[Step, ...]:
    """The thought cut as a search by steps would have drawn it."""
    return tuple(Step(line, tuple(map(ord, line))) for line in trace.text.splitlines(keepends=True))


def said(verify: Verify, asked: Messages, *steps: Step) -> Verdict:
    async def judged() -> Verdict:
        return await verify(asked, steps)

    return asyncio.run(judged())


def test_its_thoughts_are_the_tasks_and_right_where_no_line_slipped() -> None:
    problems = TASK.load("test", count=40, seed=3)
    one = partial(best_of_n, n=1)
    groups = collect(problems, Scripted(policy), search=one, grade=TASK.grade, sampling=Sampling(160, seed=0))
    assert TASK.labels is not None
    shares = []
    for problem, (trace,) in zip(problems, groups, strict=True):
        whole = Trace(problem.id, problem.messages, in_lines(trace), trace.policy)
        told = [label for label in TASK.labels(problem, whole) if label is not None]
        assert len(told) >= 8
        assert trace.reward == 1 or 0 in told
        shares.append(fmean(told))
    assert 0.4 < fmean(shares) < 0.95
    assert {trace.reward for (trace,) in groups} == {0, 1}


def test_a_thought_drawn_in_steps_goes_on_from_what_was_said() -> None:
    (problem,) = TASK.load("test", count=1)
    engine, steps = Scripted(policy), tuple[Step, ...]()
    while not steps or steps[-1].stop == "stop":
        steps += (asyncio.run(engine.sample(problem.messages, steps, Sampling(40, stop=("\n",), seed=len(steps)))),)
    assert [step.text[0] for step in steps] == ["<", *"bcdefghi", "<", "\\"]
    assert steps[-1].text == f"\\boxed{{{steps[-3].text.strip().rpartition('=')[2]}}}"


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 1.0, 1.0), (1.2, 0.9, 1.0), (2.4, 0.7, 0.9)])
def test_the_judge_tells_lines_apart_as_well_as_its_noise_lets_it(noise: float, low: float, high: float) -> None:
    verify = judge(noise)
    asked = user("Mod 97: a=3, b=a*4, c=b+5. c=?")
    scores, right = [], []
    for value in range(97):
        before = f"<think>\nb=3*4=12={value}\n"
        for slip in (0, 1):
            after = f"{before}c={value}+5={value + 5}={(value + 5 + slip) % 97}\n"
            both, one = (said(verify, asked, Step(text)).score for text in (after, before))
            scores.append((both or 0.0) / (one or 1.0))
            right.append(slip == 0)
    assert low <= auc(scores, right) <= high


def test_a_verdict_costs_the_last_steps_tokens_or_its_price() -> None:
    steps = (Step("<think>\n", tuple(range(8))), Step("b=3*4=12=5\n", tuple(range(11))))
    asked = user("Mod 7: a=3, b=a*4. b=?")
    assert said(judge(1.0), asked, *steps).cost == 11
    assert said(judge(1.0, 1), asked, *steps).cost == 1


def test_another_question_is_refused() -> None:
    with pytest.raises(ValueError, match="'2 \\+ 2' is no chain"):
        policy(user("2 + 2"), (), Sampling(), 0)
