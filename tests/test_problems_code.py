"""Problems whose answers are programs: what passes, what fails and why, and what no program can talk itself into."""

from __future__ import annotations

import ast
import asyncio
import gzip
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jails import needs_jail

from forethought.engines.scripted import Scripted
from forethought.problems import Task, open_task
from forethought.problems.code import program_of, run_shown
from forethought.problems.sandbox import Case, Limits, Sandbox, Tests, bwrap, examine, examine_text
from forethought.problems.sandbox.run import Ran
from forethought.rollout import collect
from forethought.types import Problem, Step, Trace, Verdict, user

SQUARES = Tests(
    (
        "import math",
        "for n in range(20):\n    assert candidate(n) == n * n",
        "assert True, 'asks nothing'",
        "assert candidate(candidate(2)) == 16",
        "x = candidate(3)",
        "assert x == 9",
        "assert math.fabs(candidate(2) - 4) < 1e-6",
    ),
    ("square",),
)
EVAL: dict[str, Any] = {
    "task_id": "x/0",
    "entry_point": "triple",
    "prompt": 'import math\n\ndef triple(x: int) -> int:\n    """Three times x.\n    >>> triple(2)\n    6\n    """\n',
    "canonical_solution": "    return 3 * x\n",
    "test": "def check(candidate):\n    assert candidate(1) == 3\n    assert candidate(math.floor(2.5)) == 6\n",
}
BASIC: dict[str, Any] = {
    "task_id": 1,
    "prompt": "Write a function that pairs.",
    "code": "import collections\nclass Pair:\n    def __init__(s, a): s.a = a\ndef first(p): return p.a\n",
    "test_imports": [],
    "test_list": ["assert first(Pair(3)) == 3", "assert first(Pair('a')) == collections.deque('a')[0]"],
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    servers = bwrap.Pool(2)
    yield Sandbox("test", servers.run, 2, servers.close)
    servers.close()


@pytest.fixture(autouse=True)
def graded_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grades ask `default()`: it is the test's own pool."""
    monkeypatch.setattr("forethought.problems.code.default", lambda: request.getfixturevalue("sandbox"))


def said(text: str, problem: Problem | None = None) -> Trace:
    return Trace(problem.id if problem else "p", problem.messages if problem else user("?"), (Step(text),), "test@0")


def write(path: Path, *rows: dict[str, Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def graded(task: Task, text: str) -> Verdict:
    problem = task.load("test")[0]
    return task.grade(problem, said(text, problem))


@needs_jail
def test_each_assertion_that_asks_something_is_a_part(sandbox: Sandbox) -> None:
    verdict = examine("def square(x): return x * x", SQUARES, sandbox)
    assert verdict == Verdict(1.0, note="4 of 4 tests passed", parts={f"test {n}": 1.0 for n in (1, 2, 3, 4)})
    verdict = examine("def square(x): return x * x if x < 4 else 0", SQUARES, sandbox)
    assert (verdict.score, list(verdict.parts.values())) == (0.0, [0.0, 0.0, 1.0, 1.0])
    assert verdict.note == "2 of 4 tests passed; test 1: got 0"
    assert examine("def square(x): return x * x if x < 4 else 0", SQUARES, sandbox, credit="share").score == 0.5


@needs_jail
@pytest.mark.parametrize(
    ("program", "note"),
    [
        ("def square(x):\n    return x / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def square(x): return undefined", "NameError: name 'undefined' is not defined"),
        ("def square(:", "invalid syntax (answer.py, line 1)"),
        ("import nosuch", "ModuleNotFoundError: No module named 'nosuch'"),
        ("x = 1", "the program has no square"),
        ("def square(x): return [x] * x", "got []"),
    ],
)
def test_the_note_has_the_interpreters_words(sandbox: Sandbox, program: str, note: str) -> None:
    verdict = examine(program, SQUARES, sandbox)
    assert verdict.score == 0.0
    assert note in verdict.note


CHEATS = {
    "exit status 0": "import os; os._exit(0)",
    "exit in the call": ("import os\ndef square(x): os._exit(0)"),
    "equal to everything": (
        "class A(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef square(x): return A(7)"
    ),
    "true for everything": (
        "class A:\n    def __eq__(s, o): return True\n    def __bool__(s): return True\ndef square(x): return A()"
    ),
    "patched builtins": (
        "import builtins\nbuiltins.AssertionError = None\nbuiltins.all = lambda x: True\ndef square(x): return 7"
    ),
    "printed verdicts": ('print(\'{"calls": [], "results": [["passed", "", true]]}\')\ndef square(x): return 7'),
    "forged lines": (
        "import os\n"
        "for fd in range(1, 9):\n"
        '    try: os.write(fd, b\'0 ["value", 1]\\n1 passed\\nprogram ["value", 1]\\n\')\n'
        "    except OSError: pass\n"
        "def square(x): return 7"
    ),
    "the caller's frames": (
        "import sys\n"
        "def square(x):\n"
        "    f = sys._getframe()\n"
        "    while f: f.f_locals.clear() if f.f_back else None; f = f.f_back\n"
        "    return 7"
    ),
    "the harness in memory": (
        "import gc\n"
        "for o in gc.get_objects():\n"
        "    if isinstance(o, dict) and 'units' in o: raise SystemExit('found the tests')\n"
        "def square(x): return 7"
    ),
    "expected exceptions": "def square(x): raise AssertionError",
    "an exception of ours": ("def square(x):\n    class Later(BaseException): pass\n    raise Later"),
    "depth": ("def square(x):\n    v = []\n    for _ in range(100000): v = [v]\n    return v"),
    "a shape that means something": "def square(x): return {'call': ['square', [1], {}]}",
    "swallowed": (
        "import signal\n"
        "signal.setitimer = lambda *a: None\n"
        "def square(x):\n"
        "    while True:\n"
        "        try: pass\n"
        "        except BaseException: pass"
    ),
}


@needs_jail
@pytest.mark.parametrize("program", CHEATS.values(), ids=CHEATS)
def test_no_program_talks_itself_into_a_pass(sandbox: Sandbox, program: str) -> None:
    verdict = examine(program, SQUARES, sandbox, limits=Limits(seconds=1))
    assert (verdict.score, set(verdict.parts.values())) == (0.0, {0.0}), verdict


@needs_jail
def test_a_hang_in_one_call_leaves_the_others_their_credit(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.problems.sandbox.run.PATIENCE", 100)  # processor time shall end it
    tests = Tests(("assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3"), ("f",))
    program = "def f(x):\n    while x == 2: pass\n    return x"
    verdict = examine(program, tests, sandbox, limits=Limits(seconds=1))
    assert list(verdict.parts.values()) == [1.0, 0.0, 1.0]
    assert "TimeoutError" in verdict.note


@needs_jail
@pytest.mark.parametrize(
    "value",
    [
        "None",
        "-0.0",
        "float('inf')",
        "10 ** 30",
        "'é'",
        "(1, [2, {3}], {4: (5,)})",
        "b'x'",
        "1j",
        "range(3)",
        "{1: None}",
    ],
)
def test_values_cross_as_they_are(sandbox: Sandbox, value: str) -> None:
    tests = Tests((f"assert repr(candidate({value})) == repr({value})",), ("f",))
    assert examine("def f(x): return x", tests, sandbox).score == 1.0
    assert examine("def f(x): return [x]", tests, sandbox).score == 0.0


@needs_jail
def test_iterators_cross_as_their_items_and_other_objects_as_their_truth(sandbox: Sandbox) -> None:
    tests = Tests(("assert list(f(3)) == [0, 1, 2]", "assert g('a1')", "assert not (g('a1') == True)"), ("f", "g"))
    program = "import re\ndef f(n): yield from range(n)\ndef g(s): return re.match('a', s)"
    assert examine(program, tests, sandbox).score == 1.0


@needs_jail
def test_tests_that_do_not_run_judge_nobody(sandbox: Sandbox) -> None:
    for units in (("assert candidate(undefined) == 1",), ("assert True",)):
        assert examine("def f(x): return 1", Tests(units, ("f",)), sandbox).score in (None, 0.0)
    broken = Tests(("assert candidate(1) == 1",), ("f",), setup="import nosuch")
    verdict = examine("def f(x): return 1", broken, sandbox)
    assert verdict.score is None
    assert verdict.note == "the tests do not run: ModuleNotFoundError: No module named 'nosuch'"
    assert examine("def f(x): return 1", Tests(("assert True",), ("f",)), sandbox).score is None
    with pytest.raises(ValueError, match="at least one"):
        Tests((), ("f",))


@needs_jail
def test_text_is_compared_outside(sandbox: Sandbox) -> None:
    cases = [Case("1 2\n", "3\n"), Case("4 5\n", "9")]
    assert examine_text("print(sum(map(int, input().split())), ' ')", cases, sandbox).score == 1.0
    verdict = examine_text("print(3)", cases, sandbox)
    assert (verdict.score, verdict.parts) == (0.0, {"test 1": 1.0, "test 2": 0.0})
    assert verdict.note == "1 of 2 tests passed; test 2: printed '3\\n'"
    assert "ZeroDivisionError" in examine_text("1/0", cases, sandbox).note
    assert examine_text("print(3)\nraise SystemExit(1)", cases[:1], sandbox).score == 0.0


def test_a_run_that_was_lost_is_judged_by_nobody() -> None:
    lost = Sandbox("dead", lambda *_: Ran("lost", None, b"", b"", 0.0, "the sandbox died"), 1)
    assert examine("def f(x): return x", SQUARES, lost) == Verdict(None, note="the sandbox died")
    assert examine_text("print(1)", [Case("", "1")], lost) == Verdict(None, note="the sandbox died")


@needs_jail
def test_a_rollout_goes_on_where_a_sandbox_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = open_task(f"humaneval:path={write(tmp_path / 'a.jsonl', EVAL)}")
    (problem,) = task.load("test")
    problems = [replace(problem, id=str(n)) for n in range(3)]
    lost = Sandbox("dead", lambda *_: Ran("lost", None, b"", b"", 0.0, "the sandbox died"), 1)
    monkeypatch.setattr("forethought.problems.code.default", lambda: lost)
    groups = collect(problems, Scripted(lambda *_: "    return 3 * x\n"), grade=task.grade)
    verdicts = [trace.verdicts["grade"] for group in groups for trace in group]
    assert len(verdicts) >= 3
    assert {(verdict.score, verdict.note) for verdict in verdicts} == {(None, "the sandbox died")}


@needs_jail
def test_humaneval_rows_are_problems(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.gz"):
        task = open_task(f"humaneval:path={write(tmp_path / name, EVAL, EVAL)}")
        problems = task.load("train")
        assert [problem.id for problem in problems] == [f"{name}/0", f"{name}/1"]
        assert "def triple" in problems[0].messages[0]["content"]
        assert len(task.load("test", count=1)) == 1
    assert task.worked is not None
    assert graded(task, task.worked(problems[0])).score == 1.0
    assert graded(task, "    return x * 3").score == 1.0
    assert graded(task, "<think>hm</think>\n```python\ndef triple(x):\n    return math.prod([3, x])\n```").score == 1.0
    wrong = graded(task, "```python\ndef triple(x): return 3\n```")
    assert (wrong.score, wrong.parts) == (0.0, {"test 1": 1.0, "test 2": 0.0})
    assert graded(task, "<think>```python\n    return 3 * x\n```").note == "the thought never closed"
    fault = Trace("p", user("?"), (Step("lost", stop="error", sampled=False),), "test@0")
    assert task.grade(problems[0], fault).score is None


@needs_jail
def test_mbpp_rows_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([BASIC]))
    task = open_task(f"mbpp:path={path}")
    (problem,) = task.load("test")
    assert BASIC["test_list"][0] in problem.messages[0]["content"]
    assert BASIC["test_list"][1] not in problem.messages[0]["content"]
    assert "\nassert" not in open_task(f"mbpp:path={path},shown=0").load("test")[0].messages[0]["content"]
    assert task.worked is not None
    assert graded(task, task.worked(problem)).score == 1.0
    assert graded(task, BASIC["code"].replace("p.a", "1")).parts == {"test 1": 0.0, "test 2": 0.0}


@needs_jail
def test_rows_of_your_own_are_problems(tmp_path: Path) -> None:
    function = {"question": "Halve.", "function": "half", "tests": [{"args": [[1, 2]], "expected": [0.5, 1]}]}
    program = {"question": "Echo.", "tests": [{"stdin": "a", "stdout": "a"}], "solution": "print(input())"}
    task = open_task(f"code:path={write(tmp_path / 'a.jsonl', function, program)},credit=share")
    halves, echo = task.load("test")
    assert task.grade(halves, said("def half(x): return tuple(n / 2 for n in x)")).score == 1.0
    assert task.grade(halves, said("def half(x): return [n / 3 for n in x]")).score == 0.0
    assert task.worked is not None
    assert task.grade(echo, said(task.worked(echo))).score == 1.0
    with pytest.raises(ValueError, match="no reference program"):
        task.worked(halves)


@needs_jail
@pytest.mark.parametrize(
    ("spec", "rows", "named"),
    [
        ("humaneval", [{**EVAL, "test": "x = 1"}], r"a\.jsonl:1: not a problem of humaneval: .*check\(candidate\)"),
        ("humaneval", [EVAL, {"prompt": "x"}], r"a\.jsonl:2: .*there is no column 'entry_point'"),
        ("humaneval", [{**EVAL, "test": "def check(:"}], "invalid syntax"),
        ("mbpp", [{**BASIC, "test_list": ["assert 1 == 1"]}], "name nothing that its code defines"),
        ("code", [{"question": "x", "tests": []}], "at least one test"),
        ("code", [{"question": "x", "function": "a b", "tests": [1]}], "'function' is 'a b'"),
        ("code", [], "holds no problem"),
    ],
)
def test_a_row_that_is_no_problem_is_refused_where_it_is(
    tmp_path: Path, spec: str, rows: list[dict[str, Any]], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        open_task(f"{spec}:path={write(tmp_path / 'a.jsonl', *rows)}").load("test")


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("humaneval", "humaneval needs the path of its file"),
        ("mbpp:path=gone.json", "there is no file gone.json"),
        ("code:path=a.csv", "a.csv is no .jsonl"),
        ("humaneval:path=a.jsonl,credit=half", "option credit is 'half'; it must be all"),
        ("humaneval:paths=a", "humaneval has no option 'paths'"),
    ],
)
def test_a_spec_that_names_no_file_is_refused(spec: str, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        open_task(spec)


def test_which_program_an_answer_holds() -> None:
    assert program_of("```python\na\n```\nor\n```\nb = 1\n```\n") == "b = 1\n"
    assert program_of("```python\nnever closed") == "never closed"
    assert program_of("<think>```\nx\n```</think>plain") == "plain"
    assert program_of("def f(): pass", "import os\n", ["f"]) == "import os\n\ndef f(): pass"
    assert program_of("    return 1", "def f():\n", ["f"]) == "def f():\n    return 1"


@needs_jail
def test_what_a_question_shows_judges_without_hidden_tests(sandbox: Sandbox) -> None:
    asked = user("Double it.\n\n```python\ndef f(x):\n    '''\n    >>> f(2)\n    4\n    '''\n```\nassert f(3) == 6")

    def shown(text: str) -> Verdict:
        return asyncio.run(run_shown(asked, [Step(text)], sandbox=lambda: sandbox))

    assert shown("```python\ndef f(x): return 2 * x\n```").score == 1.0
    assert shown("```python\ndef f(x): return x + 2\n```").note == "1 of 2 tests passed; test 2: got 5"
    assert "IndexError" in shown("    return [][x]").note
    bare = asyncio.run(run_shown(user("Print."), [Step("1/0")], sandbox=lambda: sandbox))
    assert (bare.score, bare.note) == (0.0, "ZeroDivisionError: division by zero")
    assert asyncio.run(run_shown(user("Print."), [Step("print(1)")], sandbox=lambda: sandbox)).score is None


def one_wrong_token(answer: str, function: str) -> str:
    """The same program, but the function yields where it first returned: whoever calls it gets a generator."""
    program = program_of(answer)
    assert program is not None
    (body,) = [node for node in ast.parse(program).body if isinstance(node, ast.FunctionDef) and node.name == function]
    inner = {
        id(node)
        for each in ast.walk(body)
        if isinstance(each, ast.FunctionDef) and each is not body
        for node in ast.walk(each)
    }
    first = next(node for node in ast.walk(body) if isinstance(node, ast.Return) and id(node) not in inner)
    lines = program.splitlines(keepends=True)
    line = lines[first.lineno - 1].encode()
    lines[first.lineno - 1] = (line[: first.col_offset] + b"yield" + line[first.col_offset + 6 :]).decode()
    return "".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_jail
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_reference_programs_pass_and_their_damaged_copies_fail(name: str, sandbox: Sandbox) -> None:
    """`FORETHOUGHT_HUMANEVAL=…/HumanEval.jsonl.gz FORETHOUGHT_MBPP=…/sanitized-mbpp.json pytest -m slow`."""
    path = os.environ.get(f"FORETHOUGHT_{name.upper()}")
    if not path:
        pytest.skip(f"FORETHOUGHT_{name.upper()} names no file of {name}")
    task = open_task(f"{name}:path={path},seconds=20")
    problems = task.load("test")

    def scores(problem: Problem) -> tuple[float | None, float | None]:
        assert task.worked is not None
        right = task.worked(problem)
        damaged = one_wrong_token(right, problem.meta["functions"][0])
        return task.grade(problem, said(right)).score, task.grade(problem, said(damaged)).score

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(scores, problems))
    assert [p.id for p, (right, _) in zip(problems, found, strict=True) if right != 1.0] == []
    assert [p.id for p, (_, wrong) in zip(problems, found, strict=True) if wrong != 0.0] == []
