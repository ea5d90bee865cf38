"""Answers that are equal but not alike: math-verify, in worker processes that can be killed.

An alarm works in the main thread alone and not inside one long multiplication, so a hanging comparison can only be
ended from outside: each worker gets a deadline, and is killed and replaced when it passes. POSIX only.
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
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

Outcome = Literal["equal", "different", "timed out", "gold unread", "failed"]

SECONDS = 3.0
"""Deadline of one comparison; a second more than the worker's own alarm."""
START_SECONDS = 60.0
"""Deadline of a worker's start: on a busy machine the imports take seconds."""
WORKERS = min(4, os.cpu_count() or 1)
"""Most workers at a time."""
ROOT = str(Path(__file__).resolve().parents[2])


def ask(gold: str, answer: str) -> Outcome:
    """Does math-verify hold `answer` equal to `gold`? Any thread may ask; most wait at most a few milliseconds.

    `timed out`: reading or comparing the answer took too long. `gold unread`: the gold cannot be parsed. `failed`: the
    worker died, or fell silent before it had read the gold, and a fresh one as well; this alone is not remembered.
    Raises `RuntimeError` where workers cannot be started at all.
    """
    try:
        return _ask(gold, answer)
    except _Died:
        return "failed"


class _Died(Exception):  # noqa: N818 - it tells of an end, not of an error of ours
    """The worker closed its pipe, or said what no worker says."""


class _Late(_Died):
    """It said nothing before the deadline, deaf to its own alarm."""


class _Worker:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        # -P and PYTHONPATH: a sympy.py in the working folder must not become the algebra system.
        path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "forethought.problems.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self.heard = b""
        try:
            word = self.word(time.monotonic() + START_SECONDS)
        except _Died:
            word = ""
        if word != "ready":
            self.kill()
            raise RuntimeError("math-verify's worker did not start; `python -m forethought.problems.worker` shows why")

    def word(self, deadline: float) -> str:
        """The next line it says."""
        assert self.process.stdout is not None
        out = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(out, select.POLLIN)
        while b"\n" not in self.heard:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _Late
            chunk = os.read(out, 4096)
            if not chunk:
                raise _Died
            self.heard += chunk
        word, _, self.heard = self.heard.partition(b"\n")
        return word.decode(errors="replace")

    def ask(self, gold: str, answer: str) -> Outcome:
        assert self.process.stdin is not None
        deadline = time.monotonic() + SECONDS
        try:
            self.process.stdin.write(json.dumps({"gold": gold, "answer": answer}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise _Died from error
        word = self.word(deadline)
        if word == "read":
            try:
                word = self.word(deadline)
            except _Late:
                self.kill()
                return "timed out"
        for outcome in get_args(Outcome):
            if word == outcome != "failed":
                return outcome  # type: ignore[no-any-return]  # get_args is untyped
        raise _Died

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a request it never read
                pipe.close()


class _Pool:
    """Workers at rest, and how many may be at work."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(WORKERS)
        self.idle: list[_Worker] = []

    def ask(self, gold: str, answer: str) -> Outcome:
        with self.slots:
            try:
                return self._once(gold, answer)
            except _Died:
                return self._once(gold, answer, fresh=True)

    def _once(self, gold: str, answer: str, *, fresh: bool = False) -> Outcome:
        with self.lock:
            worker = self.idle.pop() if self.idle and not fresh else None
        worker = worker or _Worker()
        try:
            outcome = worker.ask(gold, answer)
        except BaseException:
            worker.kill()
            raise
        if worker.process.poll() is None:
            with self.lock:
                self.idle.append(worker)
        return outcome

    def close(self) -> None:
        with self.lock:
            for worker in self.idle:
                worker.kill()
            self.idle.clear()


_pool = _Pool()


@lru_cache(maxsize=8192)
def _ask(gold: str, answer: str) -> Outcome:
    return _pool.ask(gold, answer)


def close() -> None:
    """End the idle workers; the next question starts new ones. Done at exit."""
    _pool.close()


def _forget() -> None:
    """A forked child shares the pipes of its parent's workers and must not speak into them."""
    global _pool
    _pool = _Pool()


atexit.register(close)
os.register_at_fork(after_in_child=_forget)
