"""Problems whose answers are programs: HumanEval, MBPP, and files of your own, from a path that you give.

    humaneval:path=data/HumanEval.jsonl.gz
    mbpp:path=data/sanitized-mbpp.json,shown=3
    code:path=mine.jsonl,credit=share

A row of your own is `{"question": ..., "tests": [...]}`: tests of a program are `{"stdin": ..., "stdout": ...}`, those
of a function, which the row names (`"function": "double"`), `{"args": [...], "expected": ...}` in JSON.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from forethought.problems.files import rows
from forethought.problems.generate import Option, whole
from forethought.problems.grading import unjudged
from forethought.problems.sandbox import Case, Credit, Limits, Sandbox, Tests, default, examine, examine_text
from forethought.problems.sandbox.calls import plain
from forethought.problems.sandbox.run import PLAIN
from forethought.problems.task import Split, Task, check_load
from forethought.thought.marks import blocks, code_of
from forethought.types import Messages, Problem, Step, Trace, Verdict, user

SUFFIXES = (".jsonl", ".json", ".gz", ".parquet")
REQUEST = "Answer with the whole program in one Python code block."


def _credit(text: str) -> Credit:
    if text not in ("all", "share"):
        raise ValueError(text)
    return text  # type: ignore[return-value]  # mypy narrows no `in`


OPTIONS: dict[str, Option] = {
    "path": (Path, f"the path of a {', '.join(SUFFIXES)} file"),
    "credit": (_credit, "all (1 where every test passes) or share (the share that does)"),
    "seconds": whole(1, 600),
    "shown": whole(0, 100),
}
PATIENT = Limits(seconds=10)
"""The slowest reference program of MBPP takes 3 seconds of an idle processor for one call."""


def task(spec: str, *, path: Path | None = None, credit: Credit = "all", seconds: int = 10, shown: int = 1) -> Task:
    """The problems of a file, in its order; both splits are the whole file, and `seed` changes nothing.

    `credit` is what some tests passed are worth; `seconds` is the limit of each run; `shown` says how many of MBPP's
    tests stand in the question (its paper shows 3; what is not shown cannot be coded to). `meta` has the line, the
    functions by name, and the reference program where the row has one. Raises `ValueError` for a path that is no file;
    `load` raises it for a row that is not what the task wants, and `SandboxUnavailable` where nothing could be graded.
    """
    name = spec.partition(":")[0]
    if path is None:
        raise ValueError(f"{name} needs the path of its file, e.g. {name}:path=data/{name}.jsonl")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no {', '.join(SUFFIXES)} file")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    readers: dict[str, Callable[[str, str, dict[str, Any]], Problem]]
    readers = {"humaneval": _humaneval, "mbpp": partial(_mbpp, shown=shown), "code": _own}
    read = readers[name]

    def load(split: Split, *, count: int | None = None, seed: int = 0) -> list[Problem]:
        check_load(split, count)
        default()
        problems = []
        for index, (where, row) in enumerate(rows(path)):
            if index == count:
                break
            try:
                problems.append(read(f"{path.name}/{index}", where, row))
            except (KeyError, TypeError, SyntaxError, ValueError) as error:
                raise ValueError(f"{where}: not a problem of {name}: {_reason(error)}") from error
        if not problems:
            raise ValueError(f"{path} holds no problem")
        return problems

    return Task(spec, load, partial(grade, credit=credit, limits=Limits(seconds=seconds)), worked=worked, finite=True)


def grade(problem: Problem, trace: Trace, *, credit: Credit = "all", limits: Limits = PATIENT) -> Verdict:
    """Run the program in the trace against the problem's tests; `sandbox.examine` says what the verdict holds."""
    if (verdict := unjudged(trace)) is not None:
        return verdict
    program = program_of(trace.text, problem.meta.get("prompt", ""), problem.meta["functions"])
    if program is None:
        return Verdict(score=0.0, note="the thought never closed")
    wanted = json.loads(problem.answer)
    if "cases" in wanted:
        cases = [Case(**case) for case in wanted["cases"]]
        verdict = examine_text(program, cases, default(), limits=limits, credit=credit)
    else:
        tests = Tests(tuple(wanted["units"]), tuple(wanted["remote"]), wanted["setup"])
        verdict = examine(program, tests, default(), limits=limits, credit=credit)
    return replace(verdict, answer=program.strip())


def program_of(text: str, prompt: str = "", functions: Sequence[str] = ()) -> str | None:
    """The program that a text answers with: its last code block after the thought, or all that stands there.

    `prompt` is the beginning of a program (HumanEval's): it goes before one that does not define the last of
    `functions`, which is then its continuation, and also before one that does, for what the prompt imports and
    defines. `None` where a thought never closed.
    """
    code = code_of(text)
    if code is None:
        return None
    defined = functions and re.search(rf"^(?:async )?def {re.escape(functions[-1])}\b", code, re.MULTILINE)
    return f"{prompt}\n{code}" if defined and prompt else prompt + code


def worked(problem: Problem) -> str:
    """The reference program as an answer. Raises `ValueError` for a problem that came without one."""
    if "solution" not in problem.meta:
        raise ValueError(f"{problem.id} has no reference program")
    return f"```python\n{problem.meta['solution'].strip()}\n```"


async def run_shown(
    messages: Messages, steps: Sequence[Step], *, limits: Limits = PLAIN, sandbox: Callable[[], Sandbox] = default
) -> Verdict:
    """A verify: run the program against what the question itself shows, `>>> f(2)` with its value, and `assert` lines.

    It sees no hidden test, so it may judge at test time; its note has the interpreter's words for a revision
    (`search.revise.feedback`). `score` is the share of those examples that hold; with none it is 0 where the program
    does not even start, and `None` where it does.
    """
    asked = messages[-1]["content"]
    prompts = blocks(asked)
    program = program_of("".join(step.text for step in steps), prompts[0] if prompts else "", _defined(asked))
    if program is None:
        return Verdict(score=0.0, note="the thought never closed")
    units = _examples(asked)
    calls = [node.func for node in ast.walk(ast.parse("\n".join(units))) if isinstance(node, ast.Call)]
    called = [function.id for function in calls if isinstance(function, ast.Name)]
    if names := tuple(name for name in dict.fromkeys(called) if not hasattr(builtins, name)):
        tests = Tests(tuple(units), names)
        return await asyncio.to_thread(examine, program, tests, sandbox(), limits=limits, credit="share")
    ran = await sandbox().start(program, b"", limits)
    return Verdict(score=0.0 if ran.complaint and ran.status != "lost" else None, note=ran.complaint)


def _humaneval(name: str, where: str, row: dict[str, Any]) -> Problem:
    function, prompt = row["entry_point"], row["prompt"]
    tree = ast.parse(row["test"])
    check = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is None:
        raise ValueError("'test' has no function check(candidate)")
    setup = "\n".join(ast.unparse(node) for node in tree.body if node is not check)
    tests = {"units": [ast.unparse(node) for node in check.body], "remote": [function], "setup": f"{prompt}\n{setup}"}
    meta = {"line": where, "functions": [function], "prompt": prompt}
    if "canonical_solution" in row:
        meta["solution"] = prompt + row["canonical_solution"]
    asked = f"Complete this function.\n\n```python\n{prompt.strip()}\n```\n\n{REQUEST}"
    return Problem(name, user(asked), json.dumps(tests), meta)


def _mbpp(name: str, where: str, row: dict[str, Any], *, shown: int) -> Problem:
    asked = row["prompt"] if "prompt" in row else row["text"]
    tests: list[str] = row["test_list"]
    # Written to run in one module: tests and programs lean on one another's imports.
    imports = [node for node in ast.parse(row["code"]).body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = [*row.get("test_imports", ()), row.get("test_setup_code", ""), *map(ast.unparse, imports)]
    setup = "\n".join(filter(None, lines))
    made = _defined(row["code"])
    used = [node.id for node in ast.walk(ast.parse("\n".join(tests))) if isinstance(node, ast.Name)]
    remote = [each for each in dict.fromkeys(used) if each in made]
    if not remote:
        raise ValueError("its tests name nothing that its code defines")
    question = "\n".join([asked, *(["\nIt must pass:", "```python", *tests[:shown], "```"] if shown else []), ""])
    meta = {"line": where, "functions": remote, "solution": row["code"], "prompt": f"{setup}\n" if setup else ""}
    return Problem(
        name,
        user(f"{question}\n{REQUEST}"),
        json.dumps({"units": tests, "remote": remote, "setup": setup}),
        meta,
    )


def _own(name: str, where: str, row: dict[str, Any]) -> Problem:
    tests, function = row["tests"], row.get("function")
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"'tests' is {tests!r:.80}; it must be a list with at least one test")
    meta: dict[str, Any] = {"line": where, "functions": [function] if function else []}
    if "solution" in row:
        meta["solution"] = row["solution"]
    if function is None:
        wanted: dict[str, Any] = {"cases": [{"stdin": test["stdin"], "stdout": test["stdout"]} for test in tests]}
        asked = "It reads standard input and prints to standard output."
    elif isinstance(function, str) and function.isidentifier():
        units = [f"assert plain({function}(*{test['args']!r})) == {plain(test['expected'])!r}" for test in tests]
        wanted = {"units": units, "remote": [function], "setup": "from math import inf, nan"}
        asked = f"The function is called {function}."
    else:
        raise ValueError(f"'function' is {function!r}; it must be a function's name")
    return Problem(name, user(f"{row['question']}\n\n{asked} {REQUEST}"), json.dumps(wanted), meta)


def _defined(source: str) -> list[str]:
    return re.findall(r"^(?:async )?(?:def|class) (\w+)", source, re.MULTILINE)


def _examples(text: str) -> list[str]:
    """What a question shows, as assertions: `>>>` lines with a literal for a value, and lines that assert."""
    found = []
    for source, wanted in re.findall(r"^[ \t]*>>> (.+)\n[ \t]*(.+)$", text, re.MULTILINE):
        try:
            ast.literal_eval(wanted.strip())
            ast.parse(source, mode="eval")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        found.append(f"assert {source} == {wanted.strip()}")
    for line in re.findall(r"^[ \t]*(assert .+)$", text, re.MULTILINE):
        try:
            ast.parse(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        found.append(line)
    return found


def _reason(error: Exception) -> str:
    return f"there is no column {error}" if isinstance(error, KeyError) else str(error)
