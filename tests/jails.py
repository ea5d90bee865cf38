"""What the tests of the sandbox share: is there a jail here, and how to be an ordinary user for a while."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forethought.problems.sandbox import SandboxUnavailable, bwrap

ROOT = os.getuid() == 0


@functools.cache
def unavailable() -> str:
    """Why no program can be jailed here; empty where one can."""
    try:
        bwrap.once()
    except SandboxUnavailable as reason:
        return str(reason)
    return ""


needs_jail = pytest.mark.skipif(bool(unavailable()), reason=f"no jail here: {unavailable()}")


def as_user(module: str, call: str) -> Any:
    """What `call`, of a module of the tests, returns (JSON) in a process that has given up root for good."""
    drop = "os.setgroups([]); os.setgid(54321); os.setuid(54321)" if ROOT else ""
    code = f"import json, os, {module}\n{drop}\nprint(json.dumps({module}.{call}))"
    here = Path(__file__).parent
    path = os.pathsep.join(filter(None, (str(here), str(here.parent), os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
