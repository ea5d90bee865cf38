"""Lean's REPL and servers of it: the imports are paid once, then a proof costs what it costs.

The REPL (leanprover-community/repl) reads `{"cmd": ..., "env": n}` and an empty line, and answers JSON and an empty
line. It has no numbers for requests, so one asks at a time, each question has a mark that Lean repeats, and a REPL that
answers another is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp

from forethought.problems.proofs.checked import Check, Checked, Status
from forethought.problems.proofs.lean import MOST_OUTPUT, STANDARD, Source, end, judge, walls
from forethought.problems.proofs.lean_gate import Refusal


class _Died(Exception):  # noqa: N818 - it tells of an end, not of an error of ours
    """The REPL ended, or said what no REPL says."""


class _Repl:
    """One process, asked by one task at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.uses = 0
        self.env: int | None = None

    @classmethod
    async def start(cls, words: Sequence[str], cwd: str | Path | None, header: str, seconds: float) -> _Repl:
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=MOST_OUTPUT,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise _Died(f"{words[0]} does not start: {error}") from error
        repl = cls(process)
        if header:
            try:
                told = await repl.ask(header, seconds)
            except BaseException:
                await repl.close()
                raise
            if any(message.get("severity") == "error" for message in told.get("messages", [])) or "env" not in told:
                await repl.close()
                raise _Died(f"the header does not load: {json.dumps(told)[:300]}")
            repl.env = told["env"]
            repl.uses = 0
        return repl

    async def ask(self, text: str, seconds: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.uses += 1
        request: dict[str, Any] = {"cmd": text}
        if self.env is not None:
            request["env"] = self.env
        try:
            async with asyncio.timeout(seconds):
                self.process.stdin.write(json.dumps(request).encode() + b"\n\n")
                await self.process.stdin.drain()
                answer = b""
                while not answer.strip():
                    answer = await self.process.stdout.readuntil(b"\n\n")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise _Died("the REPL ended") from error
        except asyncio.LimitOverrunError as error:
            raise _Died(f"the REPL wrote more than {MOST_OUTPUT} bytes") from error
        try:
            told = json.loads(answer)
        except json.JSONDecodeError as error:
            raise _Died(f"the REPL said {answer[:100]!r}") from error
        if not isinstance(told, dict):
            raise _Died(f"the REPL said {answer[:100]!r}")
        return told

    async def prove(self, text: str, seconds: float) -> dict[str, Any]:
        mark = str(secrets.randbelow(10**17) + 10**17)  # an answer without it is to another question
        told = await self.ask(f"{text.rstrip()}\n#check ({mark} : Nat)\n", seconds)
        if "env" not in told:
            return told  # it refuses the request
        messages = told.get("messages", [])
        told["messages"] = [message for message in messages if mark not in str(message.get("data"))]
        if len(told["messages"]) == len(messages):
            raise _Died("the REPL answered another question")
        return told

    async def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        await end(self.process)


@contextlib.asynccontextmanager
async def from_repl(
    command: Sequence[str],
    *,
    header: str = "",
    jail: Sequence[str] | None,
    unsafe_no_jail: bool = False,
    cwd: str | Path | None = None,
    workers: int = 1,
    uses: int = 100,
    seconds: float = 60.0,
    start_seconds: float = 300.0,
    allowed: frozenset[str] = STANDARD,
    version: str = "",
) -> AsyncIterator[Check]:
    """A checker over `workers` REPLs (`lake exe repl`), each with `header` loaded once and renewed after `uses` proofs.

    A proof whose REPL dies is tried once more in a fresh one, and is then `error`; one that runs over `seconds` is
    `timeout`, and costs its REPL. Raises ValueError where there is no jail and `unsafe_no_jail` is not set.
    """
    words = [*walls(jail, unsafe_no_jail), *command]
    idle: list[_Repl] = []
    slots = asyncio.Semaphore(workers)

    async def once(source: Source, fresh: bool) -> dict[str, Any]:
        repl = idle.pop() if idle and not fresh else await _Repl.start(words, cwd, source.header, start_seconds)
        try:
            told = await repl.prove(source.theorem, seconds)
        except BaseException:
            await repl.close()
            raise
        if repl.uses >= uses or repl.process.returncode is not None:
            await repl.close()
        else:
            idle.append(repl)
        return told

    async def check(statement: str, proof: str) -> Checked:
        try:
            source = Source(statement, proof, header)
        except Refusal as refusal:
            return Checked("refuted", (str(refusal),), checker="lean")
        async with slots:
            try:
                try:
                    told = await once(source, fresh=False)
                except _Died:
                    told = await once(source, fresh=True)
            except _Died as died:
                return Checked("error", (str(died),), checker="lean", version=version)
            except TimeoutError:
                return Checked("timeout", (f"Lean took more than {seconds} s",), checker="lean", version=version)
        return _told(source.theorem, told, allowed, version)

    try:
        yield check
    finally:
        for repl in idle:
            await repl.close()


def _told(source: str, told: dict[str, Any], allowed: frozenset[str], version: str) -> Checked:
    if "messages" not in told and "env" not in told:
        return Checked("error", (str(told.get("message", told))[:300],), checker="lean", version=version)
    messages = list(told.get("messages", []))
    messages += [{**hole, "kind": "hasSorry", "data": ""} for hole in told.get("sorries", [])]
    found = judge(source, messages, allowed=allowed)
    return Checked(found.status, found.messages, found.axioms, "lean", version)


def from_server(
    url: str,
    *,
    header: str = "",
    api_key: str | None = None,
    seconds: float = 60.0,
    allowed: frozenset[str] = STANDARD,
    version: str = "",
) -> Check:
    """A checker that asks a Kimina Lean server (`POST /api/check`), whose REPLs are jailed where it runs.

    What cannot be reached, or answers with a fault, is `error`.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    where = urljoin(url.rstrip("/") + "/", "api/check")

    async def check(statement: str, proof: str) -> Checked:
        try:
            source = Source(statement, proof, header).text
        except Refusal as refusal:
            return Checked("refuted", (str(refusal),), checker="lean")
        body = {"snippets": [{"id": "0", "code": source}], "timeout": round(seconds)}
        limit = aiohttp.ClientTimeout(total=seconds + 30)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, headers=headers) as session,
                session.post(where, json=body) as answer,
            ):
                answer.raise_for_status()
                (result,) = (await answer.json(content_type=None))["results"]
        except TimeoutError:
            return Checked("timeout", (f"{url} did not answer in {seconds + 30} s",), checker="lean", version=version)
        except (aiohttp.ClientError, KeyError, TypeError, ValueError) as error:
            return Checked("error", (f"{url}: {type(error).__name__}: {error}",), checker="lean", version=version)
        if fault := result.get("error"):
            status: Status = "timeout" if "timed out" in str(fault) else "error"
            return Checked(status, (str(fault)[:300],), checker="lean", version=version)
        return _told(source, result.get("response") or {}, allowed, version)

    return check
