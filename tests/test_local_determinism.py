"""One seed, one draw, in fp32: whatever shares the batch, and whether or not the prefix is kept from before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from local_engines import Request, run, tiny_engine, together

from forethought.engines.local import LocalEngine, contexts
from forethought.engines.local.load import load_model
from forethought.types import Sampling, Step, user

INSTRUCTIONS = "Work it out step by step, in one line a step, and give the result in a line of its own.\n"


def requests() -> list[Request]:
    """A thousand tokens: two samples a prompt, all settings, some instructions shared."""
    samplings: list[dict[str, Any]] = [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0}]
    return [
        (user(f"{'Add. ' * (i // 2 % 3)}{i // 2} + 1 = ?"), (), Sampling(max_tokens=15 + i, seed=i, **samplings[i % 3]))
        for i in range(36)
    ]


def assert_alike(one: list[Step], other: list[Step]) -> None:
    """The same tokens and stops; log-probabilities to 1e-5."""
    assert [(step.tokens, step.stop, step.text) for step in one] == [
        (step.tokens, step.stop, step.text) for step in other
    ]
    for left, right in zip(one, other, strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-5)


@pytest.fixture(scope="module")
def alone() -> list[Step]:
    """Each request by itself, in an engine that knows nothing yet."""
    steps = []
    engine = tiny_engine()
    for request in requests():
        engine._loop.tree.clear()
        steps.append(run(engine.sample(*request)))
    assert sum(len(step.tokens) for step in steps) > 1000
    return steps


def test_the_same_requests_to_the_same_engine_give_the_same_bits() -> None:
    assert together(tiny_engine(), requests()) == together(tiny_engine(), requests())


@pytest.mark.parametrize("rows", [3, 8, 256])
def test_whatever_shares_the_batch(alone: list[Step], rows: int) -> None:
    assert_alike(together(tiny_engine(max_rows=rows), requests()), alone)


def test_whether_or_not_the_prefix_is_kept(alone: list[Step]) -> None:
    engine = tiny_engine()
    together(engine, requests())
    before = engine.usage.copy()
    assert_alike(together(engine, requests()), alone)
    spent = engine.usage - before
    assert spent.prefilled == 18, "one token a prompt: the rest was kept"


def test_whether_a_prompt_is_shared_or_copied(alone: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "WORTH_BYTES", 1)
    engine = tiny_engine()
    stored = 0
    add = contexts.Contexts.add

    def counted(*args: Any) -> list[int]:
        nonlocal stored
        stored += 1
        return add(*args)

    monkeypatch.setattr(contexts.Contexts, "add", counted)
    assert_alike(together(engine, requests()), alone)
    assert stored


def test_however_little_memory_there_is(alone: list[Step]) -> None:
    assert_alike(together(tiny_engine(cache_bytes=1), requests()[:8]), alone[:8])
    assert_alike(together(tiny_engine(cache_bytes=200_000), requests()), alone)


def test_whoever_leaves_in_the_middle(alone: list[Step]) -> None:
    engine = tiny_engine(max_rows=8)

    async def go() -> list[Step]:
        tasks = [asyncio.create_task(engine.sample(*request)) for request in requests()]
        for task in tasks[::3]:
            asyncio.get_running_loop().call_later(0.001 * tasks.index(task), task.cancel)
        return [step for step in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(step, Step)]

    left = run(go())
    by_seed = {step.tokens: step for step in alone}
    assert len(left) >= 24
    assert_alike(left, [by_seed[step.tokens] for step in left])


def test_one_seed_one_draw_and_another_seed_another() -> None:
    engine = tiny_engine()

    def once(seed: int | None) -> Step:
        return run(engine.sample(user("go"), (), Sampling(max_tokens=20, seed=seed)))

    assert once(5).tokens == once(5).tokens
    assert once(5).tokens != once(6).tokens
    assert once(None).tokens != once(None).tokens


def told_apart(one: list[Step], other: list[Step]) -> tuple[int, int, int, float]:
    """Tokens alike, draws that went another way, log-probabilities that differ in any bit, and by how much at most.

    A sample is compared up to where it first goes another way.
    """
    tokens = other_ways = bits = 0
    most = 0.0
    for left, right in zip(one, other, strict=True):
        for number, (token, logprob) in enumerate(zip(left.tokens, left.logprobs, strict=True)):
            if number >= len(right.tokens) or token != right.tokens[number]:
                other_ways += 1
                break
            gap = abs(logprob - right.logprobs[number])
            tokens, bits, most = tokens + 1, bits + (gap > 0), max(most, gap)
    return tokens, other_ways, bits, most


@pytest.mark.smollm2
@pytest.mark.parametrize(
    ("name", "dtype", "most", "ways"),
    [("tiny", "fp32", 1e-5, 0), ("smollm2-135m", "fp32", 1e-4, 8), ("smollm2-135m", "bf16", 0.5, 32)],
)
def test_the_embedded_models_draw_as_alike_as_their_page_says(name: str, dtype: str, most: float, ways: int) -> None:
    """The table in docs/engines.md: `pytest -s -m smollm2 tests/test_local_determinism.py`."""
    model, tokenizer = load_model(name)
    asked: list[Request] = [
        (user(f"{INSTRUCTIONS}How much is {i // 2} times {i + 3}?"), (), Sampling(max_tokens=64, seed=i))
        for i in range(32)
    ]
    engine = LocalEngine(model, tokenizer, name=name, dtype=dtype)
    single = []
    for request in asked:
        engine._loop.tree.clear()
        single.append(run(engine.sample(*request)))
    engine._loop.tree.clear()
    batch = together(engine, asked)
    others = {
        "alone or in one batch": (single, batch),
        "in one batch, prefixes kept or not": (batch, together(engine, asked)),
    }
    for how, (one, other) in others.items():
        tokens, other_ways, bits, gap = told_apart(one, other)
        print(
            f"\n{name} in {dtype}, {how}: {tokens} tokens alike, then {other_ways} of 32 samples go other ways;", end=""
        )
        print(f" {bits / tokens:.0%} of log-probabilities differ, by {gap:.1e} at most")
        assert gap < most
        assert other_ways <= ways
