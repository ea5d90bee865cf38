"""Beam search, lookahead and diverse verifier tree search, on trees told in advance."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from search_script import ASK, Judge, answer, shape, told

from forethought.engines.scripted import Reply, Scripted
from forethought.search.beam import beam, dvts
from forethought.search.choose import weighted
from forethought.search.lookahead import lookahead
from forethought.search.seeds import derive
from forethought.search.stop import good_enough
from forethought.types import Budget, Sampling, Tree

TOLD = {
    "": ["a\n", "b\n", "a\n", "c\n"],
    "a\n": ["\\boxed{2}", "d\n"],
    "b\n": ["e\n", "\\boxed{1}"],
    "a\nd\n": ["\\boxed{3}", "f\n"],
    "a\nd\nf\n": ["\\boxed{4}", "\\boxed{2}"],
}
SCORES = {
    **{"a\n": 0.5, "b\n": 0.9, "c\n": 0.1, "d\n": 0.6, "e\n": 0.3, "f\n": 0.75},
    **{"\\boxed{1}": 0.8, "\\boxed{2}": 0.5, "\\boxed{3}": 0.7, "\\boxed{4}": 0.95},
}


def grow(search: Any, engine: Any, judge: Any, **options: Any) -> Tree:
    tree: Tree = asyncio.run(search(ASK, engine, verify=judge, **options))
    return tree


def test_golden_tree_of_a_beam() -> None:
    judge = Judge(SCORES)
    tree = grow(partial(beam, n=4, branch=2), told(TOLD), judge, verify_tokens=1)
    assert shape(tree) == [
        (0, "a\n", 0.5, 4),
        (0, "b\n", 0.9, 1),
        (0, "a\n", 0.5, 0),  # says what its sibling said: kept only where there is nothing else
        (0, "c\n", 0.1, 0),
        (2, "e\n", 0.3, 0),  # b first: the beam is in order of score
        (2, "\\boxed{1}", 0.8, 1),  # takes one of the two places
        (1, "\\boxed{2}", 0.5, 1),
        (1, "d\n", 0.6, 3),
        (8, "\\boxed{3}", 0.7, 1),  # not the best of this round, and yet a finished thought
        (8, "f\n", 0.75, 2),
        (10, "\\boxed{4}", 0.95, 1),  # takes the other
        (10, "\\boxed{2}", 0.5, 1),
    ]
    assert answer(tree) == "\\boxed{4}"
    sampled = sum(len(text) for _, text, _, _ in shape(tree))
    assert tree.budget == Budget(used=sampled + 12, calls=24)
    assert len(judge.paths) == 12
    assert tree.note == ""


def test_the_weighted_choice_adds_up_the_scores_of_an_answer() -> None:
    tree = grow(partial(beam, n=4, branch=2, choose=weighted), told(TOLD), Judge(SCORES))
    assert answer(tree) == "\\boxed{2}"  # 0.5 and 0.5


def test_a_round_is_asked_for_at_once_and_each_step_ends_at_its_mark() -> None:
    engine = told(TOLD, delay=0.001)
    grow(partial(beam, n=4, branch=2), engine, Judge(SCORES), sampling=Sampling(max_tokens=12, seed=7, stop=("!",)))
    assert engine.most_in_flight == 4
    assert {sampling.stop for _, _, sampling in engine.asked} == {("!", "\n")}
    assert [sampling.seed for _, _, sampling in engine.asked[:5]] == [derive(7, slot) for slot in range(4)] + [
        derive(7, 1, 0)
    ]


def test_the_sqrt_variant_keeps_as_many_as_it_branches() -> None:
    engine = Scripted(["a\n", "b\n", "c\n"], delay=0.001)
    grow(partial(beam, n=9, branch=None, rounds=2), engine, Judge({"a\n": 0.9}))
    assert engine.calls == 18
    assert {len(prefix) for _, prefix, _ in engine.asked[9:]} == {1}
    assert len({prefix[0].text for _, prefix, _ in engine.asked[9:]}) == 3


def test_a_finished_thought_makes_the_beam_narrower() -> None:
    replies = {"": ["\\boxed{1}", "a\n", "b\n", "c\n"], "a\n": ["d\n", "e\n"], "a\nd\n": ["\\boxed{2}", "f\n"]}
    scores = {"\\boxed{1}": 0.9, "a\n": 0.8, "d\n": 0.6, "\\boxed{2}": 0.7}
    tree = grow(partial(beam, n=4, branch=2), told(replies), Judge(scores))
    assert len(tree.nodes) == 9  # nothing was drawn from e, though two had a place at first
    assert answer(tree) == "\\boxed{1}"


def test_what_could_not_be_judged_is_kept_only_where_too_few_could() -> None:
    replies = {"": ["a\n", "b\n", "c\n"], "b\n": ["\\boxed{1}"] * 3}
    tree = grow(partial(beam, n=3, branch=3), told(replies), Judge({"a\n": None, "b\n": 0.0, "c\n": None}))
    assert answer(tree) == "\\boxed{1}"


def test_a_score_good_enough_ends_the_beam() -> None:
    tree = grow(partial(beam, n=4, branch=2, stop=partial(good_enough, score=0.8)), told(TOLD), Judge(SCORES))
    assert answer(tree) == "\\boxed{1}"
    assert len(tree.nodes) == 9


def test_golden_tree_of_lookahead() -> None:
    replies: dict[str, list[Reply]] = {
        "": ["a\n", "b\n"],
        "a\n": ["a1\n", "\\boxed{1}", "\\boxed{2}"],  # the first is the simulation's
        "a\na1\n": ["\\boxed{9}"],
        "b\n": ["b1\n"],
        "b\nb1\n": [OSError("gone")],
    }
    judge = Judge({"\\boxed{9}": 0.9, "b1\n": 0.2, "\\boxed{1}": 0.3, "\\boxed{2}": 0.4})
    engine = told(replies)
    tree = grow(partial(lookahead, n=2, branch=2, k=2), engine, judge, verify_tokens=1, sampling=Sampling(seed=1))
    assert shape(tree) == [
        (0, "a\n", 0.9, 2),  # what two greedy steps on is worth
        (0, "b\n", 0.2, 0),  # as far as it came before the fault
        (1, "\\boxed{1}", 0.3, 1),  # ends there itself
        (1, "\\boxed{2}", 0.4, 1),
    ]
    assert judge.paths == ["a\na1\n\\boxed{9}", "b\nb1\n", "a\n\\boxed{1}", "a\n\\boxed{2}"]
    assert [sampling.temperature for _, _, sampling in engine.asked] == [1, 1, 0, 0, 0, 0, 1, 1]
    assert (tree.budget.used, tree.budget.calls) == (engine.tokens + 4, 8 + 4)
    assert engine.tokens == sum(map(len, ("a\n", "b\n", "a1\n", "b1\n", "\\boxed{9}", "\\boxed{1}", "\\boxed{2}")))
    assert tree.note == "1 of 8 samples failed: OSError: gone"


def test_golden_tree_of_diverse_verifier_tree_search() -> None:
    replies = {"": ["a\n", "b\n", "c\n", "d\n"], "b\n": ["\\boxed{1}", "\\boxed{2}"], "d\n": ["\\boxed{3}", "e\n"]}
    scores = {"a\n": 0.5, "b\n": 0.6, "c\n": 0.1, "d\n": 0.2, "\\boxed{1}": 0.3, "\\boxed{3}": 0.9, "e\n": 0.1}
    tree = grow(partial(dvts, n=4, branch=2), told(replies), Judge(scores))
    # a beam of the same n would have left c and d behind
    assert shape(tree) == [
        (0, "a\n", 0.5, 0),
        (0, "b\n", 0.6, 2),
        (2, "\\boxed{1}", 0.3, 1),
        (2, "\\boxed{2}", 0.5, 1),
        (0, "c\n", 0.1, 0),
        (0, "d\n", 0.2, 1),
        (6, "\\boxed{3}", 0.9, 1),
        (6, "e\n", 0.1, 0),
    ]
    assert answer(tree) == "\\boxed{3}"
    assert tree.nodes[0].visits == 3


def test_no_subtree_waits_for_another_or_takes_its_tokens() -> None:
    engine = Scripted(["on\n"], delay=0.002)

    class Slow(Judge):
        async def __call__(self, messages: Any, steps: Any) -> Any:
            if len(self.paths) == 0:
                self.paths.append("held")
                await asyncio.sleep(0.1)
            return await super().__call__(messages, steps)

    tree = grow(partial(dvts, n=4, branch=1, rounds=3), engine, Slow(), budget=Budget(tokens=4 * 9))
    depths = [len(prefix) for _, prefix, _ in engine.asked]
    assert depths[:4] == [0] * 4
    assert sorted(depths[4:10]) == [1, 1, 1, 2, 2, 2]  # three subtrees end while the first one's judge dawdles
    assert [len(tree.path(leaf)) for leaf in tree.leaves()] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n": 6, "branch": 4}, "n is 6 and branch 4"),
        ({"n": 0}, "n is 0"),
        ({"n": 4, "branch": 0}, "branch 0"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
@pytest.mark.parametrize("search", [beam, dvts, lookahead])
def test_knobs_that_cannot_be_are_refused(search: Any, options: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        grow(partial(search, **options), told({}), Judge())
    with pytest.raises(ValueError, match="verify is None"):
        grow(search, told({}), None)


def test_lookahead_looks_no_fewer_than_0_steps_ahead() -> None:
    with pytest.raises(ValueError, match="k is -1"):
        grow(partial(lookahead, k=-1), told({}), Judge())
    plain = grow(partial(beam, n=4, branch=2), told(TOLD), Judge(SCORES))
    assert grow(partial(lookahead, n=4, branch=2, k=0), told(TOLD), Judge(SCORES)) == plain
