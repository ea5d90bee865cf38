"""Running programs that a model wrote: no network, no files of the machine, no secrets, and limits to everything.

    sandbox = open_sandbox()
    ran = sandbox.run("print(6 * 7)", b"", Limits(seconds=2))
    verdict = examine(program, Tests(("assert double(3) == 6",), ("double",)), sandbox)

docs/sandbox.md says what each way of running encloses; `forethought sandbox doctor` tries it out on this machine.
"""

from __future__ import annotations

from forethought.problems.sandbox.choose import default, open_sandbox
from forethought.problems.sandbox.exam import Case, Credit, Tests, examine, examine_text
from forethought.problems.sandbox.run import Limits, Ran, Sandbox, SandboxUnavailable

__all__ = [
    "Case",
    "Credit",
    "Limits",
    "Ran",
    "Sandbox",
    "SandboxUnavailable",
    "Tests",
    "default",
    "examine",
    "examine_text",
    "open_sandbox",
]
