"""Rubrics: weights are honoured, unclear answers are left out, broken files are named by their place."""

from __future__ import annotations

from pathlib import Path

import pytest
from judges import ASKED, THOUGHT, Judge, ask, characters

from forethought.engines.scripted import always
from forethought.types import Step, user
from forethought.verify.generative import presented
from forethought.verify.rubric import WEIGHTS, Criterion, explicit, implicit, load, rating

CRITERIA = (
    Criterion("States the sum.", 1.0, "sum"),
    Criterion("Shows the carry.", 0.7, "carry"),
    Criterion("Does not ramble.", 0.3),
)


def believed(text: str) -> float:
    return 0.9 if "States" in text else 0.5 if "carry" in text else 0.0


def test_explicit_is_the_weighted_mean_of_the_criteria() -> None:
    judge = Judge(belief=believed, delay=0.005)
    (verdict,) = ask(explicit(judge, CRITERIA), THOUGHT)
    assert verdict.parts == pytest.approx({"sum": 0.9, "carry": 0.5, "Does not ramble.": 0.0})
    assert verdict.score == pytest.approx((0.9 + 0.7 * 0.5) / 2.0)
    assert (verdict.answer, verdict.note) == ("8", "")
    assert judge.most_scoring == 6  # all criteria at once
    shown = presented(ASKED, THOUGHT)
    assert all(read.startswith(shown) for read in judge.read)  # they share what comes before the criterion
    asked = [f"\n\nCriterion: {one.text}\nDoes the solution meet the criterion (Yes/No)?" for one in CRITERIA]
    assert verdict.cost == sum(2 * characters(user(shown + one), ()) + len("YesNo") for one in asked)


def test_words_make_criteria_binary_and_unclear_ones_are_left_out() -> None:
    judge = Judge(["Yes", "No.", "Yes and No"])
    (verdict,) = ask(explicit(judge, CRITERIA, read="words"), THOUGHT)
    assert verdict.parts == {"sum": 1.0, "carry": 0.0}
    assert verdict.score == pytest.approx(1 / 1.7)
    assert verdict.note == "not judged: Does not ramble."
    (none,) = ask(explicit(Judge(["perhaps"]), CRITERIA, read="words"), THOUGHT)
    assert (none.score, none.parts) == (None, {})
    (away,) = ask(explicit(Judge(always(OSError("gone"))), CRITERIA, read="words"), THOUGHT)
    assert (away.score, away.answer) == (None, "8")


def test_implicit_is_one_rating_of_all_criteria() -> None:
    judge = Judge(["It states the sum.\nRating: 7"])
    (verdict,) = ask(implicit(judge, CRITERIA), THOUGHT)
    assert verdict.score == pytest.approx(6 / 9)
    assert verdict.parts == {"rating": 7.0}
    assert verdict.note == "It states the sum.\nRating: 7"
    asked = judge.asked[0][0][0]["content"]
    assert "- (1) States the sum.\n- (0.7) Shows the carry.\n- (0.3) Does not ramble." in asked
    assert verdict.cost == len(asked) + len(verdict.note)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("Rating: 1", 1),
        ("rating: 10/10", 10),
        ("**Rating**: 8.5 / 10", 8.5),
        ("Rating = 3", 3),
        ("7", 7),
        (" 7/10.\n", 7),
        ("Rating: 4\nRating: 4", 4),
        ("Rating: 4\nRating: 5", None),
        ("Rating: 0", None),
        ("Rating: 11", None),
        ("Rating: 100", None),
        ("Rating: -3", None),
        ("Rating: NaN", None),
        ("Rating: N", None),
        ("berating 7 people", None),
        ("seven of 7 criteria", None),
        ("", None),
    ],
)
def test_a_rating_is_read_only_where_it_is_one(text: str, given: float | None) -> None:
    assert rating(text) == given
    (verdict,) = ask(implicit(Judge([text]), CRITERIA), THOUGHT)
    assert (verdict.score is None) == (given is None)


def test_both_kinds_of_file_give_the_same_criteria(tmp_path: Path) -> None:
    (tmp_path / "rubric.jsonl").write_text(
        '{"criterion": "States the sum.", "weight": "Essential", "name": "sum"}\n\n'
        '{"criterion": "Shows the carry.", "weight": 0.7, "name": "carry"}\n'
        '{"criterion": "Does not ramble.", "weight": "optional"}\n'
    )
    (tmp_path / "rubric.yaml").write_text(
        "criteria:\n- {criterion: States the sum., weight: essential, name: sum}\n"
        "- {criterion: Shows the carry., weight: 0.7, name: carry}\n- {criterion: Does not ramble., weight: optional}\n"
    )
    (tmp_path / "bare.yml").write_text("- criterion: States the sum.\n")
    assert load(tmp_path / "rubric.jsonl") == load(tmp_path / "rubric.yaml") == CRITERIA
    assert load(tmp_path / "bare.yml") == (Criterion("States the sum."),)
    assert WEIGHTS == {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("r.jsonl", "", "has no criterion"),
        ("r.jsonl", '{"criterion": "a"}\n{', r"r.jsonl:2: not JSON"),
        ("r.jsonl", '"a"', "r.jsonl:1: 'a' is no object with a `criterion`"),
        ("r.jsonl", '{"criterion": 3}', "no object with a `criterion` in words"),
        ("r.jsonl", '{"criterion": " "}', "r.jsonl:1: a criterion is empty"),
        ("r.jsonl", '{"criterion": "a", "wieght": 1}', "it knows no wieght; only criterion, weight, name"),
        ("r.jsonl", '{"criterion": "a", "weight": -1}', "is -1.0; it must be above 0"),
        ("r.jsonl", '{"criterion": "a", "weight": NaN}', "is nan; it must be above 0"),
        (
            "r.jsonl",
            '{"criterion": "a", "weight": "vital"}',
            "the weight is 'vital'; it must be a number above 0, or es",
        ),
        ("r.jsonl", '{"criterion": "a", "weight": true}', "the weight is True"),
        ("r.jsonl", '{"criterion": "a", "name": 1}', "the name is 1"),
        ("r.jsonl", '{"criterion": "a"}\n{"criterion": "a"}', "has 'a' twice"),
        ("r.yaml", "- a\nb: [", "r.yaml:2: not YAML"),
        ("r.yaml", "criterion: a", "holds no list, neither by itself nor under `criteria`"),
        ("r.yaml", "- {criterion: a}\n- criterion: ''", "r.yaml:2: a criterion is empty"),
        ("r.txt", "a", "is neither .jsonl nor .yaml"),
    ],
)
def test_a_broken_rubric_is_named(tmp_path: Path, name: str, text: str, named: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=named) as refused:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


def test_a_missing_rubric_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.yaml cannot be read"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="the rubric has no criterion"):
        explicit(Judge(), ())
    with pytest.raises(ValueError, match="the rubric has 'sum' twice"):
        implicit(Judge(), (CRITERIA[0], CRITERIA[0]))


RULES = """
- rule: Every line has an equation.
  unless: [the line only restates the question, "the line is the answer's own"]
  weight: essential
- criterion: States the sum.
- rule: No line is longer than 80 characters.
  name: short
"""


def test_rules_are_judged_with_their_exceptions(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    criteria = load(tmp_path / "rules.yaml")
    assert [one.label for one in criteria] == ["rule 1", "States the sum.", "short"]
    assert criteria[0].text.splitlines() == [
        "Keeps this rule: Every line has an equation.",
        "The rule does not hold, and counts as kept, where one of these is the case:",
        "(1) the line only restates the question",
        "(2) the line is the answer's own",
    ]
    judge = Judge(belief=lambda text: 1.0 if "(2) the line is" in text else 0.25)
    (verdict,) = ask(explicit(judge, criteria), THOUGHT)
    assert verdict.parts == pytest.approx({"rule 1": 1.0, "States the sum.": 0.25, "short": 0.25})
    assert verdict.score == pytest.approx((1 + 2 * 0.25) / 3)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ('{"rule": ""}', "is no `rule` in words"),
        ('{"rule": "a", "criterion": "b"}', "a rule or a criterion, not both"),
        ('{"rule": "a", "unless": "b"}', "`unless` is 'b'; it must be a list of exceptions"),
        ('{"rule": "a", "unless": [1]}', "it must be a list of exceptions"),
        ('{"rule": "a", "because": "b"}', "it knows no because"),
        ('{"rule": "a", "name": "x"}\n{"rule": "b", "name": "x"}', "has 'x' twice"),
    ],
)
def test_a_broken_rule_is_named(tmp_path: Path, row: str, named: str) -> None:
    (tmp_path / "rules.jsonl").write_text(row + "\n")
    with pytest.raises(ValueError, match=named):
        load(tmp_path / "rules.jsonl")


def test_the_judge_sees_the_words_alone_and_not_which_arm_they_come_from() -> None:
    marked = tuple(
        Step(step.text, tokens=(7,), logprobs=(-0.5,), stop="stop", action="revise", sampled=False, value=0.99)
        for step in THOUGHT
    )
    judge = Judge(belief=believed)
    plain, other = ask(explicit(judge, CRITERIA), THOUGHT, marked)
    assert plain == other
    assert len(judge.read) == 2 * len(set(judge.read))
