"""A scalar head over the last hidden states: its values are transformers', and cost next to nothing."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
import torch
from local_engines import run, tiny, tiny_engine
from transformers import Gemma2Config, Gemma2ForCausalLM

from forethought.engines.local import LocalEngine
from forethought.thought.tokens import render
from forethought.types import Sampling, Step, user

STEPS = (Step(text="12 + 7"), Step(text=" = "), Step(text="19"))


def gemma() -> tuple[Any, Any]:
    """A model that goes through transformers' own forward, and the tiny one's tokenizer."""
    _, tokenizer = tiny()
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=16, pad_token_id=0, **shape)
    return Gemma2ForCausalLM(config), tokenizer


@pytest.mark.parametrize("built", [tiny, gemma])
def test_values_are_the_heads_over_transformers_hidden_states(built: Any) -> None:
    model, tokenizer = copy.deepcopy(built())
    with torch.no_grad():  # a fresh norm multiplies by one, which would hide that it was left out
        model.model.norm.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    weight_D = torch.randn(64, generator=torch.Generator().manual_seed(1))
    engine = LocalEngine(model, tokenizer, name="small")
    engine.attach(weight_D, 0.25)
    tokens, spans = render(tokenizer, user("17"), STEPS)
    with torch.no_grad():
        hidden_TD = model.model(torch.tensor([tokens])).last_hidden_state[0]
    expected = [float(hidden_TD[end - 1] @ weight_D + 0.25) for _, end in spans]
    assert run(engine.values(user("17"), STEPS)) == pytest.approx(expected, abs=1e-4)
    assert run(engine.values(user("17"), STEPS)) == pytest.approx(expected, abs=1e-4), "from what was kept, too"


def test_values_stay_as_they_are_while_the_model_is_trained_on() -> None:
    model, tokenizer = copy.deepcopy(tiny())
    engine = LocalEngine(model, tokenizer, name="small", dtype="fp32")
    engine.attach(torch.ones(64))
    before = run(engine.values(user("17"), STEPS))
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    engine.attach(torch.ones(64))  # what is kept of the last values is dropped
    assert run(engine.values(user("17"), STEPS)) == before
    engine.update(model, 1)
    assert run(engine.values(user("17"), STEPS)) == pytest.approx([2 * value for value in before], rel=1e-4)


def test_a_path_that_was_sampled_has_its_values_but_for_the_last_token() -> None:
    engine = tiny_engine()
    engine.attach(torch.ones(64))
    other = tiny_engine()
    other.attach(torch.ones(64))
    path: tuple[Step, ...] = ()
    for seed in range(3):
        path = (*path, run(engine.sample(user("go"), path, Sampling(max_tokens=9, seed=seed))))
    values = run(engine.values(user("go"), path))
    assert engine.usage.scored == 1
    assert values == pytest.approx(run(other.values(user("go"), path)), abs=1e-5)
    again = engine.usage.copy()
    assert run(engine.values(user("go"), path[:2])) == values[:2]
    assert (engine.usage - again).scored == 0


def test_samples_log_probabilities_and_values_come_from_one_batch() -> None:
    engine, apart = tiny_engine(), tiny_engine()
    engine.attach(torch.ones(64))
    apart.attach(torch.ones(64))
    sampling = Sampling(max_tokens=20, seed=4)

    async def mixed() -> tuple[Any, ...]:
        asked = (
            engine.sample(user("go"), (), sampling),
            engine.logprobs(user("go"), STEPS),
            engine.values(user("go"), STEPS),
        )
        return tuple(await asyncio.gather(*asked))

    step, logprobs, values = run(mixed())
    assert step.tokens == run(apart.sample(user("go"), (), sampling)).tokens
    assert sum(logprobs, ()) == pytest.approx(sum(run(apart.logprobs(user("go"), STEPS)), ()), abs=1e-5)
    assert values == pytest.approx(run(apart.values(user("go"), STEPS)), abs=1e-5)


def test_another_head_gives_other_values() -> None:
    engine = tiny_engine()
    engine.attach(torch.ones(64))
    first = run(engine.values(user("go"), STEPS))
    engine.attach(-torch.ones(64), bias=1.0)
    assert run(engine.values(user("go"), STEPS)) == pytest.approx([1 - value for value in first], abs=1e-5)


def test_a_head_that_does_not_fit_or_is_not_there_is_named() -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match="has no head to read values from"):
        run(engine.values(user("go"), STEPS))
    with pytest.raises(ValueError, match=r"has the shape \(32,\); tiny needs \(64,\)"):
        engine.attach(torch.ones(32))
    engine.attach(torch.ones(64))
    with pytest.raises(ValueError, match="step 1 has no token"):
        run(engine.values(user("go"), (Step(text="a"), Step(text=""))))
    with pytest.raises(ValueError, match=r"takes 2\d\d tokens and tiny holds 128"):
        run(engine.values(user("9" * 200), STEPS))


def test_a_head_is_not_changed_under_requests() -> None:
    engine = tiny_engine()

    async def go() -> None:
        task = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=50, seed=0)))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="a head was attached while samples were being drawn"):
            engine.attach(torch.ones(64))
        await task

    run(go())
