"""sandlock: Landlock and seccomp around each program, where the kernel lends no namespaces (many containers).

    pip install 'forethought[sandbox]'

Landlock says which files a program may touch, and keeps its signals to itself; a process beside it answers for the
system calls that open, connect, fork and allocate.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import sys
import tempfile

from forethought.problems.sandbox.bwrap import Kind, Server, serving
from forethought.problems.sandbox.jail import PATH, interpreter, rlimits
from forethought.problems.sandbox.run import Limits, Sandbox, SandboxUnavailable

_BEGIN = """import sys, types
for depth, name in enumerate(("forethought", "forethought.problems", "forethought.problems.sandbox")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1].rsplit("/", 2 - depth)[0]]
from forethought.problems.sandbox import around
around.SERVERS[sys.argv[2]](*sys.argv[3:])
"""
"""What a server is started with: all that our packages themselves import would take it seconds, and a lot of memory."""


def pool() -> Sandbox:
    """Servers that fork for each program. Raises `SandboxUnavailable` without sandlock, or Landlock in the kernel."""
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"sandlock needs Linux, and this is {sys.platform}")
    if importlib.util.find_spec("sandlock") is None:
        raise SandboxUnavailable("sandlock is not installed (pip install 'forethought[sandbox]')")
    return serving("sandlock", functools.partial(Server, kind=kind()))


def kind() -> Kind:
    """Its servers."""
    python, folders = interpreter()
    return Kind(around("landlock", python, *folders), surroundings(), _ask, _refusal)


def around(*words: str) -> list[str]:
    """The command that starts one of `around`'s servers."""
    return [sys.executable, "-P", "-s", "-c", _BEGIN, os.path.dirname(os.path.abspath(__file__)), *words]


def surroundings() -> dict[str, str]:
    """Its environment: where our modules are, and nothing of what else is in ours."""
    folders = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    tmp = tempfile.gettempdir()  # as HOME too: sandlock asks for one, and a user may have none
    return {"PATH": PATH, "PYTHONPATH": folders, "TMPDIR": tmp, "HOME": tmp, "TOKIO_WORKER_THREADS": "1"}


def _ask(limits: Limits) -> str:
    words = rlimits(limits, without={"processes"})
    return f"{limits.disk}|{limits.memory}|{limits.processes}|{math.ceil(limits.seconds)}|{words}"


def _refusal(said: str) -> str:
    why = " ".join(said.split())[-400:] or "it said nothing"
    return f"sandlock does not work on this machine: {why}; it needs Linux 6.12 or newer, with Landlock switched on"
