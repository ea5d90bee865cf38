"""Worker processes that can be killed: one JSON line in, words out, a line each, by a deadline.

An alarm works in the main thread alone and not inside one long multiplication, so what may hang can only be ended from
outside. POSIX only.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

START_SECONDS = 60.0
"""Deadline of a worker's start: on a busy machine the imports take seconds."""
WORKERS = min(4, os.cpu_count() or 1)
"""Most workers of a kind at a time."""
ROOT = str(Path(__file__).resolve().parents[2])

T = TypeVar("T")


class Died(Exception):  # noqa: N818 - it tells of an end, not of an error of ours
    """The worker closed its pipe, or said what no worker says."""


class Late(Died):
    """It said nothing before the deadline, deaf to any alarm of its own."""


class Worker:
    """One process that runs `module`, used by one thread at a time; its first word is `ready`."""

    def __init__(self, module: str) -> None:
        # -P and PYTHONPATH: a sympy.py in the working folder must not become the algebra system.
        path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},  # sets are walked alike in every worker
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self.heard = b""
        try:
            word = self.word(time.monotonic() + START_SECONDS)
        except Died:
            word = ""
        if word != "ready":
            self.kill()
            raise RuntimeError(f"a worker did not start; `python -m {module}` shows why")

    def say(self, request: Any) -> None:
        """Hand it a request. Raises `Died` where it no longer reads."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Died from error

    def word(self, deadline: float) -> str:
        """The next line it says. Raises `Late` when `deadline` (of `time.monotonic`) passes, `Died` at its end."""
        assert self.process.stdout is not None
        out = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(out, select.POLLIN)
        while b"\n" not in self.heard:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise Late
            chunk = os.read(out, 1 << 16)
            if not chunk:
                raise Died
            self.heard += chunk
        word, _, self.heard = self.heard.partition(b"\n")
        return word.decode(errors="replace")

    def kill(self) -> None:
        """End it; what it was asked is lost."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a request it never read
                pipe.close()


class Pool:
    """Workers of one kind: those at rest, and how many may be at work."""

    def __init__(self, module: str) -> None:
        self.module = module
        self._rest()
        _pools.append(self)

    def use(self, work: Callable[[Worker], T]) -> T:
        """What `work` makes of a worker. One that dies of it is replaced, once, by a fresh one; then `Died` is raised.

        Any thread may ask. Raises `RuntimeError` where workers cannot be started at all.
        """
        with self.slots:
            try:
                return self._once(work)
            except Died:
                return self._once(work, fresh=True)

    def _once(self, work: Callable[[Worker], T], *, fresh: bool = False) -> T:
        with self.lock:
            worker = self.idle.pop() if self.idle and not fresh else None
        worker = worker or Worker(self.module)
        try:
            outcome = work(worker)
        except BaseException:
            worker.kill()
            raise
        if worker.process.poll() is None:
            with self.lock:
                self.idle.append(worker)
        return outcome

    def close(self) -> None:
        """End the idle workers; the next question starts new ones. Done at exit."""
        with self.lock:
            for worker in self.idle:
                worker.kill()
            self.idle.clear()

    def _rest(self) -> None:
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(WORKERS)
        self.idle: list[Worker] = []


_pools: list[Pool] = []


@atexit.register
def _close() -> None:
    for pool in _pools:
        pool.close()


def _forget() -> None:
    """A forked child shares the pipes of its parent's workers and must not speak into them."""
    for pool in _pools:
        pool._rest()


os.register_at_fork(after_in_child=_forget)
