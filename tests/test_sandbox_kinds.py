"""sandlock and WASI: the attacks of the jail, what each is known to let through, and what a program sees of them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jails import ROOT, as_user

from forethought.problems.sandbox import Limits, Sandbox, SandboxUnavailable, bwrap, choose, jail, landlock, wasi
from forethought.problems.sandbox.attacks import attack, escaped

LET_THROUGH = {
    "sandlock": ["a process of the machine's, seen"],
    "sandlock, as an ordinary user": ["a process of the machine's, seen", "threads without end"],
    "wasi": [],
}
"""By name and to the letter: what gets through where it did not is a hole, and what no longer does is good news."""
LONG = Limits(seconds=30)


def opened(name: str) -> Sandbox:
    """That sandbox; the test is skipped where it cannot be had, with the reason that a user would see."""
    try:
        return choose.HERE[name]()
    except SandboxUnavailable as reason:
        pytest.skip(f"no {name} here: {reason}")


@pytest.fixture(scope="module", params=["sandlock", "wasi"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    found = opened(request.param)
    yield found
    found.close()


def through(sandbox: Sandbox) -> list[str]:
    """The attacks that get in, and those that a limit of time ended before they had tried."""
    results = attack(sandbox.run, 2)
    return [each.name for each, ran in results if escaped(ran) or (ran.status == "time" and each.guard != "time")]


def attacked_by_user(name: str) -> list[str] | str:
    """`through`, or why it cannot be tried."""
    jail.interpreter.cache_clear()
    try:
        sandbox = choose.HERE[name]()
    except SandboxUnavailable as reason:
        return str(reason)
    found = through(sandbox)
    sandbox.close()
    return found


def test_only_what_is_known_gets_through(sandbox: Sandbox) -> None:
    who = sandbox.name if ROOT or sandbox.name == "wasi" else f"{sandbox.name}, as an ordinary user"
    assert through(sandbox) == LET_THROUGH[who]


@pytest.mark.skipif(not ROOT, reason="the tests run as an ordinary user already")
@pytest.mark.parametrize("name", ["sandlock", "wasi"])
def test_only_what_is_known_gets_through_where_an_ordinary_user_runs_it(name: str) -> None:
    found = as_user("test_sandbox_kinds", f"attacked_by_user({name!r})")
    if isinstance(found, str):
        pytest.skip(f"an ordinary user has no {name} here: {found}")
    assert found == LET_THROUGH.get(f"{name}, as an ordinary user", LET_THROUGH[name])


def test_a_program_is_run_as_a_script(sandbox: Sandbox) -> None:
    source = "import sys\nprint(__name__, sys.argv, input())\nprint('no', file=sys.stderr)\nsys.exit(3)"
    ran = sandbox.run(source, b"hello\n", LONG)
    assert (ran.status, ran.code, ran.out, ran.err) == ("ended", 3, b"__main__ ['program.py'] hello\n", b"no\n")


def test_a_program_is_bytes_whatever_it_holds(sandbox: Sandbox) -> None:
    source = "print(len('\udc80é\u2028'), end='')  # " + "x" * 200_000
    assert sandbox.run(source, b"", LONG).out == b"3"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1\nx / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit('enough')", "enough"),
        ("import os; os._exit(125)", "exit status 125"),
        ("print(1)", ""),
    ],
)
def test_what_the_interpreter_complains_of_is_kept(sandbox: Sandbox, source: str, complaint: str) -> None:
    assert sandbox.run(source, b"", LONG).complaint == complaint


def test_a_program_that_kills_itself_is_not_taken_for_one_that_was_lost(sandbox: Sandbox) -> None:
    """A lost run is nobody's fault, and would spare it its score."""
    for source in ("import os; os.kill(os.getpid(), 9)", "import os; os.abort()"):
        ran = sandbox.run(source, b"", LONG)
        assert ran.status == "ended"
        assert ran.code not in (0, None)


def test_memory_is_freed_and_taken_again_and_has_an_end(sandbox: Sandbox) -> None:
    limits = Limits(seconds=30, memory=128 * 2**20)
    assert sandbox.run("for _ in range(8): bytearray(32 << 20)\nprint('done')", b"", limits).out == b"done\n"
    ran = sandbox.run("bytearray(256 << 20)\nprint('done')", b"", limits)
    assert (ran.status, ran.out) == ("ended", b"")
    assert ran.code != 0


def test_what_a_program_leaves_behind_is_gone() -> None:
    sandbox = opened("sandlock")
    source = """import os, time
open('left', 'w').write('x')
if os.fork() == 0:
    os.setsid()
    os.close(1); os.close(2)
    time.sleep(100)
print(os.getcwd())
"""
    ran = sandbox.run(source, b"", LONG)
    folder = Path(os.fsdecode(ran.out.strip()))
    sandbox.close()
    assert folder.name == "work"
    assert not folder.parent.exists()
    assert ran.seconds < LONG.seconds


def test_without_its_package_or_its_python_a_sandbox_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for kind in (landlock, wasi):
        with pytest.raises(SandboxUnavailable, match=r"is not installed \(pip install 'forethought\[sandbox\]'\)"):
            kind.pool()
    monkeypatch.undo()
    monkeypatch.delenv(wasi.VARIABLE, raising=False)
    with pytest.raises(SandboxUnavailable, match=r"FORETHOUGHT_WASI_PYTHON|wasmtime is not installed"):
        wasi.pool()


WRITES = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\08\\00\\00\\00\\02\\00\\00\\00%s\\0a")
  (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20))) %s))
"""
"""A program that writes one digit, then does something."""


def module(folder: Path, digit: int, then: str) -> str:
    """That program's file."""
    wasmtime = pytest.importorskip("wasmtime", reason="wasmtime is not installed")
    path = folder / f"{digit}.wasm"
    path.write_bytes(wasmtime.wat2wasm(WRITES % (digit, then)))
    return str(path)


def test_only_a_module_that_runs_python_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that prints 2 whatever it is given passes for Python, and one that prints 3 does not."""
    monkeypatch.setenv(wasi.VARIABLE, module(tmp_path, 2, ""))
    sandbox = wasi.pool()
    assert sandbox.run("", b"", LONG).out == b"2\n"
    sandbox.close()
    monkeypatch.setenv(wasi.VARIABLE, module(tmp_path, 3, ""))
    with pytest.raises(SandboxUnavailable, match="wasmtime does not run the Python that FORETHOUGHT_WASI_PYTHON"):
        wasi.pool()
    (tmp_path / "text").write_text("text")
    monkeypatch.setenv(wasi.VARIABLE, str(tmp_path / "text"))
    with pytest.raises(SandboxUnavailable, match="is no WebAssembly"):
        wasi.pool()


@pytest.mark.parametrize(
    ("then", "status", "code"),
    [
        ("unreachable", "ended", 134),
        ("(loop br 0)", "time", None),
        ("(drop (memory.grow (i32.const 9999)))", "ended", 0),
    ],
    ids=["a trap", "a loop", "memory"],
)
def test_a_module_is_held_to_its_limits(tmp_path: Path, then: str, status: str, code: int | None) -> None:
    server = bwrap.Server(kind=wasi.kind(module(tmp_path, 1, then)))
    ran = server.run("", b"", Limits(seconds=0.5 if status == "time" else 30))
    server.kill()
    assert (ran.status, ran.code) == (status, code)
