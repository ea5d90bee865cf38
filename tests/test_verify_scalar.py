"""Scalar heads: the scores are those of transformers' own hidden states, and a token is paid for once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from judges import ASKED, ask

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local.tiny import build
from forethought.engines.usage import counting
from forethought.thought.tokens import render
from forethought.types import Messages, Sampling, Step, Verdict
from forethought.verify.heads import AGGREGATES, Aggregate, Head
from forethought.verify.scalar import bradley_terry, outcome, process, value
from forethought.verify.verdict import Verify, aggregated, judged, sigmoid

WORKED = (Step("<think>\n"), Step("3 + 4 = 7\n"), Step("</think>\n"), Step("\\boxed{7}"))
WIDTH = 32


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return build(TinyConfig(layers=2, width=WIDTH, context=96))


@pytest.fixture
def engine(tiny: tuple[Any, Any]) -> LocalEngine:
    return LocalEngine(*tiny, name="tiny")


def head(kind: Any, **fields: Any) -> Head:
    weight = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5)).tolist()
    return Head(kind, tuple(weight), **{"bias": 0.25, **fields})


def by_hand(tiny: tuple[Any, Any], weights: Head, messages: Messages, steps: tuple[Step, ...]) -> list[float]:
    """What the head says at the end of each step, by transformers' own hidden states."""
    model, tokenizer = tiny
    tokens, spans = render(tokenizer, messages, steps)
    with torch.no_grad():
        hidden_TD = model.model(torch.tensor([tokens])).last_hidden_state[0]
    logits_T = hidden_TD @ torch.tensor(weights.weight) + weights.bias
    return [float(logits_T[end - 1]) for _, end in spans]


def near(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-5)


def test_outcome_is_the_heads_probability_at_the_last_token(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    weights = head("outcome")
    (verdict,) = ask(outcome(engine, weights), WORKED)
    assert verdict.score == near(sigmoid(by_hand(tiny, weights, ASKED, WORKED)[-1]))
    assert (verdict.answer, verdict.steps) == ("7", ())
    assert verdict.cost == len(render(tiny[1], ASKED, WORKED)[0])


def test_bradley_terry_tells_the_reward_and_its_chance_against_the_reference(
    tiny: tuple[Any, Any], engine: LocalEngine
) -> None:
    weights = head("bradley_terry")
    reward = by_hand(tiny, weights, ASKED, WORKED)[-1]
    (verdict,) = ask(bradley_terry(engine, weights, reference=0.5), WORKED)
    assert verdict.parts == near({"reward": reward})
    assert verdict.score == near(1 / (1 + math.exp(0.5 - reward)))


@pytest.mark.parametrize("how", ["last", "min", "product", "mean"])
def test_process_scores_each_step_and_aggregates_them(
    tiny: tuple[Any, Any], engine: LocalEngine, how: Aggregate
) -> None:
    weights = head("process", aggregate=how)
    scores = [sigmoid(logit) for logit in by_hand(tiny, weights, ASKED, WORKED)]
    (verdict,) = ask(process(engine, weights), WORKED)
    assert verdict.steps == near(tuple(scores))
    expected = {"last": scores[-1], "min": min(scores), "product": math.prod(scores), "mean": sum(scores) / 4}
    assert verdict.score == near(expected[how])
    assert len({round(one, 6) for one in expected.values()}) == 4


def test_a_step_of_many_lines_is_read_at_the_end_of_each(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    """Best-of-n has a whole thought for a step: the process score is that of its moves, not of its end."""
    text = "".join(step.text for step in WORKED)
    whole = Step(text, tuple(tiny[1].encode(text, add_special_tokens=False)))
    verify = process(engine, head("process", aggregate="product"))
    uncut, cut, mixed = ask(verify, (whole,), WORKED, (WORKED[0], Step("Wait, \nno\n", sampled=False), *WORKED[1:]))
    assert uncut.score == near(cut.score)
    assert uncut.steps == near((cut.score,))
    assert mixed.steps[1] is None
    assert uncut.score != near(cut.steps[-1])


def test_the_caller_may_aggregate_otherwise_and_labels_have_their_own(engine: LocalEngine) -> None:
    (verdict,) = ask(process(engine, head("process", aggregate="min"), aggregate="last"), WORKED)
    assert verdict.score == verdict.steps[-1]
    assert AGGREGATES == {"correctness": "product", "value": "last"}


def test_text_that_nobody_sampled_is_read_and_not_scored(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    weights = head("process", aggregate="product")
    steps = (WORKED[0], Step("Wait, ", sampled=False), Step(""), *WORKED[1:])
    by_step = by_hand(tiny, weights, ASKED, (WORKED[0], steps[1], *WORKED[1:]))
    (verdict, waited) = ask(process(engine, weights), steps, (steps[1],))
    assert verdict.steps == near((sigmoid(by_step[0]), None, None, *map(sigmoid, by_step[2:])))
    assert verdict.score == near(math.prod(score for score in verdict.steps if score is not None))
    assert (waited.score, waited.steps) == (None, (None,))


def test_a_step_search_pays_for_new_tokens_only(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    """Verdicts on every prefix of a path together cost what the whole path does."""
    verify = process(engine, head("process"))
    whole, spans = render(tiny[1], ASKED, WORKED)
    costs = [ask(verify, WORKED[: count + 1])[0].cost for count in range(4)]
    assert costs == [spans[0][1], *(end - start for start, end in spans[1:])]
    assert sum(costs) == len(whole)
    assert ask(verify, WORKED)[0].cost == 0
    assert ask(verify, (*WORKED[:2], Step("no")))[0].cost == 2


def test_concurrent_verdicts_share_their_prefix_and_know_their_own_cost(
    tiny: tuple[Any, Any], engine: LocalEngine
) -> None:
    weights = head("process")
    paths = [(*WORKED[:2], Step(f"so it is {number}")) for number in range(6)]

    async def work() -> tuple[list[Verdict], int, int]:
        verify = process(engine, weights)
        with counting() as usage:
            verdicts = await asyncio.gather(*(verify(ASKED, path) for path in paths))
        return list(verdicts), usage.scored, usage.judged

    verdicts, scored, said = asyncio.run(work())
    shared = len(render(tiny[1], ASKED, (*WORKED[:2], Step("so it is ")))[0])
    assert sum(verdict.cost for verdict in verdicts) == scored == said == shared + 6
    for path, verdict in zip(paths, verdicts, strict=True):
        assert verdict.steps[-1] == near(sigmoid(by_hand(tiny, weights, ASKED, path)[-1]))


def test_a_value_head_on_the_policy_reads_one_token_a_step(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    weights = head("value")
    verify = value(engine, weights)

    async def work() -> tuple[list[Step], list[Verdict]]:
        steps: list[Step] = []
        verdicts: list[Verdict] = []
        for seed in range(4):
            steps.append(await engine.sample(ASKED, steps, Sampling(max_tokens=8, seed=seed)))
            verdicts.append(await verify(ASKED, tuple(steps)))
        return steps, verdicts

    steps, verdicts = asyncio.run(work())
    assert [verdict.cost for verdict in verdicts] == [1, 1, 1, 1]
    expected = [sigmoid(logit) for logit in by_hand(tiny, weights, ASKED, tuple(steps))]
    assert verdicts[-1].steps == near(tuple(expected))
    assert verdicts[-1].score == near(expected[-1])


def test_an_end_token_is_where_the_score_is_read(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    weights = head("outcome")
    ended = Step("7", (*tiny[1].encode("7", add_special_tokens=False), tiny[1].eos_token_id))
    bare = replace(ended, tokens=ended.tokens[:-1])
    verdicts = ask(outcome(engine, weights), (ended,), (bare,))
    expected = [sigmoid(by_hand(tiny, weights, ASKED, (step,))[-1]) for step in (ended, bare)]
    assert [verdict.score for verdict in verdicts] == near(expected)
    assert abs(expected[0] - expected[1]) > 1e-3


@pytest.mark.parametrize("make", [outcome, process, value, bradley_terry])
def test_a_head_of_another_kind_or_width_is_refused(engine: LocalEngine, make: Callable[..., Verify]) -> None:
    with pytest.raises(ValueError, match=r"the head's kind is '\w+'"):
        make(engine, head("outcome" if make is not outcome else "process"))
    with pytest.raises(ValueError, match=r"shape \(2,\); tiny needs \(32,\)"):
        make(engine, Head(make.__name__, (1.0, 2.0)))  # type: ignore[arg-type]  # each is named after its kind


def test_an_engine_has_one_head_and_the_verifier_that_lost_it_says_so(engine: LocalEngine) -> None:
    first = outcome(engine, head("outcome"))
    second = process(engine, head("process"))
    with pytest.raises(ValueError, match=r"put its process head on tiny.*an engine of its own"):
        ask(first, WORKED)
    assert ask(second, WORKED)[0].score is not None


@pytest.mark.parametrize("make", [outcome, process, bradley_terry])
def test_what_cannot_be_judged_has_no_score(engine: LocalEngine, make: Callable[..., Verify]) -> None:
    verify = make(engine, head(make.__name__))
    nothing, empty, failed, long = ask(
        verify, (), (Step(""),), (*WORKED, Step("gone", stop="error", sampled=False)), (Step("x" * 200),)
    )
    assert [verdict.score for verdict in (nothing, empty, failed, long)] == [None] * 4
    assert "no thought" in nothing.note
    assert "no thought" in empty.note
    assert "fault: gone" in failed.note
    assert "too long for the judge" in long.note
    assert long.cost == 0


def test_a_head_that_overflows_is_not_a_score(engine: LocalEngine) -> None:
    verify = process(engine, head("process"))
    engine.attach(torch.full((WIDTH,), float("nan")))
    (verdict,) = ask(verify, WORKED)
    assert (verdict.score, verdict.steps) == (None, (None,) * 4)
    assert "nan" in verdict.note


def test_a_fault_of_the_caller_is_not_hidden() -> None:
    async def broken(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        raise ValueError("the server refuses the key (401)")

    async def away(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        raise ConnectionError("no answer")

    with pytest.raises(ValueError, match="refuses the key"):
        ask(judged(broken), WORKED)
    (verdict,) = ask(judged(away), WORKED)
    assert (verdict.score, verdict.answer) == (None, "7")
    assert "cannot be reached: no answer" in verdict.note


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "the request exceeds the available context size (2048)",
        "the prompt and its steps take 600 tokens and tiny holds 512; shorten the prompt",
    ],
)
def test_engines_say_in_their_own_words_that_a_thought_is_too_long(words: str) -> None:
    def judge(messages: Messages, steps: tuple[Step, ...]) -> Awaitable[Verdict]:
        raise ValueError(words)

    assert "too long" in ask(judged(judge), WORKED)[0].note


def test_the_sigmoid_is_exact_at_both_ends() -> None:
    assert [sigmoid(logit) for logit in (-800.0, 0.0, 800.0, math.inf, -math.inf)] == [0.0, 0.5, 1.0, 1.0, 0.0]
    assert math.isnan(sigmoid(math.nan))
    assert sigmoid(-30.0) == pytest.approx(math.exp(-30), rel=1e-9)
    assert aggregated([0.5], "product") == 0.5
