"""The booking: never over the limit, nothing left held, whatever runs at once."""

from __future__ import annotations

import random
import threading

import pytest

from forethought.search.budget import Account, spent
from forethought.search.seeds import derive
from forethought.types import Budget, Step


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_reserving_and_settling_passes_the_limit(seed: int) -> None:
    draw = random.Random(seed)
    limit = draw.randint(1, 500)
    account = Account(Budget(tokens=limit))
    held: list[int] = []
    spend = calls = 0
    for _ in range(200):
        if held and draw.random() < 0.5:
            reserved = held.pop(draw.randrange(len(held)))
            used = draw.randint(0, reserved)
            account.settle(reserved, used)
            spend, calls = spend + used, calls + 1
        elif granted := account.reserve(wanted := draw.randint(1, 100)):
            assert granted <= wanted
            held.append(granted)
        now = account.snapshot()
        assert (now.used, now.held, now.calls) == (spend, sum(held), calls)
        assert now.used + now.held <= limit
        assert account.left == limit - spend - sum(held)
    for reserved in held:
        account.settle(reserved, reserved)
    assert account.snapshot().held == 0
    assert account.snapshot().used <= limit


def test_threads_together_are_granted_exactly_the_limit() -> None:
    account = Account(Budget(tokens=10_000))
    granted: list[int] = []

    def work() -> None:
        while got := account.reserve(7):
            granted.append(got)
            account.settle(got, got)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 10_000
    assert account.snapshot() == Budget(tokens=10_000, used=10_000, held=0, calls=len(granted))


def test_without_a_limit_all_is_granted_and_still_counted() -> None:
    account = Account(Budget())
    assert account.left is None
    assert account.seconds_left is None
    assert account.reserve(10**9) == 10**9
    assert account.snapshot().held == 10**9


def test_seconds_run_on_the_given_clock() -> None:
    now = [100.0]
    account = Account(Budget(seconds=2.0), clock=lambda: now[0])
    assert account.reserve(5) == 5
    now[0] = 101.5
    assert (account.seconds_left, account.expired) == (0.5, False)
    now[0] = 103.0
    assert (account.seconds_left, account.expired) == (0.0, True)
    assert account.reserve(5) == 0
    account.settle(5, 5)
    assert account.snapshot() == Budget(seconds=2.0, used=5, calls=1)


def test_a_search_goes_on_with_what_another_has_left() -> None:
    account = Account(Budget(tokens=100, used=70, calls=3))
    assert account.reserve(50) == 30
    account.settle(30, 10)
    assert account.snapshot() == Budget(tokens=100, used=80, calls=4)


def test_what_was_spent_beyond_a_reservation_is_not_hidden() -> None:
    account = Account(Budget(tokens=10))
    account.settle(account.reserve(10), 25)
    assert account.snapshot().used == 25
    assert account.left == 0


@pytest.mark.parametrize(("reserved", "used", "calls"), [(6, 0, 1), (-1, 0, 1), (5, -1, 1), (5, 0, -1)])
def test_a_booking_that_cannot_be_is_refused(reserved: int, used: int, calls: int) -> None:
    account = Account(Budget(tokens=10))
    account.reserve(5)
    with pytest.raises(ValueError, match="cannot"):
        account.settle(reserved, used, calls)
    assert account.snapshot().held == 5


def test_reserving_nothing_and_a_budget_in_use_are_refused() -> None:
    with pytest.raises(ValueError, match="reserve 0 tokens"):
        Account(Budget()).reserve(0)
    with pytest.raises(ValueError, match="holds 3 tokens"):
        Account(Budget(held=3))


@pytest.mark.parametrize(
    ("step", "cost"),
    [
        (Step("abc", tokens=(1, 2, 3)), 3),
        (Step("abc", logprobs=(-0.1, -0.2)), 2),
        (Step("abc"), 64),
        (Step(""), 64),
        (Step("OSError: gone", stop="error", sampled=False), 0),
        (Step("Wait", tokens=(7,), sampled=False), 1),
    ],
)
def test_what_a_step_costs(step: Step, cost: int) -> None:
    assert spent(step, 64) == cost


def test_derived_seeds_are_pinned_apart_and_fit_a_json_number() -> None:
    assert derive(None, 1) is None
    assert derive(7, "addition/0", 3) == 7967677610900515
    seeds = {derive(seed, place) for seed in range(50) for place in range(50)}
    assert len(seeds) == 2500
    assert all(seed is not None and 0 <= seed < 2**53 for seed in seeds)
    assert derive(1, "2") != derive(1, 2)
