"""Which way of running programs: the one that was asked for, or the best that works here."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from forethought.problems.sandbox import bwrap, landlock, remote, wasi
from forethought.problems.sandbox.run import Sandbox, SandboxUnavailable

VARIABLE = "FORETHOUGHT_SANDBOX"
"""The environment variable that names one."""
HERE: dict[str, Callable[[], Sandbox]] = {
    "bwrap-pool": bwrap.pool,
    "bwrap": bwrap.once,
    "sandlock": landlock.pool,
    "wasi": wasi.pool,
}
"""What `auto` tries, in this order."""
UNSAFE = "unsafe-no-sandbox"


def open_sandbox(spec: str = "auto") -> Sandbox:
    """The sandbox a spec names; `auto` takes the first of those of this machine that works.

    `fusion:URL`, `e2b:TEMPLATE` and `docker:IMAGE` are never taken unasked; nor is `unsafe-no-sandbox`, which encloses
    nothing. Raises `ValueError` for an unknown spec, and `SandboxUnavailable`, with what would help, where it does not
    work.
    """
    name, _, rest = spec.partition(":")
    if name in remote.REMOTES:
        return remote.REMOTES[name](rest)
    if spec == UNSAFE:
        return remote.unsafe()
    if spec != "auto" and spec not in HERE:
        known = ["auto", *HERE, *(f"{each}:..." for each in remote.REMOTES), UNSAFE]
        raise ValueError(f"there is no sandbox {spec!r}; there is {', '.join(known)}")
    refused = []
    for each, opens in HERE.items():
        if spec in ("auto", each):
            try:
                return opens()
            except SandboxUnavailable as reason:
                refused.append(f"{each}: {reason}")
    raise SandboxUnavailable(
        f"no program can be run safely here. {'; '.join(refused)}. {VARIABLE} may name another sandbox (fusion:URL, "
        f"e2b:TEMPLATE, docker:IMAGE), or, if what runs here is yours and you accept it, {UNSAFE}"
    )


@functools.cache
def default() -> Sandbox:
    """The sandbox that `FORETHOUGHT_SANDBOX` names (`auto` without it), opened once a process."""
    return open_sandbox(os.environ.get(VARIABLE) or "auto")
