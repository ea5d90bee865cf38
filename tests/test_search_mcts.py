"""Monte Carlo tree search: visits worked out by hand, priors, virtual loss, and going on with a tree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from search_script import ASK, Judge, answer, shape, told

from forethought.engines.scripted import Reply, Scripted
from forethought.rollout import traces_of
from forethought.search.choose import most_visited
from forethought.search.mcts import mcts, policy, uniform
from forethought.search.stop import good_enough
from forethought.types import FINISHED, Budget, Messages, Sampling, Step, Tree

TWO = ["a\n", "b\n"]
"""Every node has these two moves, and no thought ever ends."""


def grow(engine: Any, judge: Any, **options: Any) -> Tree:
    return asyncio.run(mcts(ASK, engine, verify=judge, **{"branch": 2, "priors": uniform, "at_once": 1, **options}))


def visits(tree: Tree) -> dict[str, int]:
    """By the moves' letters, of every node that was visited."""
    texts = {index: "".join(step.text[0] for step in tree.steps(index)) for index in range(len(tree.nodes))}
    return {texts[index]: node.visits for index, node in enumerate(tree.nodes) if node.visits}


@pytest.mark.parametrize(
    ("simulations", "expected"),
    [
        # c p sqrt(N) / (1 + n) with c = 1.25 and p = 1/2; the logarithm adds 0.0003 at most. Q is 1/2 once visited, 0
        # before. 1: all 0, the first move. 2: a 0.5 + 0.3125 beats b 0.625, and below a its first move.
        (2, {"": 2, "a": 2, "aa": 1}),
        # 3: a 0.5 + 0.2946 < b 0.8839. 4: a 0.8608 < b 0.5 + 0.5413, and below b its first.
        (4, {"": 4, "a": 2, "aa": 1, "b": 2, "ba": 1}),
        # 5: both 0.9167, the first; below a: aa 0.5 + 0.4419 beats ab 0.8839. 6: a 0.8494 < b 0.9658; ba as aa.
        (6, {"": 6, "a": 3, "aa": 2, "aaa": 1, "b": 3, "ba": 2, "baa": 1}),
    ],
)
def test_a_constant_judge_is_visited_as_the_paper_says(simulations: int, expected: dict[str, int]) -> None:
    tree = grow(Scripted(TWO), Judge(), simulations=simulations, unvisited=0.0)
    assert visits(tree) == expected
    assert tree.nodes[0].total == simulations / 2


def test_a_move_without_visits_is_worth_its_parents_mean_by_default() -> None:
    # All Q are 1/2. 1: a. 2: a 0.3125 < b 0.625. 3: equal, a, and aa. 4: a 0.361 < b 0.541, ba. 5: equal, a; there
    # aa 0.442 < ab 0.884. 6: a 0.349 < b 0.466; ba < bb.
    tree = grow(Scripted(TWO), Judge(), simulations=6)
    assert visits(tree) == {"": 6, "a": 3, "aa": 1, "ab": 1, "b": 3, "ba": 1, "bb": 1}


def test_golden_tree_of_a_search_that_finds_the_better_line() -> None:
    twice = ["\\boxed{2}", "\\boxed{3}", "\\boxed{3}", "\\boxed{2}"]
    scores = {"a\n": 0.1, "b\n": 0.9, "\\boxed{1}": 0.2, "\\boxed{2}": 0.4, "\\boxed{3}": 0.8}
    judge = Judge(scores)
    tree = grow(told({"": TWO, "a\n": ["\\boxed{1}", "c\n"], "b\n": twice}), judge, simulations=6, verify_tokens=1)
    # 1: a. 2: a 0.1 + 0.3125 < b 0.1 + 0.625. 3: a 0.542 < b 0.9 + 0.442, its first. 4: a 0.641 < b 0.65 + 0.361, its
    # second. 5: a 0.725 < b 0.7 + 0.313, which has no move that was not visited: two more are drawn, and say nothing
    # new; b's own mean of 0.7 is backed up. 6: b is closed, so a, its first.
    assert shape(tree) == [
        (0, "a\n", 0.1, 2),
        (0, "b\n", 0.9, 4),
        (1, "\\boxed{1}", 0.2, 1),
        (1, "c\n", None, 0),
        (2, "\\boxed{2}", 0.4, 1),
        (2, "\\boxed{3}", 0.8, 1),
        (2, "\\boxed{3}", None, 0),
        (2, "\\boxed{2}", None, 0),
    ]
    assert tree.nodes[0].total == pytest.approx(0.1 + 0.9 + 0.4 + 0.8 + 0.7 + 0.2)
    assert judge.paths == ["a\n", "b\n", "b\n\\boxed{2}", "b\n\\boxed{3}", "a\n\\boxed{1}"]
    assert tree.budget == Budget(used=3 * 2 + 5 * 9 + 5, calls=8 + 5)
    assert answer(tree) == "\\boxed{3}"


def test_the_choice_by_visits_and_the_choice_by_score_differ() -> None:
    replies = {"": TWO, "a\n": ["\\boxed{1}"] * 2, "b\n": ["\\boxed{2}"] * 4}
    scores = {"a\n": 0.0, "\\boxed{1}": 0.9, "b\n": 0.9, "\\boxed{2}": 0.8}
    by_score = grow(told(replies), Judge(scores), simulations=5, exploration=2.0)
    by_visits = grow(told(replies), Judge(scores), simulations=5, exploration=2.0, choose=most_visited)
    assert by_score.nodes == by_visits.nodes
    assert (answer(by_score), answer(by_visits)) == ("\\boxed{1}", "\\boxed{2}")


def test_it_ends_where_the_budget_cannot_judge_or_grow_a_leaf() -> None:
    engine, small = Scripted(TWO), Sampling(max_tokens=3)
    tree = grow(engine, Judge(), verify_tokens=1, sampling=small, budget=Budget(tokens=12))
    # 4 for the root's moves, 5 for a and its moves; of the 3 left b's judge takes 1, its first move 2
    assert visits(tree) == {"": 2, "a": 1, "b": 1}
    assert tree.budget == Budget(tokens=12, used=12, calls=7)
    assert tree.note == "1 of 6 samples not started: the budget was spent; no thought finished"


def test_where_all_is_visited_more_is_drawn_until_all_is_closed_and_then_once_more() -> None:
    one = "\\boxed{1}"
    replies = {"": ["a\n"] * 4, "a\n": [one, one, one, one, one, "\\boxed{2}"]}
    scores = {one: 0.1, "\\boxed{2}": 0.9}
    # 1: a. 2: its one move. 3: two more from a, nothing new. 4: two more from the root, nothing new: all is closed.
    # 5: two more from a, one of them new. 6: that one.
    for simulations, calls, best in ((2, 4, one), (3, 6, one), (4, 8, one), (5, 10, one), (6, 10, "\\boxed{2}")):
        engine, judge = told(replies), Judge(scores)
        tree = grow(engine, judge, simulations=simulations)
        assert (engine.calls, answer(tree), tree.nodes[0].visits) == (calls, best, simulations)
        assert len(judge.paths) == len(set(judge.paths))


@pytest.mark.parametrize("tokens", [100, 1000, 5000])
def test_short_thoughts_are_drawn_for_all_of_the_budget(tokens: int) -> None:
    def short(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        draw = (sampling.seed or 0) % 20
        return f"{'a' if draw < 19 else 'b'}\n" if not prefix else f"\\boxed{{{draw}}}"

    limit = Budget(tokens=tokens)
    options: dict[str, Any] = {"sampling": Sampling(max_tokens=10, seed=0), "simulations": 5000, "at_once": 4}
    tree = grow(Scripted(short), Judge(), budget=limit, verify_tokens=1, **options)
    assert tokens - 10 <= tree.budget.used <= tokens
    said = {tree.steps(leaf)[0].text for leaf in tree.leaves()}
    assert said == {"a\n", "b\n"} or tokens == 100  # one in twenty begins with b


def test_a_leaf_left_behind_is_told_from_a_thought_that_ended() -> None:
    tree = grow(told({"": ["a\n", "\\boxed{1}"], "a\n": ["c\n", "d\n"]}), Judge(), simulations=2)
    stops = {step.text: step.stop for node in tree.nodes if (step := node.step)}
    assert stops == {"a\n": "stop", "\\boxed{1}": "end", "c\n": "budget", "d\n": "budget"}
    assert [trace.stop in FINISHED for trace in traces_of(tree, "p")] == [True, False, False]


def test_simulations_under_way_repel_one_another() -> None:
    engine = Scripted(TWO, delay=0.001)
    tree = grow(engine, Judge(), simulations=2, at_once=2, unvisited=0.0)
    assert visits(tree) == {"": 2, "a": 1, "b": 1}  # one at a time: a, then aa
    assert engine.most_in_flight == 4
    one_by_one = Scripted(TWO, delay=0.001)
    grow(one_by_one, Judge(), simulations=2)
    assert one_by_one.most_in_flight == 2


def test_virtual_visits_are_gone_when_the_seconds_run_out() -> None:
    class Tiring(Scripted):
        async def sample(self, messages: Messages, prefix: Any, sampling: Sampling) -> Step:
            self.delay = 0.0 if self.calls < 4 else 60.0
            return await super().sample(messages, prefix, sampling)

    tree = grow(Tiring(TWO), Judge(), simulations=9, at_once=3, budget=Budget(seconds=0.1))
    assert visits(tree) == {"": 1, "a": 1}


def test_priors_steer_and_moves_of_the_same_words_are_one() -> None:
    seen: list[tuple[int, list[str]]] = []

    async def head(messages: Messages, steps: tuple[Step, ...], moves: Sequence[Step]) -> list[float]:
        seen.append((len(steps), [move.text for move in moves]))
        return [2.0, 1.0, 1.0]

    tree = grow(Scripted(["a\n", "b\n", "a\n"]), Judge(), branch=3, priors=head, simulations=4)
    # a has 3/4, b 1/4: 1: a. 2: a 0.469 > b 0.3125. 3: a 0.442 = b 0.442, the higher prior. 4: a 0.406 < b 0.541
    assert (tree.nodes[1].visits, tree.nodes[2].visits, tree.nodes[3].visits) == (3, 1, 0)
    assert seen[0] == (0, ["a\n", "b\n", "a\n"])


@pytest.mark.parametrize("priors", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_priors_that_cannot_be_are_refused(priors: list[float]) -> None:
    async def head(messages: Messages, steps: tuple[Step, ...], moves: Sequence[Step]) -> list[float]:
        return priors

    with pytest.raises(ValueError, match="2 moves got the priors"):
        grow(Scripted(TWO), Judge(), priors=head)


def test_the_policys_priors_are_of_each_token_and_uniform_where_not_told() -> None:
    likely = Step("long", tokens=(1, 2, 3), logprobs=(-0.1, -0.1, -0.1))
    unlikely = Step("short", tokens=(1,), logprobs=(-0.2,))
    assert asyncio.run(policy(ASK, (), [likely, unlikely])) == pytest.approx([0.904837, 0.818731])
    assert asyncio.run(policy(ASK, (), [likely, Step("untold")])) == [1.0, 1.0]


def test_what_leads_nowhere_is_not_come_to_again() -> None:
    replies: dict[str, list[Reply]] = {
        "": [*TWO],
        "a\n": [OSError("gone"), OSError("gone")],
        "b\n": ["\\boxed{1}", "\\boxed{2}"],
    }
    tree = grow(told(replies), Judge({"a\n": 0.9, "b\n": 0.1}), simulations=4)
    assert tree.nodes[1].visits == 1
    assert tree.nodes[2].visits == 3
    assert tree.note == "2 of 6 samples failed: OSError: gone"
    shallow = grow(Scripted(TWO), Judge(), simulations=20, depth=1)
    assert visits(shallow) == {"": 20, "a": 1, "b": 1}  # judged, not grown; from then on only the root is


def test_it_goes_on_with_a_tree_as_if_it_had_never_stopped() -> None:
    options: dict[str, Any] = {"sampling": Sampling(seed=3), "verify_tokens": 1}

    def engine() -> Scripted:
        return Scripted(lambda messages, prefix, sampling, call: f"{(sampling.seed or 0) % 97}\n")

    def judge() -> Judge:
        return Judge({f"{i}\n": i / 97 for i in range(0, 97, 3)}, other=None)

    whole = grow(engine(), judge(), simulations=9, **options)
    first = grow(engine(), judge(), simulations=4, **options)
    spent = Budget(used=first.budget.used, calls=first.budget.calls)
    assert grow(engine(), judge(), simulations=5, tree=first, budget=spent, **options) == whole
    with pytest.raises(ValueError, match="the tree to go on with is of scripted"):
        grow(Scripted(TWO, name="other"), Judge(), tree=first)


def test_a_score_good_enough_ends_the_search() -> None:
    replies = {"": ["\\boxed{1}", "\\boxed{2}"]}
    judge = Judge({"\\boxed{1}": 0.9, "\\boxed{2}": 0.1})
    tree = grow(told(replies), judge, stop=partial(good_enough, score=0.9))
    assert tree.nodes[0].visits == 1
    assert answer(tree) == "\\boxed{1}"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"simulations": 0}, "simulations is 0"),
        ({"branch": 0}, "branch is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"at_once": 0}, "at_once is 0"),
        ({"exploration": -1.0}, "exploration is -1"),
        ({"verify": None}, "verify is None"),
    ],
)
def test_knobs_that_cannot_be_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        asyncio.run(mcts(ASK, Scripted(TWO), **{"verify": Judge(), **options}))
