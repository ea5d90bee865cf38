"""Particle filtering: its weights, who survives, and a golden population."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import pytest
from search_script import ASK, Judge, answer, shape, told

from forethought.engines.scripted import Reply, Scripted
from forethought.search.particle import log_odds, particle, softmax, systematic
from forethought.search.stop import good_enough
from forethought.types import Tree


def grow(engine: Any, judge: Any, **options: Any) -> Tree:
    return asyncio.run(particle(ASK, engine, verify=judge, **options))


def test_a_weight_is_the_odds_of_the_score() -> None:
    weights = softmax([log_odds(score) for score in (0.9, 0.5, 0.5, 0.1)])
    assert weights == pytest.approx([0.81, 0.09, 0.09, 0.01])
    assert softmax([-math.inf, 0.0]) == [0.0, 1.0]
    assert math.isfinite(log_odds(0.0))
    assert log_odds(1.0) == pytest.approx(-log_odds(0.0))
    for score in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"the score is {score}"):
            log_odds(score)


@pytest.mark.parametrize(
    ("weights", "offset", "drawn"),
    [
        ([0.25] * 4, 0.0, [0, 1, 2, 3]),
        ([0.25] * 4, 0.999, [0, 1, 2, 3]),
        ([0.81, 0.09, 0.09, 0.01], 0.0, [0, 0, 0, 0]),  # at 0, 0.25, 0.5 and 0.75
        ([0.81, 0.09, 0.09, 0.01], 0.5, [0, 0, 0, 1]),  # at 0.125, 0.375, 0.625 and 0.875
        ([0.0, 1.0], 0.5, [1, 1]),
        ([0.5, 0.4999999], 0.9999999, [0, 0]),  # the last place is beyond the sum: it goes to the heaviest
    ],
)
def test_systematic_resampling_draws_by_weight(weights: list[float], offset: float, drawn: list[int]) -> None:
    assert systematic(weights, offset) == drawn


REPLIES = {
    "": ["a\n", "b\n", "c\n", "d\n"],
    "a\n": ["\\boxed{1}", "\\boxed{2}", "e\n", "f\n"],
    "a\ne\n": ["\\boxed{3}", "\\boxed{3}"],
    "a\nf\n": ["\\boxed{4}"],
}
SCORES = {"a\n": 0.99, "b\n": 0.01, "c\n": 0.01, "d\n": 0.01, "\\boxed{3}": 0.7}


def test_golden_population() -> None:
    # a weighs 0.9997, so all four go on from it. Then all weigh the same and none is drawn anew; two are at their end
    # and stay, two go on.
    engine = told(REPLIES)
    tree = grow(engine, Judge(SCORES), n=4)
    assert shape(tree) == [
        (0, "a\n", 0.99, 4),
        (0, "b\n", 0.01, 0),
        (0, "c\n", 0.01, 0),
        (0, "d\n", 0.01, 0),
        (1, "\\boxed{1}", 0.5, 1),
        (1, "\\boxed{2}", 0.5, 1),
        (1, "e\n", 0.5, 1),
        (1, "f\n", 0.5, 1),
        (7, "\\boxed{3}", 0.7, 1),
        (8, "\\boxed{4}", 0.5, 1),
    ]
    assert answer(tree) == "\\boxed{3}"
    assert engine.calls == 10


def test_the_gate_decides_whether_to_draw_anew() -> None:
    engine = Scripted(["a\n", "b\n"], delay=0.001)
    never = grow(engine, Judge({"a\n": 0.99, "b\n": 0.01}), n=2, gate=0.0, rounds=3)
    assert [len(never.path(leaf)) for leaf in never.leaves()] == [3, 3]
    assert engine.most_in_flight == 2
    # weights 0.6 and 0.4: 1.92 effective particles of 2
    lean = {"a\n": 0.6, "b\n": 0.5}
    kept = grow(Scripted(["a\n", "b\n"]), Judge(lean), n=2, gate=0.9, rounds=2)
    assert [len(kept.path(leaf)) for leaf in kept.leaves()] == [2, 2]
    assert [len(kept.nodes[node].children) for node in (1, 2)] == [1, 1]
    hot = partial(grow, Scripted(["a\n", "b\n"]), Judge({"a\n": 0.99, "b\n": 0.01}), n=2, gate=0.9, rounds=2)
    assert len(hot(temperature=100.0).nodes[2].children) == 1
    assert len(hot().nodes[2].children) == 0


def test_a_particle_that_could_not_be_judged_keeps_its_odds_and_a_dead_one_has_none() -> None:
    replies: dict[str, list[Reply]] = {
        "": ["a\n", "b\n"],
        "a\n": ["mute\n", "x\n"],
        "b\n": [OSError("gone")],
        "a\nmute\n": ["\\boxed{1}", "\\boxed{2}"],
    }
    tree = grow(told(replies), Judge({"a\n": 0.6, "b\n": 0.6, "mute\n": None}), n=2, gate=0.9)
    assert sorted(tree.steps(leaf)[-1].text for leaf in tree.leaves()) == ["OSError: gone", "\\boxed{1}", "\\boxed{2}"]
    assert tree.note == "1 of 6 samples failed: OSError: gone"


def test_the_odds_are_drawn_anew_with_the_particles() -> None:
    replies = {"": ["a\n", "b\n"], "a\n": ["mute\n", "mutter\n"], "a\nmute\n": ["\\boxed{1}"]}
    judge = Judge({"a\n": 0.99, "b\n": 0.01, "mute\n": None, "mutter\n": None})
    tree = grow(told({**replies, "a\nmutter\n": ["\\boxed{2}"]}), judge, n=2, gate=0.9)
    assert [tree.steps(leaf)[-1].text for leaf in tree.leaves()] == ["b\n", "\\boxed{1}", "\\boxed{2}"]


def test_a_population_that_is_all_dead_ends() -> None:
    tree = grow(Scripted([OSError("gone")]), Judge(), n=3)
    assert (len(tree.nodes), tree.best) == (4, None)


def test_a_score_good_enough_ends_the_population() -> None:
    tree = grow(told(REPLIES), Judge(SCORES), n=4, stop=partial(good_enough, score=0.5))
    assert answer(tree) == "\\boxed{1}"
    assert len(tree.nodes) == 9


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n": 0}, "n is 0"),
        ({"rounds": 0}, "rounds 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"gate": 1.5}, "gate 1.5"),
    ],
)
def test_knobs_that_cannot_be_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        grow(told({}), Judge(), **options)
