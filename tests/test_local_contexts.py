"""Prompts that rows share where they stand: the same samples as with a copy for each, whatever joins and leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from local_engines import drawing

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local import contexts as contexts_module
from forethought.engines.local.contexts import PADDING, worth
from forethought.engines.local.tiny import build
from forethought.types import Sampling, Step, user


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return build(TinyConfig(layers=2, width=64, context=256))


def drawn(engine: LocalEngine, sizes: list[int], late: list[int]) -> list[Step]:
    """Groups of these sizes at once, their answers of many lengths; then more while those are drawn."""

    async def go() -> list[Step]:
        def group(number: int, size: int) -> list[Any]:
            question = user(f"{number} plus {'9' * (number % 5)} = ?" * (1 + number % 3))
            settings = [Sampling(max_tokens=4 + 7 * ((number + i) % 6), seed=1000 * number + i) for i in range(size)]
            return [asyncio.create_task(engine.sample(question, (), setting)) for setting in settings]

        jobs = [job for number, size in enumerate(sizes) for job in group(number, size)]
        async with drawing(engine):
            pass
        for number, size in enumerate(late, len(sizes)):
            while len(engine._loop.rows) > 4:
                await asyncio.sleep(0.001)
            jobs += group(number, size)
        return list(await asyncio.gather(*jobs))

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("sizes", "late"),
    [([8], []), ([8, 8, 8], []), ([7, 1, 3, 5], []), ([6, 6], [6, 2, 9]), ([16], [1] * 12), ([1], [9])],
    ids=str,
)
def test_samples_do_not_know_where_their_prompt_stands(
    tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, sizes: list[int], late: list[int]
) -> None:
    alone = drawn(LocalEngine(*tiny, name="tiny", max_rows=24), sizes, late)
    monkeypatch.setattr(contexts_module, "WORTH_BYTES", 1)
    engine = LocalEngine(*tiny, name="tiny", max_rows=24)
    engine.attach(torch.ones(64))
    parted: list[int] = []
    part = engine._loop._part

    def noted() -> None:
        parted.append(len(engine._loop.rows))
        part()

    monkeypatch.setattr(engine._loop, "_part", noted)
    shared = drawn(engine, sizes, late)
    assert bool(parted) == (sizes == [16])  # one row of sixteen left and others joining: sixteen places each cost more
    assert [step.tokens for step in shared] == [step.tokens for step in alone]
    for one, other in zip(shared, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_what_rows_computed_behind_a_shared_prompt_is_kept_for_their_children(
    tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts_module, "WORTH_BYTES", 1)
    engine = LocalEngine(*tiny, name="tiny")
    engine.attach(torch.arange(64.0) / 64, 0.5)
    fresh = LocalEngine(*tiny, name="tiny")
    fresh.attach(torch.arange(64.0) / 64, 0.5)

    async def values() -> None:
        draws = [Sampling(max_tokens=12, seed=seed) for seed in range(6)]
        steps = await asyncio.gather(*(engine.sample(user("go on"), (), draw) for draw in draws))
        before = engine.usage.copy()
        for step in steps:
            told = await engine.values(user("go on"), (step,))
            assert told == pytest.approx(await fresh.values(user("go on"), (step,)), abs=1e-4)
        assert (engine.usage - before).scored == len(steps)  # the last token of each was drawn and never run

    asyncio.run(values())


def test_sharing_pays_for_many_rows_of_one_prompt_and_not_for_few() -> None:
    assert worth([(100, 64)], 2048) == 64
    assert worth([(100, 2)], 2048) == 0
    assert worth([(100, 1)] * 64, 2048) == 0
    assert worth([(600, 8)] * 32, 2048) == 8
    lopsided = [(600, 64), *[(600, 1)] * 60]
    assert len(lopsided) * 64 > PADDING * sum(rows for _, rows in lopsided)
    assert worth(lopsided, 2048) == 0
