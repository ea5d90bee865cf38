"""Generative verifiers: p(Yes) against No alone, critiques that are averaged, replies that say nothing clear."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from judges import ASKED, THOUGHT, Judge, ask, characters

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local.tiny import build
from forethought.engines.scripted import always
from forethought.thought.tokens import render
from forethought.types import Messages, Sampling, Step, Verdict
from forethought.verify.generative import (
    QUESTION,
    VERIFICATION,
    chain_of_thought,
    critique_prompt,
    direct,
    direct_prompt,
    yes_or_no,
)

RIGHT = (*THOUGHT[:1], Step("3 + 4 = 7\n</think>\n\\boxed{7}"))


def test_direct_is_the_chance_of_yes_against_no() -> None:
    judge = Judge(belief=lambda text: 0.9 if "\\boxed{7}" in text else 0.2)
    right, wrong = ask(direct(judge), RIGHT, THOUGHT)
    assert [right.score, wrong.score] == pytest.approx([0.9, 0.2])
    assert [right.answer, wrong.answer] == ["7", "8"]
    asked = direct_prompt(ASKED, RIGHT)[0]["content"]
    assert sorted(judge.read[:2]) == [asked + "|No", asked + "|Yes"]
    assert asked.endswith(f"\\boxed{{7}}\n\n{QUESTION}")
    assert asked.startswith("Problem:\n3 + 4 = ?\n\nSolution:\n<think>")
    assert right.cost == 2 * characters(direct_prompt(ASKED, RIGHT), ()) + len("Yes") + len("No")


def test_certainty_is_no_fault() -> None:
    assert [one.score for one in ask(direct(Judge(belief=lambda text: 1.0)), RIGHT)] == [1.0]
    assert [one.score for one in ask(direct(Judge(belief=lambda text: 0.0)), RIGHT)] == [0.0]


def test_a_model_in_this_process_is_read_exactly() -> None:
    model, tokenizer = build(TinyConfig(layers=1, width=32, context=256))
    engine = LocalEngine(model, tokenizer, name="tiny")
    (verdict,) = ask(direct(engine), RIGHT)
    chances = []
    for word in ("Yes", "No"):
        tokens, [(start, end)] = render(tokenizer, direct_prompt(ASKED, RIGHT), [Step(word)])
        with torch.no_grad():
            logprobs_TV = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        chances.append(math.exp(sum(float(logprobs_TV[at - 1, tokens[at]]) for at in range(start, end))))
    assert verdict.score == pytest.approx(chances[0] / sum(chances), abs=1e-5)
    prompt = len(render(tokenizer, direct_prompt(ASKED, RIGHT), [])[0])
    assert prompt + len("YesNo") <= verdict.cost <= prompt + len("YesNo") + 1  # the prompt is read once
    (again,) = ask(direct(engine), (*RIGHT, Step(" or so")))
    assert again.cost < len(QUESTION) + len(" or so") + 16  # and its beginning never again


def test_k_critiques_are_asked_together_and_averaged() -> None:
    """The critique with the lowest score is the note: what there is to object."""
    judge = Judge(
        lambda messages, prefix, sampling, call: f"Critique {sampling.seed}. {VERIFICATION} Yes",
        belief=lambda text: {"10": 0.9, "11": 0.1, "12": 0.8}[text.partition("Critique ")[2][:2]],
        delay=0.01,
    )
    (verdict,) = ask(chain_of_thought(judge, k=3, sampling=Sampling(seed=10)), THOUGHT)
    assert verdict.score == pytest.approx(0.6)
    assert verdict.parts == pytest.approx({"critique 1": 0.9, "critique 2": 0.1, "critique 3": 0.8})
    assert (verdict.note, verdict.answer) == ("Critique 11.", "8")
    assert (judge.calls, judge.most_in_flight, judge.most_scoring) == (3, 3, 6)
    prompt = characters(critique_prompt(ASKED, THOUGHT), ())
    drawn = len(f"Critique 10. {VERIFICATION}")
    assert verdict.cost == 3 * (prompt + drawn) + 3 * (2 * (prompt + drawn) + len(" Yes No"))
    assert {read.partition("Critique")[2] for read in judge.read} >= {f" 10. {VERIFICATION}| Yes"}


@pytest.mark.parametrize("text", ["A fine thought.", "It is wrong \n", ""])
def test_a_critique_that_never_asks_is_asked(text: str) -> None:
    judge = Judge([text], belief=lambda text: 0.25)
    (verdict,) = ask(chain_of_thought(judge, k=1), THOUGHT)
    assert (verdict.score, verdict.note) == (0.25, text.strip())
    assert judge.read[0].endswith(f"{text.rstrip()}\n{VERIFICATION}| Yes")


def test_an_end_token_does_not_stand_before_the_question() -> None:
    ended = Step("Fine.", tokens=(*map(ord, "Fine."), 3), logprobs=(-0.5,) * 6, stop="end")
    judge = Judge([ended])

    async def work() -> Verdict:
        return await chain_of_thought(judge, k=1)(ASKED, THOUGHT)

    assert asyncio.run(work()).score == 0.5
    assert judge.read[0].endswith(f"Fine.\n{VERIFICATION}| Yes")


def test_what_failed_is_left_out_and_all_failed_is_no_score() -> None:
    failing = Judge([OSError("gone"), "so so"], belief=lambda text: 0.7)
    (verdict,) = ask(chain_of_thought(failing, k=2), THOUGHT)
    assert verdict.score == pytest.approx(0.7)
    assert list(verdict.parts) == ["critique 2"]
    (none,) = ask(chain_of_thought(Judge(always(OSError("gone"))), k=4), THOUGHT)
    assert (none.score, none.parts) == (None, {})
    assert "none of 4 critiques could be read: OSError: gone" in none.note


def test_a_critique_that_leaves_no_room_for_the_question_is_left_out() -> None:
    class Small(Judge):
        async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
            if "on and on" in steps[0].text:
                raise ValueError("the prompt and prefix take 300 tokens and tiny holds 256")
            return await super().logprobs(messages, steps)

    judge = Small(["fine", "on and on", "fine"], belief=lambda text: 0.8)
    (verdict,) = ask(chain_of_thought(judge, k=3, sampling=Sampling(max_tokens=50, seed=0)), RIGHT)
    assert verdict.score == pytest.approx(0.8)
    assert len(verdict.parts) == 2


@pytest.mark.parametrize("belief", [math.nan, math.inf])
def test_a_judge_whose_numbers_are_none_gives_no_score(belief: float) -> None:
    class Broken(Judge):
        async def logprobs(self, messages: Messages, steps: Any) -> tuple[tuple[float, ...], ...]:
            return tuple((belief,) for _ in steps)

    (verdict,) = ask(direct(Broken()), THOUGHT)
    assert (verdict.score, verdict.answer) == (None, "8")
    (averaged,) = ask(chain_of_thought(Broken(), k=2), THOUGHT)
    assert averaged.score is None


def test_a_judge_without_numbers_for_the_words_gives_no_score() -> None:
    class Mute(Judge):
        async def logprobs(self, messages: Messages, steps: Any) -> tuple[tuple[float, ...], ...]:
            return tuple(() for _ in steps)

    (verdict,) = ask(direct(Mute()), THOUGHT)
    assert verdict.score is None
    assert "do not tell 'Yes' and 'No' apart" in verdict.note


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", True),
        ("no.", False),
        ("**YES**", True),
        ("Yes, yes!", True),
        ("Yesterday was Nothing", None),
        ("eyes and noses", None),
        ("a no-one", None),
        ("Yes and No", None),
        ("Yes, there is no mistake", None),
        ("", None),
        ("\x00\ufffd 12", None),
        (f"No errors. {VERIFICATION} Yes", True),
        (f"{VERIFICATION} Yes\nNo more.", True),
        (f"{VERIFICATION} Yes. Again: {QUESTION} No", False),
        (f"Yes {VERIFICATION}", None),
        (f"{VERIFICATION}\nYes", True),
    ],
)
def test_a_word_is_read_where_it_is_a_word_and_the_only_one(text: str, said: bool | None) -> None:
    assert yes_or_no(text) is said


def test_a_server_without_log_probabilities_is_read_by_its_words() -> None:
    yes, unclear = Judge(["Yes."]), Judge(["Yes and no"])
    assert [one.score for one in ask(direct(yes, read="words"), THOUGHT)] == [1.0]
    assert yes.asked[0][2].temperature == 0
    assert yes.read == []
    (verdict,) = ask(direct(unclear, read="words"), THOUGHT)
    assert (verdict.score, verdict.note) == (None, "the judge said 'Yes and no'")
    replies = [f"Good. {VERIFICATION} Yes", f"Bad. {VERIFICATION} No", "Yes it is", f"Odd. {VERIFICATION} maybe"]
    (mean,) = ask(chain_of_thought(Judge(replies), k=4, read="words"), THOUGHT)
    assert (mean.score, mean.parts) == (0.5, {"critique 1": 1.0, "critique 2": 0.0})
    assert mean.note.startswith("Bad.")


def test_what_an_engine_does_not_book_is_counted_as_far_as_it_is_seen() -> None:
    judge = Judge(["so so"], metered=False)
    (verdict,) = ask(chain_of_thought(judge, k=2), THOUGHT)
    assert verdict.cost == 2 * len("so so") + 2 * 2  # of a word's log-probabilities this judge tells one
    (worded,) = ask(direct(Judge(["No"], metered=False), read="words"), THOUGHT)
    assert worded.cost == len("No")


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        chain_of_thought(Judge(), k=0)
    with pytest.raises(ValueError, match="4 critiques at temperature 0 are one critique 4 times"):
        chain_of_thought(Judge(), k=4, sampling=Sampling(temperature=0))
    with pytest.raises(ValueError, match="read is 'eyes'"):
        direct(Judge(), read="eyes")  # type: ignore[arg-type]  # the point
    with pytest.raises(ValueError, match="read is 'ears'"):
        chain_of_thought(Judge(), read="ears")  # type: ignore[arg-type]  # the point


def test_an_error_is_not_judged_and_nobody_is_asked() -> None:
    judge = Judge()
    failed = replace(THOUGHT[-1], stop="error", text="gone", sampled=False)
    assert [one.score for one in ask(direct(judge), (), (*THOUGHT, failed))] == [None, None]
    assert judge.read == []
