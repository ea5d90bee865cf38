"""Lean 4: what is put before it, what its messages mean, and the ways to ask it: a file, a REPL, a server.

A statement is `theorem NAME ... :=` and nothing behind it; the proof is put there, behind a gate (`lean_gate`), and
below it stands the question which axioms the theorem rests on. Lean's answer counts only at that line: a proof can
print what it likes. Lean elaborates programs, so it runs in a jail or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forethought.problems.proofs.checked import Check, Checked
from forethought.problems.proofs.lean_gate import Refusal, inspect
from forethought.problems.sandbox import SandboxUnavailable
from forethought.problems.sandbox.jail import PATH, missing, step_down

STANDARD = frozenset({"propext", "Quot.sound", "Classical.choice"})
"""The axioms of ordinary Lean mathematics; what rests on others is not proved."""
MOST_OUTPUT = 8 << 20
"""Bytes of messages that are read."""

_NAME = re.compile(r"\A\s*(?:theorem|lemma)\s+([^\s:({\[⦃]+)")
_AXIOMS = re.compile(r"depends on axioms: \[([^\]]*)\]")


class Source:
    """One theorem with a proof, as Lean is to see it. Raises ValueError for a statement that is none, and `Refusal`."""

    def __init__(self, statement: str, proof: str, header: str = "") -> None:
        named = _NAME.match(statement)
        if named is None or not statement.rstrip().endswith(":="):
            raise ValueError(f"a statement is 'theorem NAME ... :=', and this is not: {statement[:80]!r}")
        inspect(proof)
        if not proof.strip():
            raise Refusal("the proof is empty")
        self.name = named[1]
        self.header = header.strip()
        body = "\n".join(
            f"  {line}" for line in proof.strip("\n").split("\n")
        )  # nothing at the margin, where commands begin
        self.theorem = f"{statement.rstrip()}\n{body}\n\n#print axioms {self.name}\n"
        self.text = f"{self.header}\n\n{self.theorem}" if self.header else self.theorem


def judge(
    source: str, messages: Sequence[dict[str, Any]], *, allowed: frozenset[str], axioms_told: bool = True
) -> Checked:
    """What Lean's messages about `source` (whose last line asks for the axioms) say of the proof.

    `axioms_told=False` is for builds that refuse `#print axioms`: there the gate alone keeps axioms out.
    """
    asked = source.rstrip("\n").count("\n") + 1
    errors: list[str] = []
    axioms: tuple[str, ...] | None = None
    for message in messages:
        said, line = str(message.get("data", "")), (message.get("pos") or {}).get("line")
        if line == asked:
            if (found := _AXIOMS.search(said)) is not None:
                # What was told is only added to: a program that prints messages of its own erases none of Lean's.
                axioms = (axioms or ()) + tuple(name.strip() for name in found[1].split(",") if name.strip())
            elif "does not depend on any axioms" in said:
                axioms = axioms or ()
            elif message.get("severity") == "error" and axioms_told:
                errors.append(said)
        elif message.get("severity") == "error":
            errors.append(f"line {line}: {said}")
        elif message.get("kind") == "hasSorry" or ("declaration uses" in said and "sorry" in said):
            errors.append(f"line {line}: the proof leaves a hole")
    if errors:
        return Checked("refuted", tuple(errors), axioms or (), checker="lean")
    if axioms is None and axioms_told:
        return Checked("error", ("Lean did not say which axioms the proof rests on",), checker="lean")
    if foreign := sorted(set(axioms or ()) - allowed):
        return Checked("refuted", (f"it rests on {', '.join(foreign)}",), axioms or (), checker="lean")
    return Checked("proved", axioms=axioms or (), checker="lean")


def jailed(*folders: str | Path, memory: int = 8 << 30, seconds: float = 300.0) -> list[str]:
    """What goes before Lean's command: the machine's libraries and these folders, read-only, no network, no secrets.

    `memory` in bytes of address space, `seconds` of processor time. Raises `SandboxUnavailable` where bubblewrap is
    missing.
    """
    if problem := missing():
        raise SandboxUnavailable(problem)
    words = [*step_down(), "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    words += ["--setenv", "PATH", PATH, "--setenv", "LANG", "C.UTF-8", "--setenv", "HOME", "/tmp"]
    words += [
        "--ro-bind",
        "/usr",
        "/usr",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--size",
        str(256 << 20),
        "--tmpfs",
        "/tmp",
    ]
    for link in ("/lib", "/lib64", "/bin", "/sbin"):
        words += ["--symlink", f"usr{link}", link] if os.path.islink(link) else ["--ro-bind-try", link, link]
    for folder in folders:
        path = str(Path(folder).resolve(strict=True))
        words += ["--ro-bind", path, path]
    words += [
        "--",
        "prlimit",
        f"--as={memory}",
        f"--cpu={round(seconds)}",
        "--nproc=256",
        "--core=0",
        "--fsize=67108864",
    ]
    return words


def from_file(
    command: Sequence[str],
    *,
    header: str = "",
    jail: Sequence[str] | None,
    unsafe_no_jail: bool = False,
    cwd: str | Path | None = None,
    seconds: float = 120.0,
    allowed: frozenset[str] = STANDARD,
    axioms_told: bool = True,
    version: str = "",
) -> Check:
    """A checker that runs `command` (`lean --json --stdin`, `lake env lean --json --stdin`) on each source.

    `jail` is `jailed(...)`. Raises ValueError where there is none and `unsafe_no_jail` does not say that Lean's
    programs may do here what they like.
    """
    words = [*walls(jail, unsafe_no_jail), *command]

    async def check(statement: str, proof: str) -> Checked:
        try:
            source = Source(statement, proof, header).text
        except Refusal as refusal:
            return Checked("refuted", (str(refusal),), checker="lean")
        try:
            out, code = await _once(words, source, cwd, seconds)
        except TimeoutError:
            return Checked("timeout", (f"Lean took more than {seconds} s",), checker="lean", version=version)
        except OverflowError:
            return Checked("error", (f"Lean wrote more than {MOST_OUTPUT} bytes",), checker="lean", version=version)
        messages = [found for line in out.splitlines() if (found := _message(line)) is not None]
        if code != 0 and not any(message.get("severity") == "error" for message in messages):
            last = out.strip()[-300:]
            return Checked("error", (f"Lean ended with status {code}: {last}",), checker="lean", version=version)
        told = judge(source, messages, allowed=allowed, axioms_told=axioms_told)
        return Checked(told.status, told.messages, told.axioms, "lean", version)

    return check


def walls(jail: Sequence[str] | None, unsafe_no_jail: bool) -> list[str]:
    """What goes before Lean's command. Raises ValueError where nothing does, and nobody said that this is meant."""
    if jail is None and not unsafe_no_jail:
        raise ValueError("Lean runs what a proof elaborates: give jail=jailed(FOLDERS), or set unsafe_no_jail=True")
    return list(jail or ())


async def _once(words: Sequence[str], text: str, cwd: str | Path | None, seconds: float) -> tuple[str, int]:
    """Standard output and status of a command that is fed `text`; what it leaves running is killed with it."""
    with tempfile.TemporaryFile() as given:
        given.write(text.encode())
        given.seek(0)
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )
    assert process.stdout is not None
    said = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while piece := await process.stdout.read(1 << 16):
                said += piece
                if len(said) > MOST_OUTPUT:
                    raise OverflowError
            code = await process.wait()
    finally:
        await end(process)
    return said.decode(errors="replace"), code


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill it and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _message(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None  # builds that print more than messages
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and "severity" in found else None
