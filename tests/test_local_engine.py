"""The embedded engine as its callers see it: what it samples, what it refuses, and who it must not keep waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from local_engines import drawing, run, tiny, tiny_engine

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local.load import load_model
from forethought.engines.local.tiny import build
from forethought.thought.steps import split
from forethought.thought.tokens import prompt_tokens
from forethought.train.data import datum
from forethought.train.learner import Learner
from forethought.types import Datum, Sampling, Step, user


@pytest.fixture
def engine() -> LocalEngine:
    return tiny_engine()


def test_sampler_and_trainer_agree_on_a_thousand_tokens(engine: LocalEngine) -> None:
    """Largest difference at most 1e-4 in fp32, and scoring by the engine agrees too."""
    model, tokenizer = tiny()
    questions = [user(f"{number} + 5 = ?") for number in range(7)]

    async def samples() -> tuple[list[Step], list[tuple[tuple[float, ...], ...]]]:
        jobs = [engine.sample(questions[i % 7], (), Sampling(max_tokens=10 + i % 40, seed=i)) for i in range(48)]
        steps = list(await asyncio.gather(*jobs))
        scored = [engine.logprobs(questions[i % 7], (step,)) for i, step in enumerate(steps)]
        return steps, list(await asyncio.gather(*scored))

    steps, scored = run(samples())
    data = [datum(tokenizer, questions[i % 7], (step,)) for i, step in enumerate(steps)]
    rows = Learner(model, lr=1e-3).logprobs(data)
    gaps = [
        abs(ours - theirs)
        for d, row in zip(data, rows, strict=True)
        for ours, theirs in zip(d.logprobs, row, strict=True)
    ]
    assert sum(len(step.tokens) for step in steps) >= 1000
    assert max(gaps) <= 1e-4
    for step, (again,) in zip(steps, scored, strict=True):
        assert step.logprobs == pytest.approx(again, abs=1e-4)


def test_greedy_takes_the_likeliest_token(engine: LocalEngine) -> None:
    model, tokenizer = tiny()
    step = run(engine.sample(user("2 + 2 = ?"), (), Sampling(max_tokens=8, temperature=0)))
    ids = torch.tensor([[*prompt_tokens(tokenizer, user("2 + 2 = ?")), *step.tokens]])
    with torch.no_grad():
        best = model(ids).logits[0].argmax(-1)[-9:-1]
    assert step.tokens == tuple(best.tolist())


def test_a_prefix_is_continued_and_what_we_wrote_is_context(engine: LocalEngine) -> None:
    whole = run(engine.sample(user("go"), (), Sampling(max_tokens=12, temperature=0)))
    head = Step(text=engine.decode(whole.tokens[:5]), tokens=whole.tokens[:5])
    rest = run(engine.sample(user("go"), (head,), Sampling(max_tokens=7, temperature=0)))
    assert head.tokens + rest.tokens == whole.tokens
    ours = run(engine.sample(user("go"), (Step(text="Wait", sampled=False),), Sampling(max_tokens=4, temperature=0)))
    assert ours.tokens != whole.tokens[:4]


def test_a_prompt_longer_than_the_context_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(ValueError, match=r"take 20\d tokens and tiny holds 128"):
        run(engine.sample(user("9" * 200), (), Sampling()))


def test_a_cancelled_request_frees_its_row(engine: LocalEngine) -> None:
    async def go() -> Step:
        long = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=100, seed=1)))
        short = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=2)))
        async with drawing(engine):
            long.cancel()
            await asyncio.sleep(0)
        return await short

    alone = run(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=2)))
    before = engine.usage.sampled
    assert run(go()).tokens == alone.tokens
    assert engine.usage.sampled - before < 30 + 100


def test_a_bug_in_the_model_reaches_whoever_waits(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(engine._decoder, "decode", broken)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        run(engine.sample(user("go"), (), Sampling(max_tokens=5)))
    monkeypatch.undo()
    assert run(engine.sample(user("go"), (), Sampling(max_tokens=5, seed=0))).stop == "length"


def test_new_weights_are_taken_over_in_memory_and_named() -> None:
    model, tokenizer = build(TinyConfig(layers=2, width=64, context=128, seed=1))
    engine = tiny_engine()
    other = LocalEngine(model, tokenizer, name="tiny")
    sampling = Sampling(max_tokens=20, seed=3)
    assert run(engine.sample(user("go"), (), sampling)) != run(other.sample(user("go"), (), sampling))
    engine.update(model, 7)
    assert engine.name == "tiny@7"
    again, fresh = run(engine.sample(user("go"), (), sampling)), run(other.sample(user("go"), (), sampling))
    assert again.tokens == fresh.tokens
    assert again.logprobs == pytest.approx(fresh.logprobs, abs=1e-5)


def test_a_sampled_thought_splits_into_its_exact_tokens(engine: LocalEngine) -> None:
    step = run(engine.sample(user("go"), (), Sampling(max_tokens=60, seed=9)))
    moves = split(step, engine.decode)
    assert tuple(token for move in moves for token in move.tokens) == step.tokens
    assert "".join(move.text for move in moves) == step.text


def test_requests_may_arrive_while_others_are_admitted() -> None:
    engine = tiny_engine(max_rows=8)

    async def stream() -> list[Step]:
        jobs: list[asyncio.Task[Step]] = []
        for number in range(300):
            sampling = Sampling(max_tokens=1 + number % 3, seed=number)
            jobs.append(asyncio.create_task(engine.sample(user(f"{number} = ?"), (), sampling)))
            await asyncio.sleep(0)
        return list(await asyncio.gather(*jobs))

    steps = run(stream())
    assert len(steps) == 300
    assert all(len(s.tokens) == 1 + n % 3 or (s.stop == "end" and s.tokens) for n, s in enumerate(steps))


def test_a_search_that_is_given_up_leaves_the_engine_whole(engine: LocalEngine) -> None:
    async def given_up() -> None:
        long = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=100, seed=1)))
        async with drawing(engine):
            raise RuntimeError(f"gave up on {long}")

    alone = run(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=2)))
    for _ in range(5):
        with pytest.raises(RuntimeError, match="gave up"):
            run(given_up())
        assert run(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=2))).tokens == alone.tokens


@pytest.mark.smollm2
def test_the_embedded_model_answers() -> None:
    model, tokenizer = load_model("smollm2-135m")
    engine = LocalEngine(model, tokenizer, name="smollm2-135m")
    question = user("What is the capital of France?")
    step = run(engine.sample(question, (), Sampling(max_tokens=32, temperature=0)))
    assert "Paris" in step.text
    assert step.stop == "end"
    data: list[Datum] = [datum(tokenizer, question, (step,))]
    exact = LocalEngine(model, tokenizer, name="smollm2-135m", dtype="fp32")
    (row,) = run(exact.logprobs(question, (step,)))
    (ours,) = Learner(model, lr=1e-3).logprobs(data)
    assert [value for value in ours if value] == pytest.approx(row, abs=1e-4)
