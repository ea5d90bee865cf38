"""What the tests of the sandbox share: is there a jail here, and how to be an ordinary user for a while."""

from __future__ import annotations

import functools
import json
import os
import traceback
from collections.abc import Callable
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


def as_user(call: Callable[[], Any]) -> Any:
    """What `call` returns (JSON) in a child that has given up root for good; in this process where we are not root."""
    if not ROOT:
        return call()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            with os.fdopen(write, "w") as out:
                json.dump(call(), out)
        except BaseException:  # noqa: BLE001 - a child must not go on as the test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    assert os.waitpid(child, 0)[1] == 0, "the call failed as an ordinary user"
    return json.loads(text)
