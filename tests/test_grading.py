"""Which answer of a text counts, and when two answers are the same."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from forethought.problems import equal, final_answer, grade, grade_answer, open_task
from forethought.problems.normal import read
from forethought.types import Problem, Step, Trace, Verdict

DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "answer", "note"),
    [
        (r"\boxed{5}", "5", "boxed"),
        ("<think>\n\\boxed{4}\n</think>\n\\boxed{5}", "5", "boxed"),
        ("<think>\n\\boxed{4}", None, "the thought never closed"),
        ("<think>\n2\n</think>\nIt is 5.", None, "no answer"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\boxed{3} wait \boxed{4}", None, "2 boxes that differ"),
        (r"\boxed{1,000} that is \boxed{1000}", "1000", "boxed"),
        (r"\boxed{5", None, "no answer"),
        ("so\n#### 5 \nbye", "5", "marked"),
        ("#### 4\n#### 5", "5", "marked"),
        ("x ####", None, "nothing after ####"),
        ("\\boxed{6}\n#### 5", "6", "boxed"),
        ("<answer>4</answer><answer> 5 </answer>", "5", "tagged"),
        ("<answer><answer>5</answer>", "5", "tagged"),
        ("#### 5 <answer>6</answer>", "5 <answer>6</answer>", "marked"),
        ("The answer is 5.", None, "no answer"),
    ],
)
def test_the_answer_a_text_commits_to(text: str, answer: str | None, note: str) -> None:
    assert final_answer(text, mark="####") == (answer, note)


def test_a_mark_counts_only_for_the_task_that_has_it() -> None:
    assert final_answer("#### 5") == (None, "no answer")


def score(gold: str, answer: str) -> tuple[float | None, str]:
    verdict = grade_answer(gold, f"\\boxed{{{answer}}}")
    return verdict.score, verdict.note


SAME_AT_SIGHT = [
    ("12345", r"12\,345"),
    ("1000000", "1{,}000{,}000"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("1000", "1 000"),
    ("3", "$3.00$"),
    ("-3", "\u22123"),
    ("18", "18."),
    ("18", "**18**"),
    (r"\$18.90", "18.9"),
    ("5", r"\boxed{5}"),
    ("5", "{5}"),
    ("5", "x = 5"),
    ("x=5", "5"),
    ("0.15", ".15"),
    ("1e6", "1000000"),
    ("1/2", "0.5"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac 59", "5/9"),
    (r"\frac43", r"1\frac{1}{3}"),
    ("-1 1/2", "-1.5"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}2)"),
    (r"11\sqrt2", r"11 \sqrt{2}"),
    ("4210_{5}", "4210_5"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("Evelyn", r"\text{Evelyn}"),
    ("blue", "Blue."),
    (r"\text{(A)}", "A"),
    ("11:30", "11:30"),
    (r"\infty", r"\infty"),
]
DIFFERENT_AT_SIGHT = [
    ("5", "6"),
    ("5", "-5"),
    ("1/3", "0.333333"),
    ("883", "8 8 3"),
    ("34", "3 4"),
    ("blue", "lube"),
    ("no", "on"),
    ("A", "B"),
    ("11:30", "11/30"),
    ("12 million", "12"),
    ("5", "\u0665"),
    ("5", "\uff15"),
    ("5", "nan"),
    ("5", "inf"),
    (r"\infty", "inf"),
    ("2", "\u00b2"),
    ("883", "624+259"),
    ("6", r"2 \cdot 3"),
    ("6", "3!"),
    ("1", ""),
]


@pytest.mark.parametrize(
    ("gold", "answer", "same"), [(*p, 1.0) for p in SAME_AT_SIGHT] + [(*p, 0.0) for p in DIFFERENT_AT_SIGHT]
)
def test_most_pairs_need_no_algebra(gold: str, answer: str, same: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal, "ask", lambda *pair: pytest.fail(f"math-verify is asked about {pair}"))
    assert score(gold, answer)[0] == same


POLICY = [
    # a percent sign is no decoration
    ("8", r"8\%", "one is a percentage", 0.0),
    ("0.5", r"50\%", "one is a percentage", 0.0),
    (r"50\%", "50 percent", "exact", 1.0),
    # a unit may be left out, but not be another
    (r"5 \text{ cm}", "5", "exact", 1.0),
    ("5", r"5\,\mathrm{cm}", "exact", 1.0),
    ("18", r"18 dollars", "exact", 1.0),
    (r"5 \text{ cm}", r"5 \text{ m}", "the units differ: m for cm", 0.0),
    (r"5 \text{ cm}^2", r"5 \text{ cm}", "the units differ: cm for cm2", 0.0),
    ("30", r"30^\circ", "exact", 1.0),
    # a base may be left out where the gold has one, and never added
    ("10_2", "10", "exact", 1.0),
    ("10", "10_2", "the bases differ", 0.0),
    ("101_2", "101_3", "the bases differ", 0.0),
]


@pytest.mark.parametrize(("gold", "answer", "note", "same"), POLICY)
def test_percent_units_and_bases(gold: str, answer: str, note: str, same: float) -> None:
    assert score(gold, answer) == (same, note)


def test_percent_as_a_unit_is_for_golds_that_leave_it_out() -> None:
    for gold, answer, same in (("8", r"8\%", 1.0), (r"8\%", "8", 1.0), ("0.5", r"50\%", 0.0)):
        assert grade_answer(gold, f"\\boxed{{{answer}}}", percent="unit").score == same
    votes = {grade_answer("8", f"\\boxed{{{answer}}}", percent="unit").answer for answer in ("8", r"8\%", "8 percent")}
    assert votes == {"8"}


ALGEBRA = [
    (r"\sqrt{2}", r"\frac{2}{\sqrt{2}}", 1.0),
    (r"\sqrt{2}", "1.41421356", 0.0),
    ("2^{-1}", "0.5", 1.0),
    ("1000000", "10^6", 1.0),
    ("400000", r"4 \times 10^{5}", 1.0),
    (r"\{1,2,3\}", "3,2,1", 1.0),
    ("1,-2", "-2, 1", 1.0),
    ("(1,2)", "(2,1)", 0.0),
    ("(1,2)", "[1,2]", 0.0),
    ("6-5i", "-5i+6", 1.0),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", 1.0),
    ("x(x+1)(x+2)", "x^3+3x^2+2x", 1.0),
    ("y = 2x + 3", "2x+3", 1.0),
    (r"x \in [-2,7]", "[-2,7]", 1.0),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 3-2 \\ 2 \end{pmatrix}", 1.0),
    ("3x", "4x", 0.0),
    ("5", r"\text{five}", 0.0),
    # known losses: right, and not seen to be
    (r"\emptyset", r"\text{no solution}", 0.0),
    (r"x<2 \text{ or } x>3", r"(-\infty,2)\cup(3,\infty)", 0.0),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)", 0.0),
]


@pytest.mark.parametrize(("gold", "answer", "same"), ALGEBRA)
def test_what_math_verify_decides(gold: str, answer: str, same: float) -> None:
    assert score(gold, answer) == (same, "math-verify")


HOSTILE = [
    ("9^{9^{9^9}}", "nested deeper than 2"),
    ("9^9^9^9", "nested deeper than 2"),
    ("9**(9**(9**9))", "nested deeper than 2"),
    ("((10!)!)!", "nested deeper than 2"),
    ("10!!!", "nested deeper than 2"),
    ("1000000000!", "above 10000"),
    ("2^{1000000}", "above 10000"),
    ("x^{ -99999 }", "above 10000"),
    ("(" * 31 + "x" + ")" * 31, "nested deeper than 30"),
    ("1" * 61 + "x", "more than 60 digits"),
    ("x+" * 200 + "x", "longer than 300"),
    (",".join("x" * 52), "more than 50 elements"),
    ("x\u0663", "not ASCII"),
    ("x 3 4", "digits with a space"),
]


@pytest.mark.parametrize(("answer", "why"), HOSTILE)
def test_hostile_answers_never_reach_the_algebra(answer: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal, "ask", lambda *pair: pytest.fail(f"math-verify is asked about {pair}"))
    began = time.monotonic()
    same, note = score("x^2", answer)
    assert same == 0.0
    assert note.startswith("refused: ")
    assert why in note
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("answer", ["x^2y^2z^2", "(x^2)^3", "e^{x^2}", r"\frac{n!}{k!(n-k)!}", "x^{2}y^{3}+x^{4}z^{5}"])
def test_plain_powers_are_not_hostile(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal, "ask", lambda *pair: "equal")
    assert score("q", answer) == (1.0, "math-verify")


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 20_000,
        "\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}",
        "<answer>" * 20_000,
        "\\boxed{" + "9" * 100_000 + "}",
        "\\boxed{" + "1," * 140 + "}",
        "\\boxed{" + "\\frac{" * 45 + "}",
        "\\boxed{" + " " * 290 + "}",
        "\\boxed{1e999999999}",
        "\\boxed{" + "1" * 290 + "/0}",
    ],
)
def test_no_text_is_slow_to_refuse(text: str) -> None:
    began = time.monotonic()
    assert grade_answer("5", text, mark="####").score == 0.0
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("gold", ["", "  ", "$$", "nan", "-inf"])
def test_a_gold_that_cannot_be_read_is_nobodys_fault(gold: str) -> None:
    for text in ("\\boxed{5}", "\\boxed{nan}", "\\boxed{}", "nothing"):
        verdict = grade_answer(gold, text)
        assert verdict.score is None
        assert "cannot be read" in verdict.note


def test_a_gold_that_math_verify_cannot_parse_is_compared_as_it_stands() -> None:
    assert score(r"\frac{1}{", r"5") == (None, "the gold answer cannot be read by math-verify")
    assert grade_answer(r"[1, 2)\ (", r"<answer>[1, 2)\ (</answer>").score == 1.0
    same, note = score("x^{9^{9^9}}", "5")
    assert same is None
    assert "nested deeper" in note


def test_answers_that_are_alike_vote_alike() -> None:
    for alike in (["1,000", "1000", "$1000.00", "x = 1000", "1000 dollars"], ["1/2", "0.5", r"\frac12"], ["A", "(A)"]):
        assert len({grade_answer("7", f"\\boxed{{{answer}}}", symbolic=False).answer for answer in alike}) == 1
    assert read("50%").canonical != read("50").canonical
    assert read("10_2").canonical != read("10").canonical
    assert grade_answer("7", r"\boxed{3} \boxed{4}").answer is None


def test_a_trace_that_a_fault_ended_is_not_judged() -> None:
    problem = Problem("p", (), "5")
    fault = Trace("p", (), (Step("\\boxed{5}"), Step("HTTP 500", stop="error", sampled=False)), "test@0")
    assert grade(problem, fault) == Verdict(score=None, note="the engine failed: HTTP 500")
    assert grade(problem, Trace("p", (), (), "test@0")).score is None
    cut = Trace("p", (), (Step("<think>\n5", stop="length"),), "test@0")
    assert grade(problem, cut) == Verdict(score=0.0, note="the thought never closed")


MATH = DATA / "math500" / "test.jsonl"


@pytest.mark.skipif(not MATH.exists(), reason="the MATH-500 file is not beside the project")
def test_math_500_gold_solutions_are_right_and_shuffled_ones_are_not() -> None:
    task = open_task(str(MATH), question="problem")
    problems = task.load("test")
    assert len(problems) == 500
    texts = [json.loads(line)["solution"] for line in MATH.read_text().splitlines()]
    traces = [Trace(p.id, p.messages, (Step(t),), "gold@0") for p, t in zip(problems, texts, strict=True)]
    assert [v for p, t in zip(problems, traces, strict=True) if (v := task.grade(p, t)).score != 1.0] == []
    assert [p.answer for p in open_task(str(MATH), question="problem", answer="solution").load("test")] != []
    # A wrong solution whose gold is a number needs no algebra; the slow test has the rest.
    numbers = [p for p in problems if read(p.answer).number is not None]
    random.Random(0).shuffle(traces)
    pairs = [
        (p, t) for p, t in zip(numbers, traces, strict=False) if read(final_answer(t.text)[0] or "").number is not None
    ]
    right = [(p, t) for p, t in pairs if task.grade(p, t).score == 1.0]
    assert len(pairs) > 200
    assert all(read(p.answer).number == read(final_answer(t.text)[0] or "").number for p, t in right)
    assert len(right) < 10


@pytest.mark.slow
@pytest.mark.skipif(not MATH.exists(), reason="the MATH-500 file is not beside the project")
def test_math_500_shuffled_golds_are_wrong() -> None:
    rows = [json.loads(line) for line in MATH.read_text().splitlines()]
    golds = [row["answer"] for row in rows]
    for seed in range(3):
        random.Random(seed).shuffle(golds)
        verdicts = [grade_answer(gold, row["solution"]) for gold, row in zip(golds, rows, strict=True)]
        assert None not in {v.score for v in verdicts}
        right = [(g, r["answer"]) for g, r, v in zip(golds, rows, verdicts, strict=True) if v.score == 1.0]
        assert [pair for pair in right if read(pair[0]).key != read(pair[1]).key] == []
        assert len(right) < 15
