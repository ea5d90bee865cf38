"""Searches run at a budget, what they cost, and the table and pictures of all of them."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_script import Judge

from forethought.engines.scripted import Scripted
from forethought.problems import grade_answer
from forethought.rollout import collect
from forethought.scaling.bank import Drawn
from forethought.scaling.plot import svg
from forethought.scaling.strategies import charts, mean, quintiles, replays, rows, runs, text
from forethought.scaling.sweep import Record, answering, append, read, swept
from forethought.search.beam import beam
from forethought.search.best_of_n import best_of_n
from forethought.search.choose import Thought
from forethought.types import Problem, Sampling, Trace, Verdict, user

PROBLEMS = [Problem(f"p/{i}", user(f"{i}?"), "4") for i in range(3)]


def grade(problem: Problem, trace: Trace) -> Verdict:
    return grade_answer(problem.answer, trace.text)


def run(engine: Scripted, search: Any, budget: int = 100, judge: Judge | None = None) -> list[tuple[Record, Trace]]:
    async def every() -> list[tuple[Record, Trace]]:
        found = swept(
            PROBLEMS, engine, search, strategy="s", budget=budget, seed=1, grade=grade, verify=judge,
            sampling=Sampling(20, seed=0), concurrency=1,
        )  # fmt: skip
        return [each async for each in found]

    return asyncio.run(every())


def test_a_record_tells_what_was_answered_and_what_it_cost() -> None:
    engine = Scripted(["\\boxed{5}", "\\boxed{4}"])
    found = run(engine, partial(best_of_n, n=2), judge=Judge({"\\boxed{4}": 0.9}))
    for problem, (record, trace) in zip(PROBLEMS, found, strict=True):
        assert asdict(record) | {"seconds": 0} == asdict(Record("s", 100, problem.id, 1, True, 18, 2, 0))
        assert (trace.text, trace.problem_id, trace.values) == ("\\boxed{4}", problem.id, (0.9,))
    assert found[0][1].nodes == (1,)


def test_each_budget_has_samples_of_its_own_and_the_same_ones_each_time() -> None:
    def seeds(budget: int) -> list[int | None]:
        engine = Scripted(["\\boxed{4}"])
        run(engine, partial(best_of_n, n=2), budget)
        return [sampling.seed for _, _, sampling in engine.asked]

    assert seeds(100) == seeds(100)
    assert not set(seeds(100)) & set(seeds(200))


def test_a_search_by_steps_leaves_the_path_it_answers_with() -> None:
    def steps(messages: Any, prefix: Any, sampling: Any, call: int) -> str:
        return "\\boxed{4}" if prefix else "go\n"

    bills: dict[Any, Any] = {}
    search = answering(partial(beam, n=2, branch=2), bills)
    ((trace,),) = collect(PROBLEMS[:1], Scripted(steps), search=search, verify=Judge(), sampling=Sampling(20, seed=0))
    assert [step.text for step in trace.steps] == ["go\n", "\\boxed{4}"]
    assert trace.nodes == (1, 2)
    (bill,) = bills.values()
    # The two first steps say the same, one is kept and two answers follow.
    assert (bill.tokens, bill.judge, bill.answered) == (2 * 3 + 2 * 9, 4, True)


@pytest.mark.parametrize(
    ("reply", "budget", "right", "tokens"),
    [
        ("no end to it, ever, none", 100, False, 20),  # cut at its length
        ("\\boxed{4}", 5, False, 5),  # cut by the budget
        (OSError("gone"), 100, None, 0),
    ],
)
def test_no_thought_is_wrong_and_a_fault_is_not(reply: Any, budget: int, right: bool | None, tokens: int) -> None:
    for record, trace in run(Scripted([reply]), partial(best_of_n, n=1), budget):
        assert (record.right, record.tokens) == (right, tokens)
        assert len(trace.steps) == 1


def test_what_a_kill_cut_short_is_left_out_and_the_next_row_stands_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert read(file) == []
    append(file, [{"a": 1}])
    append(file, [{"a": 2}, {"a": 3}])
    with file.open("a") as torn:
        torn.write('{"a": 4')
    append(file, [{"a": 5}])
    assert [row["a"] for row in read(file)] == [1, 2, 3, 5]
    append(file, [])
    assert file.read_text().count("\n") == 5


def bank(size: int = 10, depth: int = 8) -> tuple[Drawn, ...]:
    """Problem i is solved by i thoughts of `size` - 1; 10 tokens and 2 of judging each, the prompt 5."""
    found = []
    for i in range(size):
        right = [place * (size - 1) < i * depth for place in range(depth)]
        thoughts = tuple(Thought(place, (), "4" if ok else str(5 + place), None) for place, ok in enumerate(right))
        found.append(Drawn(f"p/{i}", thoughts, tuple(right), (10,) * depth, (2,) * depth, 5))
    return tuple(found)


def test_replays_are_sized_by_price_and_leave_out_what_the_bank_is_too_small_for() -> None:
    cells = replays(bank(), ["majority", "beam", "best-of-n"], [10, 40, 80, 1000], count=4)
    assert [(cell.strategy, cell.budget) for cell in cells] == [
        ("majority", 10), ("majority", 40), ("majority", 80),
        ("best-of-n", 10), ("best-of-n", 40), ("best-of-n", 80),
    ]  # fmt: skip
    forty = cells[1]
    assert forty.right_PR.shape == (10, 4)
    assert (forty.tokens_PR == 40).all()
    assert not forty.judge_PR.any()
    assert (cells[4].tokens_PR == 30).all()  # three of 12 tokens
    assert (cells[4].judge_PR == 6).all()


def test_records_become_cells_of_problems_by_seeds() -> None:
    records = [
        Record("mcts", 64, "p/1", 0, True, 50, 4, 0.5),
        Record("mcts", 64, "p/1", 1, False, 40, 2, 0.3),
        Record("mcts", 64, "p/0", 1, None, 30, 1, 0.1),
        Record("mcts", 64, "p/elsewhere", 0, True, 1, 1, 1.0),
    ]
    (cell,) = runs(records, bank(2))
    assert np.array_equal(cell.right_PR, np.array([[np.nan, np.nan], [1, 0]]), equal_nan=True)
    assert mean(cell.tokens_PR).tolist() == [30, 45]
    (row,) = rows([cell], bank(2))
    assert row["accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 1}
    assert (row["prompt"], row["repetitions"]) == (5, 2)
    assert row["tokens"] == pytest.approx(37.5)
    assert row["total"] == pytest.approx((36 + 53) / 2)
    assert "mcts" in text([row])
    assert "50.0 [50.0, 50.0]" in text([row])


def test_quintiles_go_from_the_hardest_to_the_easiest_and_leave_out_what_was_not_graded() -> None:
    known = bank()
    parts = quintiles((*known, replace(known[0], problem_id="?", right_N=(None,) * 8)))
    assert [part.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_pictures_of_all_and_of_each_fifth_in_the_order_of_what_was_spent() -> None:
    cells = replays(bank(), ["majority"], [80, 10], count=2)
    found = charts(cells, bank())
    assert len(found) == 6
    (line,) = found[0].lines
    assert list(line.x) == [15, 85]  # the prompt's 5 once
    assert [chart.lines[0].y[-1] for chart in found[1:]] == sorted(chart.lines[0].y[-1] for chart in found[1:])
    assert math.isclose(line.y[0], float(mean(cells[1].right_PR).mean()))
    assert "<svg" in svg(found[1])
    assert len(charts(replays(bank(4), ["majority"], [80]), bank(4))) == 1  # too few for fifths
