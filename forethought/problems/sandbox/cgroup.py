"""Control groups: the memory and the processes of a jail together, where this machine lets us limit them.

The kernel's other limits hold for each process alone. A group is made for each server, which steps into it before it
takes its first request; whatever it forks is counted there. Stepping in waits for all processors (some 10 ms), which is
why a jail of its own for each program has none.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from forethought.problems.sandbox.run import Limits, MiB, SandboxUnavailable

VARIABLE = "FORETHOUGHT_CGROUP"
"""The environment variable that names a folder of cgroup v2 to make groups in."""
SERVER = 48 * MiB
"""What the server itself may need beside its program."""
FILES = {2: ("memory.max", "pids.max", "memory.events"), 1: ("memory.limit_in_bytes", "pids.max", "memory.oom_control")}
"""By the version of control groups: the two limits, and what counts the processes that the first one killed."""
_NAME = "forethought-"
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups can be made."""

    version: int
    memory: Path
    pids: Path
    """In version 2 the same folder."""


@functools.cache
def place() -> Place:
    """Where this process may make groups that limit memory and processes: in the folder that `FORETHOUGHT_CGROUP`
    names, else in its own group or the nearest one above it. Raises `SandboxUnavailable`, with the reason, where it may
    not.

    In version 2 only a group without processes lends its controllers to groups below it (the topmost aside), and ours
    is never emptied for that.
    """
    reasons = []
    for found in _candidates():
        try:
            with _made(found):
                return found
        except OSError as error:
            reasons.append(f"{found.pids}: {error.strerror or error}")
    why = "; ".join(reasons) or "no group with both controllers, memory and pids, is mounted and lends them"
    raise SandboxUnavailable(f"no control group can be made ({why}); name one that may be written in {VARIABLE}")


@dataclass
class Group:
    """The processes of one server."""

    place: Place
    name: str = field(default_factory=lambda: f"{_NAME}{os.getpid()}-{next(_numbers)}")
    held: Limits | None = None

    def __post_init__(self) -> None:
        _sweep(self.place)
        for folder in self.folders:
            folder.mkdir()

    @property
    def folders(self) -> tuple[Path, ...]:
        """What it is in the file system."""
        return tuple(dict.fromkeys((self.place.memory / self.name, self.place.pids / self.name)))

    def doors(self) -> list[int]:
        """Files that a process writes `0` to so as to step in; whose right it is was settled when they were opened."""
        return [os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in self.folders]

    def hold(self, limits: Limits) -> None:
        """Limits for the next program: its memory with its disk, which is memory too, and its processes."""
        if limits == self.held:
            return
        memory, pids, _ = FILES[self.place.version]
        (self.place.memory / self.name / memory).write_text(str(limits.memory + limits.disk + SERVER))
        (self.place.pids / self.name / pids).write_text(str(limits.processes + 3))
        swap = self.place.memory / self.name / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
        self.held = limits

    def killed(self) -> int:
        """How many processes its memory's limit has killed."""
        *_, events = FILES[self.place.version]
        for line in (self.place.memory / self.name / events).read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
        return 0

    def remove(self) -> None:
        """Take it away once its processes are gone; one that lingers is swept away by the next group that is made."""
        for folder in self.folders:
            _remove(folder, time.monotonic() + 1)


def _candidates() -> Iterator[Place]:
    asked = os.environ.get(VARIABLE)
    if asked:
        yield Place(2, Path(asked), Path(asked))
        return
    mounts = _mounts()
    own = dict(_own())
    if "" in own and "cgroup2" in mounts:
        top = mounts["cgroup2"]
        base = top / own[""].lstrip("/")
        for folder in (base, *(each for each in base.parents if each.is_relative_to(top))):
            with contextlib.suppress(OSError):
                if {"memory", "pids"} <= set((folder / "cgroup.subtree_control").read_text().split()):
                    yield Place(2, folder, folder)
    if {"memory", "pids"} <= set(mounts) & set(own):
        memory, pids = (mounts[name] / own[name].lstrip("/") for name in ("memory", "pids"))
        # A container may see the group it is in by a name of outside.
        yield Place(
            1, *(each if each.is_dir() else mounts[name] for name, each in (("memory", memory), ("pids", pids)))
        )


def _mounts() -> dict[str, Path]:
    """Where version 2 (`cgroup2`) and the controllers of version 1 are mounted."""
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, where, kind, options, *_ = line.split()
            for name in ["cgroup2"] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []:
                found.setdefault(name, Path(where))
    return found


def _own() -> Iterator[tuple[str, str]]:
    """Our own group, by controller; version 2's by no name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(","):
                yield name, path


@contextlib.contextmanager
def _made(found: Place) -> Iterator[None]:
    """Try a group out: made, limited, and taken away."""
    group = Group(found)
    try:
        group.hold(Limits())
        for door in group.doors():
            os.close(door)
        group.killed()
        yield
    finally:
        group.remove()


def _sweep(found: Place) -> None:
    """Take away what processes of ours left that are gone."""
    for folder in {found.memory, found.pids}:
        for left in folder.glob(f"{_NAME}*"):
            owner = left.name.removeprefix(_NAME).partition("-")[0]
            if owner.isdigit() and not Path("/proc", owner).exists():
                _remove(left, 0)


def _remove(folder: Path, deadline: float) -> None:
    while True:
        try:
            return folder.rmdir()
        except FileNotFoundError:
            return None
        except OSError:  # a process of it is still ending
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.005)
