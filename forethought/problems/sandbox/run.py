"""What every way of running a program shares: its limits, what came of it, and reading its output without trust."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MiB = 1024**2

Status = Literal["ended", "time", "output", "lost"]
"""The program came to an end of its own, right or wrong; it was ended for taking or for printing too much; or whatever
ran it died under it, and nothing can be said of the program."""


class SandboxUnavailable(OSError):  # noqa: N818 - the name says what is the case
    """No way of running foreign code safely works on this machine; the message has the fix."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use."""

    seconds: float = 5.0
    """Processor time of each of its processes, in whole seconds or part of one. The wall clock may show `PATIENCE`
    times as much: a busy machine makes no right program wrong, and one that sleeps is ended all the same."""
    memory: int = 512 * MiB
    """Bytes of address space of each process."""
    processes: int = 16
    """Processes and threads at a time."""
    disk: int = 16 * MiB
    """Bytes in its folder, which is in memory and gone after the run; also of any one file."""
    output: int = MiB
    """Bytes of standard output, and as many of standard error."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise ValueError(f"seconds is {self.seconds}; it must be above 0 and at most 3600")
        for name, least in (("memory", 64 * MiB), ("processes", 1), ("disk", 4096), ("output", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    @property
    def patience(self) -> float:
        """Seconds by the wall clock."""
        return PATIENCE * self.seconds


PATIENCE = 3
PLAIN = Limits()


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one run. Everything here was made by the program: compare it with something, never obey it."""

    status: Status
    code: int | None
    """Exit status, below 0 for a signal; `None` where it did not end by itself."""
    out: bytes
    err: bytes
    seconds: float
    """Wall-clock."""
    note: str = ""
    """Why it was lost."""

    @property
    def complaint(self) -> str:
        """The last line that the interpreter wrote of an error, or what the limits said; `""` where all went well."""
        match self.status:
            case "time":
                return f"ended after {self.seconds:.1f} s"
            case "output":
                return "ended: it printed too much"
            case "lost":
                return self.note
        lines = self.err.decode(errors="replace").strip().splitlines()
        return "" if self.code == 0 else lines[-1][:500] if lines else f"exit status {self.code}"


Run = Callable[[str, bytes, Limits], Ran]
"""(Python program, standard input, limits) -> what came of it. Any thread may call it."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A way of running programs that a model wrote."""

    name: str
    run: Run
    workers: int
    """Runs at a time; more wait for their turn."""
    close: Callable[[], None] = lambda: None
    """End whatever is kept running between programs."""
    together: str = ""
    """What holds the memory and the processes of one program together, where the guards are bubblewrap's."""

    async def start(self, program: str, stdin: bytes = b"", limits: Limits = PLAIN) -> Ran:
        """`run` for an event loop: gather as many as you like. One that is cancelled still runs to its limits."""
        return await asyncio.to_thread(self.run, program, stdin, limits)


def drain(out: int, err: int, deadline: float, most: int) -> tuple[Status, bytes, bytes]:
    """Read two pipes until both end, the deadline (`time.monotonic`) passes, or one gave more than `most` bytes."""
    heard = {out: bytearray(), err: bytearray()}
    poll = select.poll()
    for pipe in heard:
        poll.register(pipe, select.POLLIN)
    status: Status = "ended"
    ended = 0
    while ended < 2 and status == "ended":
        # Late, what is there already still counts: we may have been stopped ourselves.
        events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not events:
            status = "time"
        for pipe, _ in events:
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                poll.unregister(pipe)
                ended += 1
            heard[pipe] += chunk
            if len(heard[pipe]) > most:
                status = "output"
    return status, bytes(heard[out][:most]), bytes(heard[err][:most])


def sealed(content: bytes) -> int:
    """A file descriptor to read `content` from, which nobody who has it can change."""
    file = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]
    os.lseek(file, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file
