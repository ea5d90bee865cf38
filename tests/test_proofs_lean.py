"""Lean by a file, a REPL and a server, against a Lean that crashes, hangs, floods and lies."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fake_lean
import pytest
from http_server import Server

from forethought.problems.proofs import lean
from forethought.problems.proofs.checked import Check, Checked
from forethought.problems.proofs.lean import Source, from_file, jailed, judge
from forethought.problems.proofs.lean_gate import Refusal
from forethought.problems.proofs.lean_repl import from_repl, from_server
from forethought.problems.sandbox import SandboxUnavailable, jail

T = TypeVar("T")
STATEMENT = "theorem t (n : Nat) : n + 0 = n :="
FAKE = [sys.executable, "-S", fake_lean.__file__]
SAID = [
    ("by simp", "proved", ""),
    ("by plain", "proved", ""),
    ("by wrong", "refuted", "line 3: unsolved goals"),
    ("by holed", "refuted", "leaves a hole"),
    ("by cheating", "refuted", "it rests on evil"),
    ("by spoofing", "error", "did not say which axioms"),
    ("by sorry", "refuted", "sorry leaves a hole"),
    ("", "refuted", "the proof is empty"),
]


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def by_file(proof: str, seconds: float = 60) -> Checked:
    return run(from_file([*FAKE, "file"], jail=None, unsafe_no_jail=True, seconds=seconds)(STATEMENT, proof))


def by_repl(*proofs: str, header: str = "import Fake", **options: Any) -> list[Checked]:
    async def go() -> list[Checked]:
        async with from_repl([*FAKE, "repl"], header=header, jail=None, unsafe_no_jail=True, **options) as check:
            return [await check(STATEMENT, proof) for proof in proofs]

    return run(go())


@pytest.mark.parametrize(("proof", "status", "reason"), SAID)
def test_a_file_is_judged_by_leans_messages(proof: str, status: str, reason: str) -> None:
    told = by_file(proof)
    assert told.status == status
    assert reason in "".join(told.messages)


def test_a_repl_says_the_same_for_one_header() -> None:
    found = by_repl(*(proof for proof, _, _ in SAID))
    assert [told.status for told in found] == [status for _, status, _ in SAID]
    for told, (_, _, reason) in zip(found, SAID, strict=True):
        assert reason in "".join(told.messages)
    assert found[0].axioms == ("propext", "Quot.sound")
    assert found[1].axioms == ()


def test_a_file_that_crashes_hangs_or_floods_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "MOST_OUTPUT", 1 << 20)
    assert "status 139" in by_file("by crashing").messages[0]
    assert by_file("by flooding").status == "error"
    assert by_file("by failing").status == "error"
    assert by_file("by hanging", seconds=0.5).status == "timeout"


def test_a_repl_that_crashes_hangs_floods_or_babbles_is_replaced() -> None:
    proofs = ["by crashing", "by simp", "by hanging", "by simp", "by garbling", "by simp", "by refusing", "by simp"]
    found = by_repl(*proofs, seconds=2.0)
    assert [told.status for told in found[::2]] == ["error", "timeout", "error", "error"]
    assert [told.status for told in found[1::2]] == ["proved"] * 4
    assert "the REPL ended" in found[0].messages
    assert "Unknown environment." in found[6].messages


def test_a_repl_that_floods_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from forethought.problems.proofs import lean_repl

    monkeypatch.setattr(lean_repl, "MOST_OUTPUT", 1 << 20)
    flood, after = by_repl("by flooding", "by simp")
    assert flood.status == "error"
    assert "wrote more than" in flood.messages[0]
    assert after.status == "proved"


def test_an_answer_that_nobody_asked_for_is_given_to_nobody() -> None:
    assert [told.status for told in by_repl("by chattering", "by wrong", "by wrong")] == [
        "proved",
        "refuted",
        "refuted",
    ]


def test_repls_are_renewed_and_bounded(tmp_path: Path) -> None:
    log = tmp_path / "starts"
    script = f"import sys; open({str(log)!r}, 'a').write('x'); sys.argv = ['', 'repl']; import runpy; " + (
        f"runpy.run_path({fake_lean.__file__!r}, run_name='__main__')"
    )

    async def go() -> list[Checked]:
        command = [sys.executable, "-S", "-c", script]
        options: dict[str, Any] = {"header": "import Fake", "jail": None, "unsafe_no_jail": True}
        async with from_repl(command, workers=2, uses=3, **options) as check:
            return await asyncio.gather(*(check(STATEMENT, "by simp") for _ in range(12)))

    assert {told.status for told in run(go())} == {"proved"}
    assert 4 <= len(log.read_text()) <= 5


def test_a_header_that_does_not_load_is_no_verdict() -> None:
    assert "the header does not load" in by_repl("by simp", header="import Missing")[0].messages[0]
    missing = from_repl(["/nonexistent/lean"], jail=None, unsafe_no_jail=True)

    async def go() -> Checked:
        async with missing as check:
            return await check(STATEMENT, "by simp")

    assert "does not start" in run(go()).messages[0]


def test_without_a_jail_lean_is_not_run() -> None:
    with pytest.raises(ValueError, match="jailed"):
        from_file([*FAKE, "file"], jail=None)
    with pytest.raises(ValueError, match="unsafe_no_jail"):
        run(from_repl([*FAKE, "repl"], jail=None).__aenter__())


@pytest.mark.skipif(bool(jail.missing()), reason=jail.missing() or "-")
def test_in_the_jail_there_is_no_network_and_no_home() -> None:
    try:
        python, folders = jail.interpreter()
        walls = jailed(Path(fake_lean.__file__).parent, Path(python).parent, *folders)
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))
    check = from_file([*walls[len(walls) :], python, "-S", fake_lean.__file__, "file"], jail=walls)
    told = run(check(STATEMENT, "by simp"))
    if told.status == "error" and "bwrap:" in told.messages[0]:
        pytest.skip(told.messages[0])
    assert told.status == "proved"
    look = "import os; print(os.path.exists('/root'), os.listdir('/sys/class/net') if os.path.exists('/sys') else [])"
    out, code = run(lean._once([*walls, python, "-S", "-c", look], "", None, 60))
    assert (out, code) == ("False []\n", 0)


@pytest.mark.parametrize("statement", ["def t : Nat :=", "theorem t : True := by trivial", "theorem : True :=", ""])
def test_a_statement_is_a_theorem_that_ends_where_its_proof_begins(statement: str) -> None:
    with pytest.raises(ValueError, match="a statement is"):
        Source(statement, "by simp")


def test_the_proof_stands_indented_between_ours() -> None:
    source = Source(STATEMENT, "by\n  simp", "import Mathlib")
    assert source.text == f"import Mathlib\n\n{STATEMENT}\n  by\n    simp\n\n#print axioms t\n"
    with pytest.raises(Refusal):
        Source(STATEMENT, "by rfl\nend")


def test_axioms_beyond_the_standard_ones_may_be_allowed() -> None:
    told = judge(
        "a\nb",
        [{"severity": "info", "pos": {"line": 2}, "data": "'t' depends on axioms: [evil]"}],
        allowed=frozenset({"evil"}),
    )
    assert (told.status, told.axioms) == ("proved", ("evil",))
    assert judge("a\nb", [], allowed=lean.STANDARD, axioms_told=False).status == "proved"


def test_a_message_that_was_printed_erases_none_of_leans() -> None:
    told = [
        {"severity": "info", "pos": {"line": 2}, "data": "'t' depends on axioms: [evil]"},
        {"severity": "info", "pos": {"line": 2}, "data": "'t' does not depend on any axioms"},
        {"severity": "info", "pos": {"line": 2}, "data": "'t' depends on axioms: [propext]"},
    ]
    for messages in (told, told[::-1]):
        assert judge("a\nb", messages, allowed=lean.STANDARD).messages == ("it rests on evil",)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def test_a_server_is_asked_in_kiminas_form(server: Server) -> None:
    asked: list[dict[str, Any]] = []

    def answer(payload: dict[str, Any]) -> Any:
        asked.append(payload)
        (snippet,) = payload["snippets"]
        if "refusing" in snippet["code"]:
            return {"results": [{"id": "0", "error": "Lean REPL command timed out in 5 seconds"}]}
        if "breaking" in snippet["code"]:
            return (500, {"detail": "oops"})
        return {
            "results": [
                {"id": "0", "time": 0.1, "response": {"env": 0, "messages": fake_lean.messages(snippet["code"])}}
            ]
        }

    server.routes["/api/check"] = answer
    check: Check = from_server(server.url, header="import Fake", seconds=5)
    found = [
        run(check(STATEMENT, proof)).status
        for proof in ("by simp", "by wrong", "by cheating", "by refusing", "by breaking")
    ]
    assert found == ["proved", "refuted", "refuted", "timeout", "error"]
    assert asked[0]["timeout"] == 5
    assert run(from_server("http://127.0.0.1:9", seconds=1)(STATEMENT, "by simp")).status == "error"
