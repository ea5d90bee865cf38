"""Proof problems from a file: a statement a row, and a checker for all of them.

    proofs:path=claims.jsonl,checker=z3
    proofs:path=theorems.jsonl,checker=metamath,database=set.mm
    proofs:path=theorems.jsonl,checker=repl,project=lean-project     # lake exe repl, in a jail
    proofs:path=theorems.jsonl,checker=lean                          # `lean` of the machine, in a jail
    proofs:path=theorems.jsonl,checker=kimina,url=http://lean:8000

A row is `{"statement": ..., "proof": ..., "header": ..., "question": ...}`, all but the statement optional.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from forethought.problems.files import rows
from forethought.problems.generate import Option
from forethought.problems.grading import unjudged
from forethought.problems.proofs import smt
from forethought.problems.proofs.checked import Check, Checked
from forethought.problems.proofs.lean import from_file, jailed
from forethought.problems.proofs.lean_repl import from_repl, from_server
from forethought.problems.proofs.metamath import Database
from forethought.problems.task import Split, Task, check_load
from forethought.thought.marks import code_of
from forethought.types import Problem, Trace, Verdict, user

T = TypeVar("T")

CHECKERS = {
    "z3": "Prove by claims, one SMT-LIB term a line, each following from what is asserted and the claims before it.",
    "metamath": "Give the labels of a Metamath proof, in the normal or the compressed form.",
    "lean": "Give the Lean 4 proof that stands behind `:=`.",
    "repl": "Give the Lean 4 proof that stands behind `:=`.",
    "kimina": "Give the Lean 4 proof that stands behind `:=`.",
}
"""Checker to what the question asks for."""


def _checker(text: str) -> str:
    if text not in CHECKERS:
        raise ValueError(text)
    return text


OPTIONS: dict[str, Option] = {
    "path": (Path, "the path of a .jsonl, .json or .parquet file"),
    "checker": (_checker, f"one of {', '.join(CHECKERS)}"),
    "database": (Path, "the path of a Metamath database"),
    "project": (Path, "the folder of a Lean project"),
    "url": (str, "the address of a Kimina Lean server"),
}


def task(
    spec: str,
    *,
    path: Path | None = None,
    checker: str = "z3",
    database: Path | None = None,
    project: Path | None = None,
    url: str = "",
) -> Task:
    """The problems of a file, in its order; both splits are the whole file, and `seed` changes nothing.

    Raises ValueError for a path that is no file and a checker without what it needs; `load` raises it for a row without
    a statement, and `SandboxUnavailable` where Lean has no jail.
    """
    if path is None or not path.is_file():
        raise ValueError(f"there is no file {path}" if path else "proofs needs its file: proofs:path=theorems.jsonl")
    needs = {"metamath": ("database", database), "repl": ("project", project), "kimina": ("url", url or None)}
    if checker in needs and needs[checker][1] is None:
        raise ValueError(f"checker={checker} needs {needs[checker][0]}=..., {OPTIONS[needs[checker][0]][1]}")
    checks: dict[str, Check] = {}

    def load(split: Split, *, count: int | None = None, seed: int = 0) -> list[Problem]:
        check_load(split, count)
        problems: list[Problem] = []
        for index, (where, row) in enumerate(rows(path)):
            if index == count:
                break
            statement = row.get("statement")
            if not isinstance(statement, str) or not statement.strip():
                raise ValueError(f"{where}: there is no statement; a row is {{'statement': ..., 'proof': ...}}")
            asked = row.get("question") or f"{CHECKERS[checker]} Put it into one code block.\n\n{statement}"
            meta = {name: row[name] for name in ("proof", "header") if isinstance(row.get(name), str)}
            problems.append(Problem(f"{path.name}/{index}", user(asked), statement, {**meta, "line": where}))
        if not problems:
            raise ValueError(f"{path} holds no problem")
        for header in {problem.meta.get("header", "") for problem in problems}:
            if header not in checks:
                checks[header] = _open(checker, header, database, project, url)
        return problems

    def grade(problem: Problem, trace: Trace) -> Verdict:
        if (verdict := unjudged(trace)) is not None:
            return verdict
        proof = code_of(trace.text)
        if proof is None:
            return Verdict(score=0.0, note="the thought never closed")
        header = problem.meta.get("header", "")
        if header not in checks:  # a problem that came from elsewhere than `load`
            checks[header] = _open(checker, header, database, project, url)
        return verdict_of(_loop().wait(checks[header](problem.answer, proof)), proof)

    return Task(spec, load, grade, worked=worked, finite=True)


def verdict_of(told: Checked, proof: str) -> Verdict:
    """1 for what is proved, 0 for what is refuted or ran out of time, `None` where the checker could not look.

    The note has the checker's words, for a revision.
    """
    score = {"proved": 1.0, "refuted": 0.0, "timeout": 0.0, "error": None}[told.status]
    note = "; ".join((told.status, *told.messages))[:2000]
    return Verdict(score=score, answer=proof.strip(), note=f"{told.checker} {told.version}".strip() + f": {note}")


def worked(problem: Problem) -> str:
    """The proof that came with the problem. Raises `ValueError` for one that came without."""
    if "proof" not in problem.meta:
        raise ValueError(f"{problem.id} has no proof")
    return f"```\n{problem.meta['proof'].strip()}\n```"


def _open(checker: str, header: str, database: Path | None, project: Path | None, url: str) -> Check:
    if checker == "metamath":
        assert database is not None
        read = _database(database.resolve(), database.stat().st_mtime_ns)

        async def metamath(statement: str, proof: str) -> Checked:
            return await asyncio.to_thread(lambda: read.check(read.goal(statement), proof))

        return metamath
    if checker == "z3":
        return smt.check
    if checker == "kimina":
        return from_server(url, header=header)
    if checker == "repl":
        assert project is not None
        lake = shutil.which("lake") or "lake"
        words = jailed(project, Path(lake).resolve().parents[1])
        return _loop().enter(from_repl([lake, "exe", "repl"], header=header, jail=words, cwd=project))
    lean = shutil.which("lean")
    if lean is None:
        raise ValueError("there is no `lean` on the PATH: install Lean 4 (elan), or take checker=kimina,url=...")
    return from_file([lean, "--json", "--stdin"], header=header, jail=jailed(Path(lean).resolve().parents[1]))


@functools.lru_cache(maxsize=2)
def _database(path: Path, changed: int) -> Database:
    return Database.read(path.read_text(encoding="utf-8"))


class _Loop:
    """A thread with an event loop: REPLs outlive the calls of `grade`, which knows no `await`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.open = contextlib.AsyncExitStack()
        threading.Thread(target=self.loop.run_forever, daemon=True, name="forethought-proofs").start()
        atexit.register(self.close)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def enter(self, manager: contextlib.AbstractAsyncContextManager[Check]) -> Check:
        return self.wait(self.open.enter_async_context(manager))

    def close(self) -> None:
        self.wait(self.open.aclose())


_loop: Callable[[], _Loop] = functools.cache(_Loop)
