"""The critic: quotes are found in the step they begin in, and the forced search takes as many critiques as it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from judges import THOUGHT, Judge, ask

from forethought.engines.scripted import always
from forethought.types import Messages, Sampling, Step, Verdict
from forethought.verify.critic import ASKED, MARK, critic, highlights

BAD = f"{MARK}\n3 + 4 = 8\n{MARK}\n3 + 4 is 7."
GOOD = Sampling(max_tokens=256, seed=0)


async def longest(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
    return Verdict(None, parts={"reward": float(len("".join(step.text for step in steps)))}, cost=5)


def test_a_located_error_is_the_steps_score_and_the_critique_the_note() -> None:
    judge = Judge([BAD])
    (verdict,) = ask(critic(judge, n=1, rounds=0), THOUGHT)
    assert (verdict.score, verdict.steps, verdict.note) == (0.0, (1.0, 0.0, 1.0, 1.0), BAD)
    assert verdict.parts["highlights"] == 1
    assert verdict.answer == "8"
    asked = judge.asked[0][0][0]["content"]
    assert asked.endswith(ASKED)
    assert verdict.cost == len(asked) + len(BAD)


def test_no_error_is_a_good_score() -> None:
    (verdict,) = ask(critic(Judge(["No errors."]), n=1, rounds=0), THOUGHT)
    assert (verdict.score, verdict.steps, verdict.note) == (1.0, (1.0,) * 4, "No errors.")


def test_the_forced_search_takes_the_papers_twenty_eight() -> None:
    """n · (keep · (rounds - 1) + 1), each with a highlight forced open, each round on the best of the last."""
    judge = Judge(lambda messages, prefix, sampling, call: f"so\n{MARK} wrong {'!' * call}", delay=0.002)
    (verdict,) = ask(critic(judge, rank=longest, sampling=GOOD), THOUGHT)
    assert (judge.calls, verdict.parts["critiques"], judge.most_in_flight) == (28, 28.0, 8)
    starts = ["".join(step.text for step in prefix) for _, prefix, _ in judge.asked]
    assert starts[:4] == [MARK] * 4
    assert all(
        start.endswith(MARK) and start.count(MARK) == 2 * (1 + (at + 4) // 8) - 1 for at, start in enumerate(starts)
    )
    assert set(starts[4:12]) == {f"{MARK}so\n{MARK} wrong {'!' * call}\n\n{MARK}" for call in (2, 3)}
    assert len({sampling.seed for _, _, sampling in judge.asked}) == 28
    assert verdict.note.count(MARK) == 2 * verdict.parts["highlights"] == 8
    assert verdict.parts["reward"] == len(verdict.note) == 128
    assert all(not step.sampled for _, prefix, _ in judge.asked for step in prefix)


def test_the_cost_is_that_of_critiques_and_their_ranking() -> None:
    judge = Judge([f"so 8{MARK} no"], metered=False)
    (verdict,) = ask(critic(judge, rank=longest, n=3, rounds=1), THOUGHT)
    assert verdict.cost == 3 * (len(f"so 8{MARK} no") + 5)


def test_the_modifier_pays_for_highlights() -> None:
    replies = [BAD, f"{BAD}\n\n{MARK}so 8{MARK} follows", "No errors." + " " * 90]
    for modifier, expected in ((0.0, 0), (10.0, 0), (100.0, 2)):
        (verdict,) = ask(critic(Judge(replies), rank=longest, n=3, rounds=0, modifier=modifier), THOUGHT)
        assert verdict.parts["highlights"] == expected
    assert verdict.steps == (1.0, 0.0, 0.0, 1.0)


def test_without_a_ranking_the_critics_own_confidence_ranks() -> None:
    sure = Step("No errors.", tokens=(1,), logprobs=(-0.1,))
    unsure = replace(sure, text=BAD, logprobs=(-2.0,))
    (verdict,) = ask(critic(Judge([unsure, sure]), n=2, rounds=0), THOUGHT)
    assert verdict.note == "No errors."
    assert verdict.parts["reward"] == pytest.approx(2.718281828**-0.1)


def test_a_paragraph_that_highlights_nothing_does_not_close_the_critique() -> None:
    judge = Judge([f"so 8{MARK} wrong.\n\nIn sum, a bad thought.", f"3 + 4{MARK} too"])
    (verdict,) = ask(critic(judge, n=1, keep=1, rounds=2), THOUGHT)
    assert judge.asked[1][1][0].text == f"{MARK}so 8{MARK} wrong.\n\n{MARK}"
    assert verdict.parts["critiques"] == 2


def test_a_highlight_that_was_cut_open_goes_on() -> None:
    judge = Judge(["3 + 4", f" = 8{MARK} wrong"])
    ask(critic(judge, n=1, keep=1, rounds=2), THOUGHT)
    assert judge.asked[1][1][0].text == f"{MARK}3 + 4"


def test_critiques_that_fail_are_left_out_and_none_at_all_is_no_score() -> None:
    (some,) = ask(critic(Judge([OSError("gone"), BAD]), n=2, rounds=0), THOUGHT)
    assert (some.score, some.parts["critiques"]) == (0.0, 1.0)
    (none,) = ask(critic(Judge(always(OSError("gone")))), THOUGHT)
    assert (none.score, none.steps) == (None, ())
    assert "no critique could be had: OSError: gone" in none.note

    async def mute(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        return Verdict(None, note="no idea")

    (unranked,) = ask(critic(Judge([BAD]), rank=mute, n=2), THOUGHT)
    assert (unranked.score, unranked.note) == (None, "no critique could be had: no idea")


@pytest.mark.parametrize(
    ("critique", "found"),
    [
        (BAD, [("3 + 4 = 8", "3 + 4 is 7.", 1)]),
        (f"{MARK}8{MARK} one {MARK}so 8{MARK} two", [("8", "one", 1), ("so 8", "two", 2)]),
        (f"{MARK}3  +\n4 = 8{MARK}", [("3  +\n4 = 8", "", 1)]),
        (f"{MARK}8\nso{MARK} over two steps", [("8\nso", "over two steps", 1)]),
        (f"{MARK}\\boxed{{8}}{MARK}", [("\\boxed{8}", "", 3)]),
        (f"{MARK}9 + 9{MARK} invented", []),
        (f"{MARK}{MARK}{MARK} {MARK}", []),
        (f"{MARK}3 + 4 = 8", []),
        ("(.*)+", []),
        (f"{MARK}(.*)+{MARK}", []),
        ("", []),
    ],
)
def test_a_quote_is_found_in_the_step_it_begins_in(critique: str, found: list[tuple[str, str, int]]) -> None:
    assert [(one.quote, one.comment, one.step) for one in highlights(critique, THOUGHT)] == found


def test_bad_settings_are_named() -> None:
    for n, keep, rounds in ((0, 1, 1), (1, 0, 1), (1, 1, -1)):
        with pytest.raises(ValueError, match=f"n is {n}, keep {keep}, rounds {rounds}; n and keep are at least 1"):
            critic(Judge(), n=n, keep=keep, rounds=rounds)
    with pytest.raises(ValueError, match="4 critiques at temperature 0"):
        critic(Judge(), sampling=Sampling(temperature=0))
