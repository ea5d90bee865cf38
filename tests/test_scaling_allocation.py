"""What an allocation chooses, on banks where the best choice is known, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forethought.scaling.allocation import (
    Option,
    allocate,
    best,
    crossed,
    edges,
    firsts,
    options,
    oracle,
    shared,
    text,
    tried,
)
from forethought.scaling.bank import Drawn
from forethought.scaling.strategies import Cell
from forethought.search.allocate import Choice
from forethought.search.choose import Thought

DEPTH = 8


def bank(size: int = 20) -> tuple[Drawn, ...]:
    """Every other problem is easy: all its thoughts are right. In a hard one each says something else, all wrong.

    A thought costs 10 tokens and 2 for its verdict, the prompt 5.
    """
    found = []
    for i in range(size):
        easy = i % 2 == 0
        thoughts = tuple(
            Thought(place, (), "4" if easy else str(place), 0.9 if easy else 0.2) for place in range(DEPTH)
        )
        found.append(Drawn(f"p/{i}", thoughts, (easy,) * DEPTH, (10,) * DEPTH, (2,) * DEPTH, 5))
    return tuple(found)


def ran(size: int = 20, budget: int = 40) -> Cell:
    """A tree search that solves the hard problems alone, for 30 tokens and 6 of judging."""
    hard_P = np.array([[float(i % 2)] * 2 for i in range(size)])
    return Cell("mcts", budget, hard_P, np.full((size, 2), 30.0), np.full((size, 2), 6.0), np.zeros((size, 2)))


def test_easy_problems_end_with_their_first_thoughts_and_hard_ones_go_to_the_tree() -> None:
    first = firsts(bank(), 2, "agreement", count=3)
    assert first.ease_PR[:2].tolist() == [[1, 1, 1], [0.5, 0.5, 0.5]]
    found = options(bank(), [ran()], ["majority", "weighted", "mcts"], [20, 40, 80], after=first, count=3)
    allocation = allocate(bank(), found, first, [20, 40, 80], model="m", verify="v")
    assert (allocation.edges, allocation.budgets) == ((1.0,), (20, 40, 80))
    easy = Choice("majority", 20)
    # At 40 the tree and the 20 tokens before it cannot be paid: nothing solves a hard problem, and least is best.
    assert allocation.choices == ((easy, easy), (easy, easy), (Choice("mcts", 40), easy))
    assert (allocation.price, allocation.judged_price, allocation.verify_tokens) == (10, 12, 2)
    assert (allocation.probe, allocation.model, allocation.verify) == (2, "m", "v")


def test_cross_validation_counts_the_first_thoughts_and_pairs_with_the_best_single_search() -> None:
    first = firsts(bank(), 2, "agreement", count=3)
    searches = ["majority", "weighted"]
    found = options(bank(), [ran()], searches, [20, 40, 80], after=first, count=3)
    alone = options(bank(), [ran()], searches, [20, 40, 80], count=3)
    rows = crossed(found, alone, first, [20, 80])
    small, large = rows
    assert (small["allocated"]["value"], small["fixed"]["value"]) == (0.5, 0.5)
    assert (small["allocated_tokens"], small["fixed_tokens"]) == (25, 17)  # one weighted thought
    assert large["allocated"]["value"] == 1
    # easy: 20 and the prompt's 5; hard: 20 of first thoughts, 36 of the tree, 5
    assert large["allocated_tokens"] == pytest.approx((25 + 61) / 2)
    assert 0 <= large["fixed"]["value"] <= 1
    assert large["difference"]["value"] == pytest.approx(1 - large["fixed"]["value"])
    assert "100.0 [100.0, 100.0]" in text(rows)


def option(name: str, easy: list[float], hard: list[float], spend: float) -> Option:
    """Of two easy problems and two hard ones, in one order."""
    return Option(Choice(name, 1), np.array([*easy, *hard])[:, None], np.full((4, 1), spend), spend)


CHEAP = option("majority", [1, 0], [0, 0], 10)
MIDDLE = option("weighted", [1, 1], [0, 0], 30)
DEAR = option("mcts", [1, 1], [1, 1], 40)
PARTS = [np.array([[True], [True], [False], [False]]), np.array([[False], [False], [True], [True]])]


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (9, []),
        (10, [CHEAP, CHEAP]),
        (20, [MIDDLE, CHEAP]),  # the hard ones' step gains more for a token, and costs too much
        (25, [CHEAP, DEAR]),
        (34, [CHEAP, DEAR]),
        (35, [MIDDLE, DEAR]),
        (99, [MIDDLE, DEAR]),  # the dearest gains the easy ones nothing
    ],
)
def test_an_average_goes_where_a_token_gains_most(budget: int, chosen: list[Option]) -> None:
    assert shared([CHEAP, MIDDLE, DEAR], PARTS, budget) == chosen


def test_what_was_never_graded_is_not_chosen_for_its_price() -> None:
    unknown = option("beam", [np.nan, np.nan], [np.nan, np.nan], 20)
    assert shared([CHEAP, unknown, DEAR], PARTS, 30) == [CHEAP, DEAR]


def test_by_averages_easy_problems_pay_for_hard_ones() -> None:
    first = firsts(bank(), 2, "agreement", count=3)
    found = options(bank(), [ran()], ["majority"], [20], after=first, count=3)
    # easy: 20 and the prompt's 5; hard: 20, the tree's 36, 5. The tree needs 60 at most, and a half may have more hard
    # ones than the other.
    strict, _ = tried(found, first.ease_PR, 50) or ([], [])
    assert np.mean(strict) == 0.5
    right, spend = tried(found, first.ease_PR, 50, average=True) or ([], [])
    assert [np.mean(right), np.mean(spend)] == [1, 43]
    plan = allocate(bank(), found, first, [43], average=True)  # over all, the budget is met exactly
    assert (plan.average, plan.choices) == (True, ((Choice("mcts", 40), Choice("majority", 20)),))
    (row,) = crossed(found, found, first, [50], average=True)
    assert row["allocated"]["value"] == 1
    assert row["fixed"]["value"] < 1
    assert tried(found, first.ease_PR, 24, average=True) is None


def test_the_oracle_knows_who_is_solved() -> None:
    assert oracle(bank(2), 3).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_by_score_the_verdicts_on_the_first_thoughts_are_paid_whatever_follows() -> None:
    first = firsts(bank(), 3, "score", count=2)
    assert first.ease_PR[:2] == pytest.approx(np.array([[0.9, 0.9], [0.2, 0.2]]))
    by = {
        (o.choice.search, o.choice.tokens): o
        for o in options(bank(), [ran()], ["majority", "weighted"], [20, 80], after=first, count=2)
    }
    # 3 thoughts of 10, their verdicts of 2, the prompt of 5
    assert (by["majority", 20].spend_PR == 30 + 6 + 5).all()
    assert by["majority", 20].need == 36
    assert (by["weighted", 20].spend_PR == 30 + 6 + 5).all()
    assert (by["weighted", 80].spend_PR == 6 * 12 + 5).all()
    assert (by["mcts", 40].spend_PR == 36 + 36 + 5).all()
    assert by["mcts", 40].need == 40 + 36
    unasked = {o.choice.search: o for o in options(bank(), [], ["majority", "weighted"], [20], count=2)}
    assert (unasked["majority"].spend_PR == 20 + 5).all()
    assert (unasked["weighted"].spend_PR == 12 + 5).all()


def test_a_search_that_was_not_run_to_its_end_cannot_be_chosen() -> None:
    cell = ran()
    cell.tokens_PR[3] = np.nan
    assert options(bank(), [cell], [], [80]) == []


def test_the_cheaper_of_equals_is_best_and_what_the_budget_forbids_is_not() -> None:
    found = options(bank(), [], ["majority", "best-of-n"], [20, 80], count=2)
    every = np.ones((20, 2), dtype=bool)
    assert best(found, every, 80) is found[2]  # best-of-n at 20: one thought, 17 tokens
    assert best(found, every, 19) is None


def test_edges_part_evenly_and_are_fewer_where_many_look_alike() -> None:
    assert edges(np.arange(10.0), 5) == (2, 4, 6, 8)
    assert edges(np.array([0.5] * 9 + [1.0]), 5) == ()
    assert edges(np.array([0.25, 0.5, 1.0, 1.0, 1.0]), 2) == (1.0,)
    assert edges(np.arange(10.0), 1) == ()


def test_what_cannot_be_allocated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probe is 9; .* 8 thoughts"):
        firsts(bank(), 9, "agreement")
    unjudged = [
        replace(drawn, thoughts_N=tuple(replace(t, score=None) for t in drawn.thoughts_N if t)) for drawn in bank()
    ]
    with pytest.raises(ValueError, match="no scores"):
        firsts(unjudged, 2, "score")
    first = firsts(bank(), 8, "agreement")
    found = options(bank(), [], ["majority"], [20, 40], after=first)
    with pytest.raises(ValueError, match="first thoughts cost up to 80 tokens"):
        allocate(bank(), found, first, [20, 40])
    with pytest.raises(ValueError, match="bins is 0"):
        allocate(bank(), found, first, [20, 40], bins=0)
    with pytest.raises(ValueError, match="halves"):
        crossed(found, found, firsts(bank(1), 2, "agreement"), [80])
