"""One seed, one draw, in fp32: whatever shares the batch, and whether or not the prefix is kept from before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from local_engines import Request, run, tiny_engine, together

from forethought.engines.local import contexts
from forethought.types import Sampling, Step, user


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
