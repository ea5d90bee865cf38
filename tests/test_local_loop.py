"""The loop under load: thousands of requests of three kinds come, go and are given up, and nothing is left behind."""

from __future__ import annotations

import collections
import gc
import random
import weakref
from typing import Any

import pytest
import torch
from local_engines import ask, finish, tiny_loop

from forethought.engines.local import contexts
from forethought.engines.local.cache import PAGE, Slots
from forethought.engines.local.loop import Loop
from forethought.engines.local.requests import Given, Sample
from forethought.types import Sampling

ENDS = frozenset({1})
BYTES = 260
"""Of one position in `tiny_loop`: keys and values of one layer, 32 wide, and a head's value, in float32."""


def random_request(draw: random.Random, prompts: list[tuple[int, ...]]) -> Sample | Given:
    """Two thirds samples, half of them with one of these prompts; all prompts begin alike, as those of a task do."""
    if draw.random() < 0.5:
        prefix = draw.choice(prompts)
    else:
        ends = tuple(draw.randrange(9, 103) for _ in range(draw.randrange(1, 12)))
        prefix = (2, *([5, 6, 7, 8] * 5)[: draw.randrange(20)], *ends)
    if draw.random() < 2 / 3:
        limit = draw.choice([1, 2, 5, 15, 40])
        stop = draw.choice([(), (), ("a", "xy")])
        sampling = Sampling(limit, temperature=draw.choice([0.0, 0.7, 1.0]), top_p=draw.choice([0.9, 1.0]), stop=stop)
        return Sample(prefix, limit, sampling, seed=draw.getrandbits(63))
    steps = [draw.randrange(1, 6) for _ in range(draw.randrange(1, 4))]
    tokens, spans = prefix, []
    for size in steps:
        spans.append((len(tokens), len(tokens) + size))
        tokens = (*tokens, *(draw.randrange(9, 103) for _ in range(size)))
    return Given(tokens, spans, values=draw.random() < 0.5)


def again(request: Any) -> Any:
    """The same request, new."""
    if isinstance(request, Sample):
        return Sample(request.prefix, request.limit, request.sampling, request.seed)
    return Given(request.tokens, request.spans, request.values)


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Sample):
        assert (one.tokens, one.stop, one.text) == (other.tokens, other.stop, other.text)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    else:
        flat = [sum(found.result, ()) if not found.values else found.result for found in (one, other)]
        assert flat[0] == pytest.approx(flat[1], abs=1e-5)


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("worth", [1 << 11, 1 << 40], ids=["shared prompts", "copies"])
def test_of_many_requests_none_is_lost_or_answered_twice_and_all_memory_comes_back(
    count: int, worth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "WORTH_BYTES", worth)
    draw = random.Random(count)
    loop = tiny_loop(head=True, max_rows=64, cache_bytes=64 * 100 * BYTES)
    loop.ends = ENDS
    prompts = [(2, *[5, 6, 7, 8] * 5, 9 + number) for number in range(12)]
    waiting = [random_request(draw, prompts) for _ in range(count)]
    doomed = {request: draw.choice([0, 0, 1, 3, 8]) for request in draw.sample(waiting, 4 * count // 5)}
    left: collections.Counter[Sample | Given] = collections.Counter()
    at = in_mid_draw = sharing = 0
    while loop.busy or at < count:
        # Now and then all is done before more comes, which is when prompts begin to be shared.
        burst = draw.randrange(30) if at % 400 else 0 if loop.busy else 60
        upto = min(at + burst, (at // 400 + 1) * 400)
        for request in waiting[at:upto]:
            ask(loop, request)
        at = upto
        everyone: list[Sample | Given] = [*loop.samples, *loop.given, *loop.rows]
        for request in everyone:
            if request in doomed:
                doomed[request] -= 1
                if doomed[request] < 0:
                    in_mid_draw += request in loop.rows
                    request.cancelled = True
        left.update(loop.round())
        assert not any(row.cancelled for row in loop.rows)
        assert loop.tree.bytes <= loop.tree.limit
        shared = loop.contexts.bytes if loop.contexts else 0
        assert loop.slots.bytes + shared + loop.tree.bytes <= loop.cache_bytes
        sharing += shared > 0
    assert left == dict.fromkeys(waiting, 1)
    assert loop.peak_bytes <= loop.cache_bytes
    assert bool(sharing) == (worth < 1 << 40)
    assert in_mid_draw > count // 40
    assert sum(request.cancelled for request in waiting) > count // 3
    finished = [request for request in waiting if not request.cancelled]
    assert all(request.stop if isinstance(request, Sample) else request.result for request in finished)
    for request in draw.sample(finished, 60):
        alone = tiny_loop(head=True)
        alone.ends = ENDS
        finish(alone, same := again(request))
        assert_same(request, same)
    loop.forget()
    assert (loop.slots.bytes, loop.rows, list(loop.samples), list(loop.given)) == (0, [], [], [])
    shadows = [weakref.ref(request) for request in waiting]
    del waiting, everyone, finished, doomed, left, request, same, alone
    gc.collect()
    assert not any(shadow() for shadow in shadows)


def test_rows_that_do_not_fit_wait_and_all_are_answered() -> None:
    """Room for three rows of 64 tokens, forty requests: three at a time, the tree as small as they leave it."""
    loop = tiny_loop(cache_bytes=3 * 64 * BYTES)
    requests = [Sample((2, 9 + i), 50, Sampling(50), seed=i) for i in range(40)]
    for request in requests:
        ask(loop, request)
    left, most = [], 0
    while loop.busy:
        left += loop.round()
        most = max(most, len(loop.rows))
    assert most == 3
    assert set(left) == set(requests)
    assert loop.peak_bytes <= loop.cache_bytes


def test_a_request_larger_than_the_limit_runs_alone() -> None:
    loop = tiny_loop(cache_bytes=40 * BYTES)
    small = [Sample((2, 9 + i), 10, Sampling(10), seed=i) for i in range(4)]
    large = Sample((2, 8), 200, Sampling(200, temperature=0), seed=0)
    for request in (*small[:2], large, *small[2:]):
        ask(loop, request)
    beside = 0
    while loop.busy:
        loop.round()
        beside = max(beside, len(loop.rows) if large in loop.rows else 0)
    assert beside == 1
    assert len(large.tokens) == 200
    assert all(request.stop for request in small)


def test_many_short_rows_and_then_a_long_one_stay_within_the_limit() -> None:
    """What 60 rows have taken must not be taken 60 times as long for the sake of one."""
    loop = tiny_loop(cache_bytes=60 * PAGE * BYTES)
    finish(loop, *(Sample((2, 9 + i), 20, Sampling(20), seed=i) for i in range(60)))
    finish(loop, Sample((2, 8), 200, Sampling(200), seed=1))
    assert loop.peak_bytes <= loop.cache_bytes


def test_a_prompt_that_rows_share_takes_its_memory_from_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "WORTH_BYTES", 1)
    loop = tiny_loop(cache_bytes=(4 * PAGE + 60) * BYTES)
    finish(loop, *(Given(tuple(range(9 + i, 29 + i)), [(19, 20)], values=False) for i in range(12)))
    assert loop.tree.bytes > loop.cache_bytes // 2
    prompt = tuple(range(40, 70))
    for seed in range(4):
        ask(loop, Sample(prompt, 2, Sampling(2), seed))
    loop.round()
    assert loop.contexts
    assert loop.slots.bytes + loop.contexts.bytes + loop.tree.bytes <= loop.cache_bytes
    assert loop.peak_bytes <= loop.cache_bytes


def test_waiting_requests_join_in_the_order_they_came() -> None:
    loop = tiny_loop(max_rows=2)
    requests = [Sample((2, 9 + i), 3, Sampling(3), seed=i) for i in range(10)]
    for request in requests:
        ask(loop, request)
    joined: list[Any] = []
    while loop.busy:
        left = loop.round()
        joined += [row for row in (*loop.rows, *left) if row not in joined]
    assert sorted(joined, key=requests.index) == joined


def test_rows_move_and_grow_with_what_they_hold() -> None:
    slots = Slots(layers=2, heads=1, width=3, dtype=torch.float32, device=torch.device("cpu"))
    slots.fit(2, 10, 0, most=1 << 20)
    first, second = torch.randn(4, 1, 10, 3), torch.randn(4, 1, 10, 3)
    slots.branch(first, torch.arange(10.0), slice(0, 1))
    slots.branch(second, -torch.arange(10.0), slice(1, 2))
    assert slots.fit(3, PAGE + 1, 2, most=1 << 20)
    assert slots.bytes == slots.size(3, PAGE + 1) == 3 * 2 * PAGE * (2 * 2 * 3 * 4 + 4)
    torch.testing.assert_close(slots.kv_LRHTD[:, 1, :, :10], second, rtol=0, atol=0)
    slots.move(1, 0, 10)
    torch.testing.assert_close(slots.kv_LRHTD[:, 0, :, :10], second, rtol=0, atol=0)
    torch.testing.assert_close(slots.values_RT[0, :10], -torch.arange(10.0), rtol=0, atol=0)
    assert not slots.fit(1, 2 * PAGE, 1, most=1 << 20), "rows that are there stay"
    assert slots.fit(1, PAGE, 1, most=slots.size(1, PAGE)), "but not beyond what they may take"
    assert slots.bytes == slots.size(1, PAGE)
    slots.release()
    assert slots.bytes == 0


def test_a_fault_of_the_model_leaves_the_loop_fit_for_use(monkeypatch: pytest.MonkeyPatch) -> None:
    loop: Loop = tiny_loop()

    def broken(*_: Any) -> None:
        raise RuntimeError("a kernel failed")

    request = Sample((2, 9), 5, Sampling(5), seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(loop.decoder, "decode", broken)
        with pytest.raises(RuntimeError, match="a kernel failed"):
            finish(loop, request)
    loop.forget()
    assert not loop.busy
    assert (request.usage.prefilled, request.usage.sampled) == (2, 1), "what it had cost is known"
    finish(loop, same := again(request))
    assert same.tokens[:1] == request.tokens
    assert same.stop
