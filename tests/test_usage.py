"""Usage: one record, many meters."""

from __future__ import annotations

import asyncio

import pytest

from forethought.engines.usage import Bill, Usage, counting, judging


def cost() -> Usage:
    return Usage(prefilled=3, reused=50, sampled=4, scored=5, requests=1, flops=7.0)


def test_a_bill_goes_to_the_engine_and_to_every_meter_around_the_request() -> None:
    engine = Usage()
    with counting() as outer:
        with counting() as inner:
            bill = Bill.open(engine)
        other = Bill.open(engine)
    outside = Bill.open(engine)
    for late in (bill, other, outside):  # booked after the meters were read: a request counts when it ends
        late.book(cost())
    assert (engine.requests, outer.requests, inner.requests) == (3, 2, 1)
    assert inner.prefilled == 3
    assert outer.sampled == 8


def test_a_judges_bill_counts_what_was_computed_and_not_what_was_reused() -> None:
    engine = Usage()
    with judging():
        Bill.open(engine).book(cost())
    Bill.open(engine).book(cost())
    assert engine.judged == 3 + 4 + 5
    assert engine.sampled == 8


def test_meters_of_tasks_side_by_side_do_not_mix() -> None:
    engine = Usage()

    async def search(requests: int) -> int:
        with counting() as usage:
            for _ in range(requests):
                bill = Bill.open(engine)
                await asyncio.sleep(0)
                bill.book(cost())
        return usage.requests

    async def both() -> list[int]:
        return list(await asyncio.gather(search(3), search(5)))

    assert asyncio.run(both()) == [3, 5]
    assert engine.requests == 8


def test_a_meter_ends_with_its_block_though_that_fails() -> None:
    engine = Usage()
    with pytest.raises(RuntimeError), counting() as usage, judging():
        raise RuntimeError
    Bill.open(engine).book(cost())
    assert (usage.requests, engine.judged) == (0, 0)
    assert usage.seconds > 0


def test_a_stretch_is_a_copy_and_a_difference() -> None:
    usage = cost()
    before = usage.copy()
    usage.add(cost())
    assert before == cost()
    assert usage - before == cost()
