"""The booking of one search: reserve before a call, settle after it, so that concurrent calls never overshoot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from forethought.types import Budget, Step

UNLIMITED = Budget()


def spent(step: Step, reserved: int) -> int:
    """Tokens a step has cost: as many as it has ids, or log-probabilities where the engine does not tell the ids.

    A sampled step that comes with neither is booked at all that was `reserved` for it, the most it can have been: a
    server that hides its tokens must not look cheap. A step nobody sampled (`sampled=False`: an engine's fault, text
    of ours) costs what it shows, mostly nothing.
    """
    told = len(step.tokens) or len(step.logprobs)
    return told if told or not step.sampled else reserved


class Account:
    """Books the tokens and seconds of one search against its `Budget`. Safe under asyncio and under threads.

    As long as every call costs at most what was reserved for it, `used + held` never passes `budget.tokens`, whatever
    runs at once. Spend that the budget already shows (`used`, `calls`) counts: a search can go on with what another
    has left. The clock (seconds, monotonic) starts when the account is opened.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        if budget.held:
            raise ValueError(f"the budget holds {budget.held} tokens for another search; open an account when it ended")
        self._budget = budget
        self._clock = clock
        self._opened = clock()
        self._lock = threading.Lock()
        self._used, self._held, self._calls = budget.used, 0, budget.calls

    @property
    def left(self) -> int | None:
        """Tokens that can still be reserved; `None` where the budget has no limit."""
        limit = self._budget.tokens
        return None if limit is None else max(0, limit - self._used - self._held)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the account expires, 0 from then on; `None` where the budget has no limit."""
        limit = self._budget.seconds
        return None if limit is None else max(0.0, self._opened + limit - self._clock())

    @property
    def expired(self) -> bool:
        """Have the seconds run out?"""
        return self.seconds_left == 0.0

    def reserve(self, tokens: int) -> int:
        """Hold up to `tokens` and return how many were granted: what is left at most, 0 once expired."""
        if tokens < 1:
            raise ValueError(f"cannot reserve {tokens} tokens; a call needs at least 1")
        with self._lock:
            granted = 0 if self.expired else tokens if (left := self.left) is None else min(tokens, left)
            self._held += granted
            return granted

    def settle(self, reserved: int, used: int, calls: int = 1) -> None:
        """Give back `reserved` tokens of a reservation, and book what the calls really cost.

        `used` above `reserved` is booked too: it was spent, and only a judge or a server that breaks its word can
        bring an account over its budget this way.
        """
        if used < 0 or calls < 0:
            raise ValueError(f"a call cannot have cost {used} tokens in {calls} calls; both are 0 or more")
        with self._lock:
            if not 0 <= reserved <= self._held:
                raise ValueError(f"cannot settle {reserved} tokens where {self._held} are held; settle each grant once")
            self._held -= reserved
            self._used += used
            self._calls += calls

    def snapshot(self) -> Budget:
        """The limits and what has been spent and held by now."""
        with self._lock:
            return replace(self._budget, used=self._used, held=self._held, calls=self._calls)
