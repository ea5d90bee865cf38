"""What a thought votes for, and who wins."""

from __future__ import annotations

import pytest

from forethought.verify.vote import answer_of, majority, vote, weighted


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n2+2\n</think>\n\\boxed{4}", "4"),
        ("<think>\\boxed{3}</think> \\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{0.5}", "1/2"),
        ("\\boxed{1,234,567}", "1234567"),
        ("\\boxed{1{,}234}", "1234"),
        ("\\boxed{3} no, \\boxed{4}", None),
        ("<think>\\boxed{3}", None),
        ("<think>\\boxed{3}</think> three", None),
        ("\\boxed{ }", None),
        ("\\boxed{3", None),
        ("", None),
    ],
)
def test_a_thought_votes_for_the_answer_a_grader_would_read(text: str, answer: str | None) -> None:
    assert answer_of(text) == answer


def test_a_task_may_have_a_mark_of_its_own() -> None:
    assert answer_of("so it is\n#### 1,234", mark="####") == "1234"
    assert answer_of("so it is\n#### 1,234") is None


def test_most_votes_win_and_a_tie_goes_to_the_first_given() -> None:
    assert majority(["a", "b", "b"]) == "b"
    assert majority(["b", "a", "a", "b"]) == "b"
    assert majority([None, "a", None]) == "a"
    assert majority([None, None]) is None
    assert majority([]) is None


def test_weights_can_turn_a_majority() -> None:
    answers = ["a", "a", "b", None]
    assert weighted(answers, [0.1, 0.2, 0.9, 1.0]) == "b"
    assert weighted(answers, [0.5, 0.5, 0.9, 1.0]) == "a"


def test_an_unjudged_answer_does_not_vote_and_is_not_a_zero() -> None:
    assert vote(["a", "b"], [None, 0.0]).answer == "b"
    assert vote(["a"], [None]).answer is None


def test_the_heaviest_voice_speaks_and_shares_sum_to_one() -> None:
    result = vote(["a", "b", "b", None, "b"], [0.5, 0.2, 0.7, 0.9, 0.6])
    assert (result.answer, result.index) == ("b", 2)
    assert result.shares == pytest.approx({"a": 0.25, "b": 0.75})
    assert list(result.shares) == ["a", "b"]
    assert vote([None, "a", "b", "a"]).index == 1


def test_all_zero_weights_elect_the_first() -> None:
    result = vote(["a", "b"], [0.0, 0.0])
    assert (result.answer, result.index, result.shares) == ("a", 0, {"a": 0.0, "b": 0.0})


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_counted_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="cannot weigh"):
        vote(["a", "b"], [1.0, weight])


def test_as_many_weights_as_answers() -> None:
    with pytest.raises(ValueError, match="2 answers come with 1 weights"):
        weighted(["a", "b"], [1.0])
