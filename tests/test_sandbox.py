"""The jail: every attack fails, as root and as a user, and succeeds where its guard is taken away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jails import ROOT, as_user, needs_jail

from forethought.problems.sandbox import Limits, Sandbox, SandboxUnavailable, bwrap, jail, open_sandbox, seccomp
from forethought.problems.sandbox.attacks import ATTACKS, Attack, attack, bait, escaped
from forethought.problems.sandbox.run import Ran, Run

SHORT = Limits(seconds=0.3)


SERVERS = bwrap.Pool(1)
FORMS: dict[str, Run] = {"once": bwrap.run, "pool": SERVERS.run}
forms = pytest.mark.parametrize("run", FORMS.values(), ids=FORMS)


@pytest.fixture(scope="module", autouse=True)
def servers_end() -> Iterator[None]:
    yield
    SERVERS.close()


def attacked(form: str) -> list[list[str]]:
    """Every attack that got in, with what it said, and those that a limit of time ended before they had tried."""
    servers = bwrap.Pool(2)
    results = attack(bwrap.run if form == "once" else servers.run, 2)
    servers.close()
    assert len(results) > 40
    return [
        [each.name, repr(ran)]
        for each, ran in results
        if escaped(ran) or (ran.status == "time" and each.guard != "time")
    ]


@needs_jail
@pytest.mark.parametrize("form", FORMS)
def test_no_attack_gets_in(form: str) -> None:
    assert attacked(form) == []


@needs_jail
@pytest.mark.skipif(not ROOT, reason="the tests run as an ordinary user already")
@pytest.mark.parametrize("form", FORMS)
def test_no_attack_gets_in_where_an_ordinary_user_runs_it(form: str) -> None:
    assert as_user("test_sandbox", f"attacked_by_user({form!r})") == []


def attacked_by_user(form: str) -> list[list[str]]:
    jail.interpreter.cache_clear()
    assert jail.step_down() == []
    return attacked(form)


@needs_jail
@pytest.mark.parametrize("each", [each for each in ATTACKS if each.opens], ids=lambda each: each.name)
def test_an_attack_gets_in_where_its_guards_are_gone(each: Attack) -> None:
    """Else it would prove nothing that it fails with them."""
    with bait() as stdin:
        if each.pooled:
            server = bwrap.Server(without=each.opens)
            with pytest.raises(bwrap._Died):
                server.run(each.source, stdin, each.limits)
            server.kill()
        else:
            assert escaped(ran := bwrap.run(each.source, stdin, each.limits, without=each.opens)), ran


@needs_jail
@pytest.mark.skipif(not ROOT, reason="only root's rights can be left in place")
def test_root_must_step_down_for_its_forks_to_be_counted() -> None:
    bomb = next(each for each in ATTACKS if each.name == "a fork bomb")
    with bait() as stdin:
        assert escaped(bwrap.run(bomb.source, stdin, bomb.limits, without={"root"}))


def test_every_guard_is_taken_away_by_some_test() -> None:
    own = {"root", "group"}  # the second one's stand in test_sandbox_cgroup.py
    assert {guard for each in ATTACKS for guard in each.opens} | own == set(jail.GUARDS)


@needs_jail
@forms
def test_a_program_is_run_as_a_script(run: Run) -> None:
    source = "import sys\nprint(__name__, sys.argv, input())\nprint('no', file=sys.stderr)\nsys.exit(3)"
    ran = run(source, b"hello\n", SHORT)
    assert (ran.status, ran.code, ran.out, ran.err) == ("ended", 3, b"__main__ ['program.py'] hello\n", b"no\n")


@needs_jail
@forms
@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1\nx / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit('enough')", "enough"),
        ("import os; os._exit(7)", "exit status 7"),
        ("print(1)", ""),
        ("import dataclasses as d\n@d.dataclass\nclass A:\n    x: 'int' = 1\nassert A(2).x == 2", ""),
        ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()", ""),
    ],
)
def test_what_the_interpreter_complains_of_is_kept(run: Run, source: str, complaint: str) -> None:
    ran = run(source, b"", Limits(seconds=20))
    assert ran.complaint == complaint
    assert b"inside" not in ran.err
    assert b"<string>" not in ran.err


@needs_jail
@forms
def test_a_program_that_does_not_end_is_ended(run: Run) -> None:
    ran = run("print('begun', flush=True)\nwhile True: pass", b"", SHORT)
    assert (ran.status, ran.code) == ("time", None)
    assert ran.complaint.startswith("ended after ")


@needs_jail
@forms
def test_output_is_kept_up_to_its_limit_and_the_rest_ends_the_program(run: Run) -> None:
    ran = run("print('x' * 100)\nwhile True: print('x' * 100)", b"", Limits(seconds=20, output=1000))
    assert (ran.status, len(ran.out), ran.complaint) == ("output", 1000, "ended: it printed too much")


@needs_jail
@forms
def test_a_program_is_bytes_to_us_whatever_it_holds(run: Run) -> None:
    source = "print(len('\udc80é\u2028'), end='')  # " + "x" * 200_000
    assert run(source, b"", Limits(seconds=20)).out == b"3"


@needs_jail
def test_a_program_cannot_pass_its_end_for_somebody_elses() -> None:
    """Only a signal from outside is a lost run, which nobody is blamed for."""
    for source in ("import os; os.kill(os.getpid(), 9)", "import os; os._exit(137)", "import os; os.abort()"):
        assert SERVERS.run(source, b"", Limits(seconds=20)).status == "ended"


def below(pid: int) -> list[int]:
    """The processes that descend from this one, each from the one before."""
    found: list[int] = []
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            parents[int(status.read_text().rpartition(")")[2].split()[1])] = int(status.parent.name)
    while pid in parents:
        found.append(pid := parents[pid])
    return found


def kill_when_begun(monkeypatch: pytest.MonkeyPatch, victim: int, times: int) -> tuple[Ran, list[int]]:
    """A program that sleeps, of whose processes (server, the one around it, its own) one is killed so many times."""
    servers, started, real = bwrap.Pool(1), list[bwrap.Server](), bwrap.Server

    def start() -> bwrap.Server:
        started.append(real())
        return started[-1]

    monkeypatch.setattr(bwrap, "Server", start)
    source = "import time\ntime.sleep(%s)\nprint(2)"
    killed: list[int] = []
    end = time.monotonic() + 100
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(servers.run, source % (100 if times == 2 else 1), b"", Limits(seconds=40))
        while not run.done() and time.monotonic() < end:
            time.sleep(0.02)
            if len(killed) < min(times, len(started)) and len(chain := below(started[-1].process.pid)) == 3:
                killed.append(chain[victim])
                os.kill(chain[victim], signal.SIGKILL)
        ran = run.result(timeout=60)
    servers.close()
    return ran, killed


VICTIMS = pytest.mark.parametrize("victim", [0, 1, 2], ids=["the server", "the one around", "the program"])


@needs_jail
@VICTIMS
def test_a_program_whose_worker_is_killed_is_run_again(monkeypatch: pytest.MonkeyPatch, victim: int) -> None:
    ran, killed = kill_when_begun(monkeypatch, victim, times=1)
    assert (ran.status, ran.out, len(killed)) == ("ended", b"2\n", 1)


@needs_jail
def test_a_program_that_has_not_begun_ends_with_the_process_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is killed here before the program could ask to be told."""
    slow = jail.INSIDE.replace(
        "            os.setsid()\n", "            __import__('time').sleep(1)\n            os.setsid()\n"
    )
    assert slow.count("sleep(1)") == 1
    monkeypatch.setattr(jail, "INSIDE", slow)
    ran, killed = kill_when_begun(monkeypatch, 1, times=2)
    assert (ran.status, len(killed)) == ("lost", 2)
    assert ran.seconds < 30


@needs_jail
@VICTIMS
def test_a_run_that_is_killed_twice_is_lost_and_nobodys_fault(monkeypatch: pytest.MonkeyPatch, victim: int) -> None:
    ran, killed = kill_when_begun(monkeypatch, victim, times=2)
    assert (ran.status, ran.code, len(set(killed))) == ("lost", None, 2)
    assert ran.note.startswith("the sandbox died under the program twice")
    deadline = time.monotonic() + 20
    while [pid for pid in killed if Path(f"/proc/{pid}").exists()] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in killed if Path(f"/proc/{pid}").exists()]


@needs_jail
def test_servers_end_with_their_parent() -> None:
    code = (
        "import os; from forethought.problems.sandbox import bwrap; s = bwrap.Server(); "
        "print(s.process.pid, flush=True); os._exit(0)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True).stdout
    deadline = time.monotonic() + 60
    while Path(f"/proc/{said.strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{said.strip()}").exists()


@needs_jail
def test_a_forked_child_has_servers_of_its_own() -> None:
    code = (
        "import os; from forethought.problems.sandbox import bwrap; servers = bwrap.Pool(1); "
        "assert servers.run('print(1)').out == b'1\\n'; child = os.fork(); "
        "good = child or (servers.run('print(2)').out == b'2\\n' and servers.owner == os.getpid()); "
        "child or os._exit(0 if good else 1); "
        "assert os.waitpid(child, 0)[1] == 0; assert servers.run('print(3)').out == b'3\\n'; servers.close()"
    )
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


@needs_jail
def test_many_programs_run_at_once_and_no_more_than_there_are_workers() -> None:
    async def many(sandbox: Sandbox) -> list[bytes]:
        runs = (sandbox.start(f"print({n} * {n})", limits=Limits(seconds=20)) for n in range(24))
        return [ran.out for ran in await asyncio.gather(*runs)]

    sandbox = open_sandbox("bwrap-pool")
    assert asyncio.run(many(sandbox)) == [b"%d\n" % (n * n) for n in range(24)]
    pids = sandbox.run("import os; print(os.getpid())", b"", SHORT)
    assert pids.out == b"1\n"
    sandbox.close()


def test_limits_that_no_program_could_keep_are_refused() -> None:
    for wrong, named in (({"seconds": 0}, "seconds is 0"), ({"memory": 1}, "memory is 1"), ({"processes": 0}, "proc")):
        with pytest.raises(ValueError, match=named):
            Limits(**wrong)


def test_an_unknown_sandbox_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="there is no sandbox 'chroot'; there is auto, bwrap-pool, bwrap"):
        open_sandbox("chroot")


def test_where_nothing_works_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jail, "PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="apt install bubblewrap"):
        open_sandbox("bwrap")


@needs_jail
def test_a_python_that_nobody_can_reach_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FORETHOUGHT_SANDBOX_PYTHON", str(tmp_path / "python"))
    jail.interpreter.cache_clear()
    with pytest.raises(SandboxUnavailable, match="FORETHOUGHT_SANDBOX_PYTHON"):
        jail.interpreter()
    jail.interpreter.cache_clear()


def test_a_machine_whose_system_calls_are_not_known_gets_no_filter() -> None:
    assert seccomp.filters("mips") == b""
    assert len(seccomp.filters("aarch64")) % 8 == 0
    assert seccomp.filters("aarch64") != seccomp.filters("x86_64")


@needs_jail
def test_the_examination_is_compiled_once_a_server_and_by_its_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bwrap, "EXAMINATION", b"print('known', __name__)\nprint(undefined)")
    monkeypatch.setattr(jail, "INSIDE", jail.INSIDE.replace('compile(ours, "program.py"', 'compile(ours, "known.py"'))
    server = bwrap.Server()
    ran = server.run(bwrap.EXAMINATION.decode(), b"", SHORT)
    assert (ran.out, b'"known.py", line 2' in ran.err) == (b"known __main__\n", True)
    assert server.run("print(1)", b"", SHORT).out == b"1\n"
    server.kill()
