"""An allocation: kept, read, and gone by, first thoughts and all under one budget."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from search_script import Judge, answer

from forethought.engines.scripted import Reply, Scripted
from forethought.search.allocate import Allocation, Choice, auto, ease, load, save
from forethought.search.best_of_n import best_of_n
from forethought.search.choose import Thought, weighted
from forethought.types import Budget, Messages, Sampling, Step, Tree, user

ASK = user("2+2?")
EASY, HARD = Choice("majority", 20), Choice("weighted", 60)
PLAN = Allocation("agreement", 2, (1.0,), (50, 100), ((EASY, EASY), (HARD, EASY)), price=10, judged_price=11)
SAMPLING = Sampling(10, seed=3)


def said(*replies: str) -> Scripted:
    """Chain i says reply i, nine characters with its box."""
    return Scripted([f"\\boxed{{{reply}}}" for reply in replies])


def gone(engine: Any, plan: Allocation, tokens: int = 100, judge: Judge | None = None, **options: Any) -> Tree:
    return asyncio.run(
        auto(ASK, engine, allocation=plan, budget=Budget(tokens=tokens), verify=judge, sampling=SAMPLING, **options)
    )


def test_an_allocation_is_kept_as_it_is(tmp_path: Path) -> None:
    assert load(save(tmp_path / "new" / "a.json", PLAN)) == PLAN


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format 2"),
        ({"measure": "luck"}, "measure is 'luck'"),
        ({"edges": [0.5, 0.1]}, "edges are"),
        ({"edges": []}, "1 choices for each of 2 budgets"),
        ({"budgets": [100, 50]}, "budgets are"),
        ({"probe": 0}, "at least 1"),
        ({"extra": 0}, "extra"),
        ({"choices": [[{"search": "mtcs", "tokens": 5}] * 2] * 2}, "did you mean 'mcts'"),
        ({"choices": [[{"search": "mcts", "tokens": 0}] * 2] * 2}, "at least 1"),
    ],
)
def test_a_file_that_is_no_allocation_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    file = save(tmp_path / "a.json", PLAN)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match="is not an allocation") as refused:
        load(file)
    assert named in str(refused.value)


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="forethought allocate"):
        load(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(ValueError, match="is not an allocation"):
        load(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("looks", "tokens", "choice"),
    [(0.5, 100, HARD), (1.0, 100, EASY), (0.5, 1000, HARD), (0.5, 99, EASY), (0.5, 10, EASY)],
)
def test_the_choice_is_by_bin_and_by_the_largest_budget_that_fits(looks: float, tokens: int, choice: Choice) -> None:
    assert PLAN.choice(looks, tokens) == choice


def test_how_easy_a_problem_looks() -> None:
    thoughts = [
        Thought(1, (), "4", 0.5),
        Thought(2, (), "4", None),
        Thought(3, (), "5", 0.1),
        Thought(4, (), None, 0.3),
    ]
    assert ease(thoughts, 5, "agreement") == 2 / 5  # the fifth did not finish, and the fourth has no answer
    assert ease(thoughts, 5, "score") == pytest.approx(0.3)
    assert ease([], 5, "agreement") == ease([], 5, "score") == 0


def test_agreement_ends_an_easy_problem_with_its_first_thoughts() -> None:
    engine = said("4")
    tree = gone(engine, PLAN, judge=Judge())
    assert (engine.calls, answer(tree), tree.budget) == (2, "\\boxed{4}", Budget(100, used=18, calls=2))


@pytest.mark.parametrize("measure", ["agreement", "score"])
def test_a_parallel_strategy_goes_on_as_if_it_had_been_chosen_at_first(measure: Any) -> None:
    """The same tree, verdicts, visits and bill as of one search of that size."""

    def sampler(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        return f"\\boxed{{{random.Random(sampling.seed).randrange(9)}}}"

    judge = partial(Judge, {f"\\boxed{{{i}}}": i / 10 for i in range(9)})
    plan = replace(PLAN, measure=measure, choices=((HARD, HARD),) * 2, verify_tokens=1)
    tree = gone(Scripted(sampler), plan, judge=judge())
    once = best_of_n(
        ASK, Scripted(sampler), budget=Budget(tokens=100), verify=judge(), sampling=SAMPLING, n=5, choose=weighted,
        verify_tokens=1,
    )  # fmt: skip
    assert tree == asyncio.run(once)
    assert tree.budget.used == 5 * 10


def test_adaptive_stopping_counts_the_first_thoughts() -> None:
    plan = replace(PLAN, choices=((Choice("adaptive-consistency", 90),) * 2,) * 2)
    engine = said("4")
    assert len(gone(engine, plan).leaves()) == 4  # what four equal votes need, two of them there already
    assert engine.most_in_flight == 2


def test_any_other_search_starts_beside_the_first_thoughts_with_what_is_left() -> None:
    plan = replace(PLAN, choices=((Choice("beam", 60),) * 2,) * 2)

    def steps(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        return "\\boxed{8}" if "\n" in sampling.stop and prefix else "let us\n" if sampling.stop else "\\boxed{5}"

    engine = Scripted(steps)
    tree = gone(engine, plan, judge=Judge({"\\boxed{8}": 0.9}), tokens=100)
    assert answer(tree) == "\\boxed{8}"
    assert [tree.nodes[node].step.text for node in tree.nodes[0].children[:2]] == ["\\boxed{5}"] * 2  # type: ignore[union-attr]
    judged = sum(node.value is not None for node in tree.nodes)
    assert tree.budget.used == engine.tokens + judged <= 100
    assert tree.budget.tokens == 100
    assert tree.budget.calls == engine.calls + judged


def test_where_the_other_search_finds_nothing_the_first_thoughts_stand() -> None:
    plan = replace(PLAN, choices=((Choice("beam", 60),) * 2,) * 2)
    engine = Scripted(lambda messages, prefix, sampling, call: "on and\n" if sampling.stop else "\\boxed{5}")
    tree = gone(engine, plan, judge=Judge())
    assert answer(tree) == "\\boxed{5}"
    assert "no thought finished" in tree.note
    assert tree.budget.used <= 100


def test_by_averages_a_problem_may_take_more_than_what_it_goes_by() -> None:
    plan = replace(PLAN, average=True, choices=((EASY, EASY), (Choice("majority", 200), EASY)))
    engine = said("4", "5", "6")
    tree = asyncio.run(auto(ASK, engine, allocation=plan, spend=100, sampling=SAMPLING))
    assert (len(tree.leaves()), tree.budget) == (20, Budget(used=engine.tokens, calls=20))
    assert tree.budget.used > 100
    assert gone(said("4", "5", "6"), plan, tokens=100).budget.used <= 100
    assert len(gone(said("4", "5", "6"), plan, tokens=300, spend=50).leaves()) == 2


@pytest.mark.parametrize("tokens", range(1, 60, 7))
def test_the_budget_holds_however_small(tokens: int) -> None:
    for name in ("weighted", "beam", "mcts", "unanimous-window"):
        plan = replace(PLAN, choices=((Choice(name, 90),) * 2,) * 2, verify_tokens=1)
        assert gone(said("4", "5", "6"), plan, tokens=tokens, judge=Judge()).budget.used <= tokens


def test_what_an_allocation_cannot_go_by_is_refused() -> None:
    engine = said("4")
    with pytest.raises(ValueError, match="give spend"):
        asyncio.run(auto(ASK, engine, allocation=PLAN))
    with pytest.raises(ValueError, match="verify is None"):
        gone(engine, PLAN)
    with pytest.raises(ValueError, match="choose is the strategy's"):
        gone(engine, PLAN, judge=Judge(), choose=weighted)
    assert engine.calls == 0
