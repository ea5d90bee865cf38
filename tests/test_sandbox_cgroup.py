"""Control groups: where they may be made, what they hold, and that nothing of them stays behind."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest
from jails import needs_jail, unavailable

from forethought.problems.sandbox import Limits, SandboxUnavailable, bwrap, cgroup
from forethought.problems.sandbox.cgroup import SERVER, Group, Place, place
from forethought.problems.sandbox.run import MiB

TIGHT = Limits(seconds=30, memory=96 * MiB, processes=8, disk=8 * MiB)
FAMILY = """import os, time
def fill():
    x = bytearray(64 * 2**20)
    x[::4096] = b"x" * len(x[::4096])
    time.sleep(0.5)
    os._exit(0)
ends = []
for _ in range(5):
    child = os.fork()
    if not child: fill()
    ends.append(child)
print(sum(os.waitpid(each, 0)[1] == 9 for each in ends))
"""
"""Five processes, none of which has more than its own limit; prints how many of them were killed."""


@functools.cache
def none_here() -> str:
    try:
        place()
    except SandboxUnavailable as reason:
        return str(reason)
    return unavailable()


needs_groups = pytest.mark.skipif(bool(none_here()), reason=f"no control groups here: {none_here()}")


@needs_jail
@needs_groups
def test_the_memory_of_all_processes_is_held_together_and_the_server_lives_on() -> None:
    servers = bwrap.Pool(1)
    ran = servers.run(FAMILY, b"", TIGHT)
    assert ran.status == "ended"
    assert int(ran.out) > 0
    first = servers.idle[0]
    assert servers.run("print(2)", b"", TIGHT).out == b"2\n"
    assert servers.idle == [first]
    servers.close()


@needs_jail
def test_without_the_group_every_process_has_all_of_it() -> None:
    server = bwrap.Server(without={"group"})
    assert server.run(FAMILY, b"", TIGHT).out == b"0\n"
    server.kill()


@needs_jail
@needs_groups
def test_a_program_that_the_group_kills_has_ended_itself() -> None:
    """Else it would be tried again and count as lost, which no program shall be able to bring about."""
    source = "import os\nx = bytearray(60 * 2**20)\nwhile True:\n    os.fork()\n    x[::4096] = b'y' * len(x[::4096])"
    servers = bwrap.Pool(1)
    for _ in range(3):
        assert servers.run(source, b"", TIGHT).status in ("ended", "time")
    servers.close()


@needs_jail
@needs_groups
def test_the_processes_of_a_program_are_counted_by_the_group_too() -> None:
    source = """import os, time
made = 0
try:
    for _ in range(40):
        if not os.fork():
            time.sleep(1)
            os._exit(0)
        made += 1
except OSError: pass
print(made)"""
    server = bwrap.Server(without={"processes"})
    assert int(server.run(source, b"", TIGHT).out) <= TIGHT.processes + 3
    server.kill()
    server = bwrap.Server(without={"processes", "group"})
    assert server.run(source, b"", TIGHT).out == b"40\n"
    server.kill()


@needs_jail
@needs_groups
def test_a_group_goes_with_its_server_and_one_that_was_left_goes_with_the_next() -> None:
    server = bwrap.Server()
    assert server.group is not None
    folders = server.group.folders
    assert all(folder.is_dir() for folder in folders)
    server.kill()
    assert not any(folder.exists() for folder in folders)
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = Group(place(), name=f"forethought-{gone.pid}-0")
    assert all(folder.is_dir() for folder in left.folders)
    mine = Group(place(), name=f"forethought-{os.getpid()}-test")
    assert not any(folder.exists() for folder in left.folders)
    mine.remove()


def test_version_2_is_asked_for_what_it_calls_its_limits(tmp_path: Path) -> None:
    """On a stand-in: not every machine has its controllers."""
    group = Group(Place(2, tmp_path, tmp_path))
    (folder,) = group.folders
    (folder / "memory.swap.max").write_text("max")
    (folder / "memory.events").write_text("low 0\noom 4\noom_kill 3\n")
    group.hold(TIGHT)
    assert (folder / "memory.max").read_text() == str(TIGHT.memory + TIGHT.disk + SERVER)
    assert (folder / "pids.max").read_text() == str(TIGHT.processes + 3)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert group.killed() == 3
    (folder / "pids.max").write_text("7")
    group.hold(TIGHT)
    assert (folder / "pids.max").read_text() == "7"  # the same limits are not written again


@pytest.mark.parametrize(
    ("lending", "found"),
    [(["app/own"], "app/own"), (["app"], "app"), (["app", ""], "app"), ([""], ""), ([], None)],
)
def test_groups_are_made_as_near_to_ours_as_controllers_are_lent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lending: list[str], found: str | None
) -> None:
    own = tmp_path / "app" / "own"
    own.mkdir(parents=True)
    for folder in (own, own.parent, tmp_path):
        (folder / "cgroup.subtree_control").write_text("cpu")
    for name in lending:
        (tmp_path / name / "cgroup.subtree_control").write_text("cpu memory pids\n")
    monkeypatch.delenv(cgroup.VARIABLE, raising=False)
    monkeypatch.setattr(cgroup, "_mounts", lambda: {"cgroup2": tmp_path})
    monkeypatch.setattr(cgroup, "_own", lambda: iter([("", "/app/own")]))
    near = next(cgroup._candidates(), None)
    assert near == (None if found is None else Place(2, tmp_path / found, tmp_path / found))


def test_where_no_group_can_be_made_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cgroup.VARIABLE, str(tmp_path / "nowhere"))
    place.cache_clear()
    with pytest.raises(SandboxUnavailable, match=r"nowhere: No such file.*FORETHOUGHT_CGROUP"):
        place()
    assert bwrap._group(()) is None
    place.cache_clear()
