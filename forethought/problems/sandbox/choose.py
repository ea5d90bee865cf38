"""Which way of running programs: the one that was asked for, or the best that works here."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from forethought.problems.sandbox import bwrap
from forethought.problems.sandbox.run import Sandbox, SandboxUnavailable

VARIABLE = "FORETHOUGHT_SANDBOX"
"""The environment variable that names one."""
HERE: dict[str, Callable[[], Sandbox]] = {"bwrap-pool": bwrap.pool, "bwrap": bwrap.once}


def open_sandbox(spec: str = "auto") -> Sandbox:
    """The sandbox a spec names; `auto` takes the first of those of this machine that works.

    Raises `ValueError` for an unknown spec, and `SandboxUnavailable`, with what would help, where it does not work.
    """
    refused = []
    for name, opens in HERE.items():
        if spec in ("auto", name):
            try:
                return opens()
            except SandboxUnavailable as reason:
                refused.append(f"{name}: {reason}")
    if not refused:
        raise ValueError(f"there is no sandbox {spec!r}; there is auto, {', '.join(HERE)}")
    raise SandboxUnavailable("; ".join(refused))


@functools.cache
def default() -> Sandbox:
    """The sandbox that `FORETHOUGHT_SANDBOX` names (`auto` without it), opened once a process."""
    return open_sandbox(os.environ.get(VARIABLE) or "auto")
