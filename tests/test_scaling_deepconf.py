"""DeepConf on a bank: who votes, who is given up, and what that saves."""

from __future__ import annotations

import math

import pytest

from forethought.scaling.bank import Drawn
from forethought.scaling.deepconf import online, surest
from forethought.search.choose import Thought
from forethought.types import Step

SURE, UNSURE = -0.1, -2.0


def thought(place: int, answer: str, *logprobs: float) -> Thought:
    return Thought(place, (Step("x", logprobs=logprobs),), answer, None)


def drawn(*thoughts: Thought | None, right: str = "4") -> Drawn:
    """Ten tokens each."""
    truth = tuple(each is not None and each.answer == right for each in thoughts)
    return Drawn("p", thoughts, truth, (10,) * len(thoughts), (0,) * len(thoughts))


def sure(place: int, answer: str) -> Thought:
    return thought(place, answer, *[SURE] * 10)


def unsure(place: int, answer: str, at: int) -> Thought:
    """Its tokens from `at` on are unsure."""
    return thought(place, answer, *[SURE] * at, *[UNSURE] * (10 - at))


def test_the_surest_outvote_a_majority_of_unsure_ones() -> None:
    thoughts = [unsure(0, "5", 0), unsure(1, "5", 3), unsure(2, "5", 5), sure(3, "4"), sure(4, "4")]
    assert surest(thoughts, keep=1.0, group=2).answer == "4"  # 2 e^-0.1 against 3 e^-2
    assert surest(thoughts[:4], keep=0.25, group=2).answer == "4"
    assert surest([*thoughts[:3], thought(3, "4", -1.9)], keep=1.0, group=2).answer == "5"


def test_confidence_is_that_of_the_least_sure_group() -> None:
    dip = thought(1, "5", SURE, SURE, -9.0, -9.0, *[0.0] * 30)
    level = thought(0, "4", *[-1.0] * 10)
    assert surest([level, dip], keep=0.5, group=2).answer == "4"
    assert surest([level, dip], keep=0.5, group=100).answer == "5"  # of all its tokens


def test_without_log_probabilities_it_is_the_vote() -> None:
    bare = [Thought(place, (Step("x"),), answer, None) for place, answer in enumerate("544")]
    assert surest(bare).node == 1


def test_unsure_thoughts_are_given_up_where_they_fall_below_the_bar() -> None:
    # 4 and 5 tie, so that it goes on; the third falls below the bar with its sixth token, and does not vote.
    bank = drawn(sure(0, "4"), sure(1, "5"), unsure(2, "5", 5), sure(3, "4"))
    told = online(bank, range(4), most=4, warm_up=2, keep=1.0, group=2)
    assert (told.samples, told.tokens, told.right) == (4, 10 + 10 + 6 + 10, 1)


def test_a_group_longer_than_the_thought_saves_nothing() -> None:
    bank = drawn(sure(0, "4"), sure(1, "5"), unsure(2, "5", 5))
    assert online(bank, range(3), most=3, warm_up=2, keep=1.0, group=99).tokens == 30


def test_consensus_ends_it_after_the_warm_up_and_not_before() -> None:
    bank = drawn(*(sure(place, "4") for place in range(6)))
    assert online(bank, range(6), most=6, warm_up=3).samples == 3
    split = drawn(sure(0, "5"), *(sure(place, "4") for place in range(1, 6)))
    assert online(split, range(6), most=6, warm_up=2, keep=1.0, group=2, consensus=0.7).samples == 4
    # The bar leaves out whom the warm-up was unsure of: all that is left agrees.
    dropped = drawn(unsure(0, "5", 0), *(sure(place, "4") for place in range(1, 6)))
    assert online(dropped, range(6), most=6, warm_up=2, keep=0.5, group=2).samples == 2


def test_the_order_decides_who_warms_up() -> None:
    bank = drawn(sure(0, "4"), sure(1, "4"), unsure(2, "5", 0), unsure(3, "5", 0))
    assert online(bank, [0, 1, 2, 3], most=4, warm_up=2).right == 1
    assert online(bank, [2, 3, 0, 1], most=4, warm_up=2).right == 0


def test_no_vote_is_wrong_and_what_could_not_be_graded_is_not() -> None:
    cut = online(drawn(None, None), range(2), most=2, warm_up=1)
    assert (cut.right, cut.tokens, cut.samples) == (0, 20, 2)
    ungraded = Drawn("p", (sure(0, "4"),), (None,), (10,), (0,))
    assert math.isnan(online(ungraded, range(1), most=1, warm_up=1).right)


def test_impossible_knobs_are_refused() -> None:
    bank = drawn(sure(0, "4"), sure(1, "4"))
    with pytest.raises(ValueError, match="warm_up is 3, most 2, of 2"):
        online(bank, range(2), most=2, warm_up=3)
    with pytest.raises(ValueError, match="most 3, of 2"):
        online(bank, range(2), most=3, warm_up=1)
    with pytest.raises(ValueError, match="keep is 0"):
        surest([sure(0, "4")], keep=0)
    with pytest.raises(ValueError, match="group 0"):
        online(bank, range(2), most=2, warm_up=1, group=0)
