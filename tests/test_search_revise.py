"""Chains of one thought: revisions, wide-and-deep mixes of them, and budget forcing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from search_script import ASK, Judge, answer, shape, told

from forethought.engines.scripted import Scripted, always, endless
from forethought.search.beam import beam
from forethought.search.choose import Thought, majority, weighted
from forethought.search.forcing import FINAL, WAIT, force
from forethought.search.mix import abreast, mix
from forethought.search.revise import AGAIN, feedback, revise
from forethought.search.seeds import derive
from forethought.search.stop import good_enough, unanimous_window
from forethought.types import Budget, Sampling, Step, Tree, Verdict

ONE, TWO, THREE = (f"\\boxed{{{i}}}" for i in (1, 2, 3))
SO_TWO, SO_THREE = "so</think>" + TWO, "so</think>" + THREE
"""Second attempts: they stand in a thought that `AGAIN` has opened."""


def grow(search: Any, engine: Any, **options: Any) -> Tree:
    tree: Tree = asyncio.run(search(ASK, engine, **options))
    return tree


def test_golden_chain_of_revisions() -> None:
    judge = Judge({ONE: 0.2, SO_TWO: 0.9, SO_THREE: 0.4})
    engine = Scripted([ONE, SO_TWO, SO_THREE])
    tree = grow(revise, engine, n=3, verify=judge, verify_tokens=1, sampling=Sampling(seed=4))
    assert shape(tree) == [
        (0, ONE, 0.2, 3),
        (1, AGAIN, None, 2),
        (2, SO_TWO, 0.9, 2),
        (3, AGAIN, None, 1),
        (4, SO_THREE, 0.4, 1),
    ]
    assert [node.step.sampled for node in tree.nodes if node.step] == [True, False, True, False, True]
    assert tree.best == 3  # inside the chain: the last revision made it worse
    assert [[step.text for step in prefix] for _, prefix, _ in engine.asked] == [
        [],
        [ONE, AGAIN],
        [ONE, AGAIN, SO_TWO, AGAIN],
    ]
    assert [sampling.seed for _, _, sampling in engine.asked] == [derive(4, *(0,) * depth) for depth in (1, 3, 5)]
    assert tree.budget == Budget(used=9 + 2 * 19 + 3, calls=6)


def test_a_critics_note_is_what_the_next_attempt_reads() -> None:
    tree = grow(revise, Scripted([ONE, SO_TWO]), n=2, verify=Judge(), remark=feedback)
    wrote = tree.nodes[2].step
    text = f"\n<think>\nFeedback: {ONE} is not it\nLet me check that, and try again.\n"
    assert wrote == Step(text, stop="stop", action="observe", sampled=False)
    assert feedback(Verdict(0.1, note="</think>\\boxed{666}<think>")).count("think>") == 1
    assert feedback(Verdict(0.1)) == feedback(None) == AGAIN
    with pytest.raises(ValueError, match="feedback repeats a critic's note"):
        grow(revise, Scripted([ONE]), remark=feedback)


def test_a_chain_without_a_judge_answers_with_the_majority_of_its_attempts() -> None:
    assert answer(grow(revise, Scripted([ONE, SO_TWO, SO_TWO]), n=3)) == SO_TWO


def test_a_chain_breaks_off_where_an_attempt_does_not_finish_or_is_good_enough() -> None:
    tree = grow(revise, Scripted([ONE, "a long and winding thought"]), n=4, sampling=Sampling(max_tokens=12))
    assert [node.step.stop for node in tree.nodes if node.step] == ["end", "stop", "length"]
    assert tree.best == 1
    good = grow(revise, Scripted([ONE, SO_TWO]), n=4, verify=Judge({SO_TWO: 1.0}), stop=partial(good_enough, score=0.8))
    assert len(good.nodes) == 4
    assert answer(good) == SO_TWO


def test_words_of_ours_that_nothing_followed_are_left_out() -> None:
    tree = grow(revise, Scripted([ONE]), n=2, verify=Judge(), verify_tokens=1, budget=Budget(tokens=11))
    assert [text for _, text, _, _ in shape(tree)] == [ONE]
    assert tree.note == "1 of 2 samples not started: the budget was spent"


def test_golden_mix_of_two_chains() -> None:
    replies = {"": [ONE, TWO], ONE + AGAIN: [SO_THREE], TWO + AGAIN: [SO_THREE]}
    scores = {ONE: 0.7, TWO: 0.5, SO_THREE: 0.6}
    tree = grow(partial(mix, n=2, depth=2), told(replies), verify=Judge(scores))
    assert shape(tree) == [
        (0, ONE, 0.7, 2),
        (1, AGAIN, None, 1),
        (2, SO_THREE, 0.6, 1),
        (0, TWO, 0.5, 2),
        (4, AGAIN, None, 1),
        (5, SO_THREE, 0.6, 1),
    ]
    assert tree.best == 1


def test_a_mix_chooses_within_its_chains_first_but_votes_over_all_attempts() -> None:
    # within the chains: 1 (0.7) beats 3 (0.6), and 3 beats 2; of those two 1 weighs more, though 3 does over all
    replies = {"": [ONE, TWO], ONE + AGAIN: [SO_THREE], TWO + AGAIN: [SO_THREE]}
    scores = {ONE: 0.7, TWO: 0.5, SO_THREE: 0.6}
    assert answer(grow(partial(mix, n=2, depth=2, choose=weighted), told(replies), verify=Judge(scores))) == ONE
    # a vote of two is none: the first of each chain would win
    assert answer(grow(partial(mix, n=2, depth=2, choose=majority), told(replies))) == SO_THREE


def test_searches_side_by_side_have_seeds_of_their_own_and_share_the_tokens_alike() -> None:
    engine = Scripted(endless("on "), delay=0.001)
    tree = grow(partial(mix, n=3, depth=2), engine, budget=Budget(tokens=32), sampling=Sampling(max_tokens=50, seed=6))
    assert [sampling.max_tokens for _, _, sampling in engine.asked] == [10, 11, 11]
    assert [sampling.seed for _, _, sampling in engine.asked] == [derive(derive(6, i), 0) for i in range(3)]
    assert (tree.budget.used, tree.note) == (32, "no thought finished")


def test_what_an_early_search_leaves_goes_to_the_later_ones() -> None:
    engine = Scripted([ONE], delay=0.001)
    grow(partial(mix, n=4, depth=1, at_once=1), engine, budget=Budget(tokens=40), sampling=Sampling(max_tokens=50))
    assert [sampling.max_tokens for _, _, sampling in engine.asked] == [10, 10, 11, 13]  # of 40, 31, 22 and 13
    poor = grow(partial(mix, n=4, depth=1), Scripted([ONE]), budget=Budget(tokens=2))
    assert "not started: the budget was spent" in poor.note or poor.best is None


def test_agreement_starts_no_further_search() -> None:
    engine = Scripted([ONE])
    tree = grow(partial(mix, n=9, depth=1, at_once=2, stop=partial(unanimous_window, window=2)), engine)
    assert engine.calls == 3  # the third had begun when the second ended
    assert len(tree.nodes) == 4


def test_a_mix_asks_about_all_its_thoughts_and_its_chains_ask_nothing() -> None:
    asked: list[int] = []

    def never(thoughts: Sequence[Thought]) -> bool:
        asked.append(len(thoughts))
        return False

    grow(partial(mix, n=2, depth=2, stop=never), Scripted([ONE, "so</think>" + ONE]))
    assert asked == [1, 2, 3, 4]


def test_any_search_can_stand_beside_itself() -> None:
    replies = {"": ["a\n", "b\n"], "a\n": [ONE], "b\n": [TWO]}
    tree = grow(
        partial(abreast, search=partial(beam, n=1, branch=1)), told(replies), n=2, verify=Judge({ONE: 0.1, TWO: 0.9})
    )
    assert answer(tree) == TWO
    assert [len(tree.path(leaf)) for leaf in tree.leaves()] == [2, 2]


def test_golden_chain_of_a_thought_that_closed_too_early() -> None:
    replies = {
        "": ["<think>\n"],
        "<think>\n": ["a\n"],
        "<think>\na\n": ["</think>\n" + ONE],
        "<think>\na\nWait": [", no\n"],
        "<think>\na\nWait, no\n": ["b</think>\n" + TWO],
        "<think>\na\nWait, no\nb</think>": ["\n" + TWO],
    }
    engine = told(replies)
    tree = grow(force, engine, least=20, most=50, verify=Judge(), verify_tokens=1)
    assert shape(tree) == [
        (0, "<think>\n", None, 1),
        (1, "a\n", None, 1),
        (2, "</think>", None, 0),  # set aside
        (2, WAIT, None, 1),
        (4, ", no\n", None, 1),
        (5, "b</think>", None, 1),  # 8 + 2 + 5 + 9 tokens: enough
        (6, "\n" + TWO, 0.5, 1),
    ]
    assert [node.step.sampled for node in tree.nodes if node.step] == [True, True, True, False, True, True, True]
    assert tree.best == 7
    assert tree.budget == Budget(used=8 + 2 + 8 + 5 + 9 + 10 + 1, calls=7)
    assert [sampling.max_tokens for _, _, sampling in engine.asked] == [50, 42, 40, 40, 35, 256]


def test_a_thought_that_would_not_end_is_closed_and_made_to_answer() -> None:
    engine = Scripted(lambda messages, prefix, sampling, call: "4}" if prefix else "<think>\n" + "on " * 99)
    tree = grow(force, engine, most=20, sampling=Sampling(max_tokens=30, seed=2))
    assert [text for _, text, _, _ in shape(tree)] == ["<think>\n" + "on " * 4, FINAL, "4}"]
    assert tree.best == 3
    assert tree.budget.used == 20 + 2
    last = engine.asked[-1][2]
    assert (last.max_tokens, last.stop) == (30, ())  # the answer may have lines of its own


def test_the_answers_share_of_the_budget_is_kept_from_the_thought() -> None:
    engine = Scripted(lambda messages, prefix, sampling, call: "4}" if prefix else "<think>\n" + "on " * 99)
    tree = grow(force, engine, most=200, sampling=Sampling(max_tokens=5), budget=Budget(tokens=25))
    assert [sampling.max_tokens for _, _, sampling in engine.asked] == [20, 5]
    assert tree.best == 3
    assert tree.budget.used == 22


def test_a_thought_left_open_at_its_end_token_is_closed_too() -> None:
    tree = grow(force, Scripted(["<think> hm", "4}"]))
    assert [text for _, text, _, _ in shape(tree)] == ["<think> hm", FINAL, "4}"]
    assert answer(tree) == "4}"


def test_a_model_that_answers_without_a_thought_is_left_to_it() -> None:
    tree = grow(force, Scripted([ONE]), verify=Judge())
    assert shape(tree) == [(0, ONE, 0.5, 1)]
    assert tree.best == 1


def test_it_waits_no_oftener_than_it_may_and_keeps_the_last_answer() -> None:
    engine = Scripted(always(ONE))
    tree = grow(force, engine, least=100, waits=2)
    assert [(parent, text) for parent, text, _, _ in shape(tree)] == [
        (0, ONE),
        (0, WAIT),
        (2, ONE),
        (2, WAIT),
        (4, ONE),
    ]
    assert tree.best == 5
    assert engine.calls == 3


def test_a_thought_opened_in_the_step_that_was_set_aside_is_opened_again() -> None:
    engine = Scripted(["<think>a</think>", "b\n", "c\n</think>", ONE])
    tree = grow(force, engine, least=18, waits=1)
    assert [text for _, text, _, _ in shape(tree)][1] == f"<think>\n{WAIT}"


@pytest.mark.parametrize(
    ("search", "options", "named"),
    [
        (revise, {"n": 0}, "n is 0"),
        (mix, {"n": 0}, "n is 0"),
        (mix, {"at_once": 0}, "at_once is 0"),
        (mix, {"depth": 0}, "n is 0; a chain"),
        (force, {"least": 9, "most": 8}, "least is 9 and most 8"),
        (force, {"most": 0}, "most 0"),
        (force, {"waits": -1}, "waits is -1"),
        (force, {"least": 1, "wait": ""}, "wait ''"),
    ],
)
def test_knobs_that_cannot_be_are_refused(search: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        grow(search, Scripted([ONE]), **options)
