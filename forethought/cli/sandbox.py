"""`forethought sandbox doctor`: does the jail hold on this machine? Attacks it, and says what got through."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from forethought.cli.terminal import rows, say, tell, unknown
from forethought.problems.sandbox.attacks import attack, escaped
from forethought.problems.sandbox.choose import default, open_sandbox
from forethought.problems.sandbox.run import SandboxUnavailable
from forethought.scaling.words import counted

USAGE = """usage: forethought sandbox doctor [--json] [--sandbox NAME]

  doctor    attack the sandbox that programs would run in here; exit 1 where something gets through
"""


@dataclass(frozen=True)
class Doctor:
    """Attack the sandbox that programs would run in here, and say what it encloses."""

    sandbox: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: what would be used)")
    ] = None
    """Of which sandbox: auto, or as FORETHOUGHT_SANDBOX has it."""
    json: bool = False
    """Print one JSON object."""


def sandbox(words: list[str]) -> int:
    """Do what the first word says; 1 where an attack got through."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if words[0] != "doctor":
        raise unknown("sandbox command", words[0], ("doctor",))
    options = tyro.cli(Doctor, prog="forethought sandbox doctor", args=words[1:])
    try:
        examined = default() if options.sandbox is None else open_sandbox(options.sandbox)
    except SandboxUnavailable as reason:
        say(json.dumps({"sandbox": None, "holds": False, "why": str(reason)}) if options.json else str(reason))
        return 1
    tell(f"{examined.name}: attacking it")
    try:
        results = attack(examined.run, examined.workers)
    finally:
        examined.close()
    through = [each.name for each, ran in results if escaped(ran)]
    guards: dict[str, list[str]] = {}
    for each, ran in results:
        guards.setdefault(each.guard, []).extend([each.name] if escaped(ran) else [])
    if options.json:
        report = {"sandbox": examined.name, "holds": not through, "attacks": len(results), "through": guards}
        report |= {"together": examined.together} if examined.together else {}
        say(json.dumps(report))
    else:
        lines = [(guard, ", ".join(names) or "holds") for guard, names in guards.items()]
        say(rows(("guard", "what got through"), lines))
        said = f"{counted(len(through), 'attack')} of {len(results)} got through" if through else "every attack failed"
        if examined.together:
            say(f"\nmemory and processes of a program together: {examined.together}")
        say(f"\n{examined.name}: {said}")
    return 1 if through else 0
