"""Programs in a jail of their own each, and servers that fork for each: two costs of the same guards."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from forethought.problems.sandbox import calls
from forethought.problems.sandbox.cgroup import Group, place
from forethought.problems.sandbox.inside import NEWIPC, NEWNET, NEWNS, NEWPID, NEWUTS
from forethought.problems.sandbox.jail import (
    command,
    compiled,
    environment,
    filters,
    interpreter,
    missing,
    rlimits,
)
from forethought.problems.sandbox.run import PLAIN, Limits, Ran, Sandbox, SandboxUnavailable, drain, sealed

EXAMINATION = Path(calls.__file__).read_bytes()
"""What most programs that a pool runs begin with (`exam`)."""
WORKERS = min(8, os.cpu_count() or 1)
"""Programs at a time."""
START_SECONDS = 60.0
"""Deadline of a server's start: on a busy machine an interpreter takes seconds."""
_NAMESPACES = NEWNS | NEWPID | NEWIPC | NEWNET | NEWUTS
_TAKEN = 3600
"""Seconds, and mebibytes, of a limit that a test has taken away."""


def run(program: str, stdin: bytes = b"", limits: Limits = PLAIN, *, without: Collection[str] = ()) -> Ran:
    """One program in a fresh jail, which ends with it.

    An exit status of 137 may be the program's own word or somebody's SIGKILL: only the pool can tell them apart.
    """
    refused = filters(without)
    files = [_source(program), sealed(stdin), *([sealed(refused)] if refused else [])]
    began = time.monotonic()
    try:
        words = command(limits, filters=files[2] if refused else None, without=without)
        process = subprocess.Popen(
            [*words, "once", str(files[0]), rlimits(limits, without=without)],
            stdin=files[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[files[0], compiled(interpreter()[0]), *files[2:]],
            env=environment(without),
            cwd="/",
        )
    finally:
        _close(files)
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        try:
            deadline, most = _allowance(limits, began, without)
            status, out, err = drain(process.stdout.fileno(), process.stderr.fileno(), deadline, most)
            if status == "ended":  # the pipes are closed; the program may still be there
                process.wait(max(0.5, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = "time"
        finally:
            process.kill()
    seconds = time.monotonic() - began
    if status != "ended":
        return Ran(status, None, out, err, seconds)
    if process.returncode == 128 + 9 and seconds >= limits.seconds:
        return Ran("time", None, out, err, seconds)
    if process.returncode < 0:
        return Ran("lost", None, out, err, seconds, f"bubblewrap was killed by signal {-process.returncode}")
    return Ran("ended", process.returncode, out, err, seconds)


def once() -> Sandbox:
    """A jail for each program. Raises `SandboxUnavailable` where this machine has none."""
    if problem := missing():
        raise SandboxUnavailable(problem)
    slots = threading.BoundedSemaphore(WORKERS)

    def one(program: str, stdin: bytes, limits: Limits) -> Ran:
        with slots:
            return run(program, stdin, limits)

    tried = one("print(2)", b"", Limits(seconds=START_SECONDS))
    if tried.out != b"2\n":
        raise SandboxUnavailable(_refusal(tried.err.decode(errors="replace")))
    return Sandbox("bwrap", one, WORKERS, together="not held: a jail for each program has no control group")


class _Died(Exception):  # noqa: N818 - it tells of an end, not of an error of ours
    """The server closed its socket, or the program was killed from without."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server: how it is started, and what a program's limits are in its words (`inside.requests`)."""

    words: Sequence[str]
    """The command; what stands for a file of `files` is its number."""
    environment: Mapping[str, str]
    ask: Callable[[Limits], str]
    refusal: Callable[[str], str]
    """What it said before it failed to start, to what would help."""
    files: Sequence[int] = ()


def _bubblewrap(without: Collection[str], files: Sequence[int], refused: bool) -> Kind:
    def ask(limits: Limits) -> str:
        tmp = "mode=1777,nr_inodes=4096" + (f",size={limits.disk}" if "disk" not in without else "")
        return f"{0 if 'requests' in without else _NAMESPACES}|{tmp}|{rlimits(limits, without=without)}"

    words = [*command(None, without=without), "serve", *([] if refused else ["-"]), *map(str, files)]
    return Kind(words, environment(without), ask, _refusal, files)


def _group(without: Collection[str]) -> Group | None:
    """A control group for a server, where this machine has one to give."""
    if "group" in without:
        return None
    with contextlib.suppress(SandboxUnavailable):
        return Group(place())
    return None


class Server:
    """One jail that forks for each program; used by one thread at a time."""

    def __init__(self, without: Collection[str] = (), kind: Kind | None = None) -> None:
        self.without = without
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        refused = filters(without) if kind is None else b""
        self.group = _group(without) if kind is None else None
        files = [sealed(refused)] if refused else []
        if kind is None:
            files += [sealed(EXAMINATION), *(self.group.doors() if self.group else [])]
        try:
            with theirs, tempfile.TemporaryFile() as complaints:
                self.kind = kind or _bubblewrap(without, files, bool(refused))
                self.process = subprocess.Popen(
                    self.kind.words,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    pass_fds=self.kind.files,
                    env=self.kind.environment,
                    cwd="/",
                    start_new_session=True,  # Ctrl-C is the parent's to handle
                )
                theirs.close()
                if self._hear(START_SECONDS) != b"ready":
                    self.kill()
                    complaints.seek(0)
                    raise SandboxUnavailable(self.kind.refusal(complaints.read().decode(errors="replace")))
        except (FileNotFoundError, PermissionError) as error:  # our own interpreter may be out of this user's reach
            self.control.close()
            raise SandboxUnavailable(f"its server does not start: {error}") from error
        finally:
            _close(files)

    def run(self, program: str, stdin: bytes, limits: Limits) -> Ran:
        """One program. Raises `_Died` where the server, or somebody's signal to the program, leaves nothing to say."""
        killed = self._held(limits)
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        given = [_source(program), sealed(stdin), out_end, err_end]
        began = time.monotonic()
        try:
            deadline, most = _allowance(limits, began, self.without)
            try:
                socket.send_fds(self.control, [self.kind.ask(limits).encode()], given)
            except OSError as error:
                raise _Died from error
            finally:
                _close(given)
            status, written, complaints = drain(out, err, deadline, most)
            if status != "ended":
                return Ran(status, None, written, complaints, time.monotonic() - began)
            said = self._hear(max(0.0, deadline - time.monotonic()))
        finally:
            _close([out, err])
        seconds = time.monotonic() - began
        if said is None:
            return Ran("time", None, written, complaints, seconds)
        if said.startswith(b"fault") or not said:
            raise _Died(said.decode())
        code, used = said.split()
        if int(code) == -9 and self.group and self.group.killed() > killed:
            note = "killed: its processes together took too much memory"
            return Ran("ended", 128 + 9, written, complaints + note.encode(), seconds)
        if int(code) == -9:  # process 1 hears no SIGKILL from within
            if float(used) < 0.8 * math.ceil(limits.seconds):  # what the kernel counts is not quite what it tells
                raise _Died("the program was killed from outside its jail")
            return Ran("time", None, written, complaints, seconds)
        return Ran("ended", int(code), written, complaints, seconds)

    def _held(self, limits: Limits) -> int:
        """Hold the group to what the next program may use; the processes that its limit of memory has killed so far."""
        if self.group is None:
            return 0
        try:
            self.group.hold(limits)
            return self.group.killed()
        except OSError as error:
            raise _Died(f"its control group cannot be limited: {error}") from error

    def _hear(self, seconds: float) -> bytes | None:
        """What the server says next, empty where it is gone; `None` where it says nothing in time."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return None
        with contextlib.suppress(ConnectionResetError):
            return self.control.recv(4096)
        return b""

    def kill(self) -> None:
        """End it and all that runs in it: it goes when its socket does."""
        self.control.close()
        self.process.kill()
        self.process.wait()
        if self.group:
            self.group.remove()


class Pool:
    """Servers at rest, and how many may be at work. A program whose server dies under it is tried once more."""

    def __init__(self, workers: int = WORKERS, start: Callable[[], Server] = lambda: Server()) -> None:
        self.start = start
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(workers)
        self.idle: list[Server] = []
        self.owner = os.getpid()

    def run(self, program: str, stdin: bytes = b"", limits: Limits = PLAIN) -> Ran:
        """One program on whichever server is free; `lost` where two died under it."""
        began = time.monotonic()
        if os.getpid() != self.owner:  # a forked child must not speak into its parent's sockets
            self.__init__(WORKERS, self.start)  # type: ignore[misc]  # everything anew, the lock that may be held included
        with self.slots:
            for fresh in (False, True):
                with self.lock:
                    server = self.idle.pop() if self.idle and not fresh else None
                server = server or self.start()
                kept = False
                try:
                    ran = server.run(program, stdin, limits)
                    kept = ran.status == "ended"
                    return ran
                except _Died as died:
                    why = str(died)
                finally:
                    if kept:
                        with self.lock:
                            self.idle.append(server)
                    else:
                        server.kill()
        note = f"the sandbox died under the program twice{f': {why}' if why else ''}"
        return Ran("lost", None, b"", b"", time.monotonic() - began, note)

    def close(self) -> None:
        """End the servers at rest; the next program starts new ones. A forked child leaves its parent's alone."""
        if os.getpid() != self.owner:
            return
        with self.lock:
            for server in self.idle:
                server.kill()
            self.idle.clear()


def pool() -> Sandbox:
    """Servers that fork for each program: 2 to 5 ms. Raises `SandboxUnavailable` where this machine has no jail."""
    if problem := missing():
        raise SandboxUnavailable(problem)
    try:
        together = f"control groups, version {place().version}"
    except SandboxUnavailable as reason:
        together = f"not held: {reason}"
    return replace(serving("bwrap-pool", lambda: Server()), together=together)


def serving(name: str, start: Callable[[], Server]) -> Sandbox:
    """The sandbox that a kind of server makes, once one was seen to run a program; else `SandboxUnavailable`."""
    servers = Pool(start=start)
    first = start()
    servers.idle.append(first)
    tried = servers.run("print(2)", b"", Limits(seconds=START_SECONDS))
    if tried.out != b"2\n":
        servers.close()
        raise SandboxUnavailable(first.kind.refusal(tried.complaint))
    atexit.register(servers.close)
    return Sandbox(name, servers.run, WORKERS, servers.close)


def _source(program: str) -> int:
    return sealed(program.encode(errors="replace"))


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


def _allowance(limits: Limits, began: float, without: Collection[str]) -> tuple[float, int]:
    """Deadline (`time.monotonic`) and most bytes of output."""
    seconds = _TAKEN if "time" in without else limits.patience
    return began + seconds, _TAKEN << 20 if "output" in without else limits.output


def _refusal(said: str) -> str:
    why = " ".join(said.split())[-400:] or "it said nothing"
    fix = (
        "user namespaces may be switched off here (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces)"
    )
    return f"bubblewrap does not work on this machine: {why}; {fix}"
