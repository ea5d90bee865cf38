"""Sandboxes elsewhere, against stubs: a SandboxFusion server on the loopback, a `docker` that is a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forethought.problems.sandbox import Limits, SandboxUnavailable, choose, open_sandbox, remote
from forethought.problems.sandbox.run import PLAIN


class Fusion(BaseHTTPRequestHandler):
    """Answers `/run_code` as SandboxFusion does: runs what it is sent, or says what `said` holds."""

    said: dict[str, Any] | None = None
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        reply = self.said
        if reply is None:
            ran = subprocess.run(
                [sys.executable, "-c", body["code"]], input=body["stdin"].encode(), capture_output=True
            )
            reply = {
                "status": "Success" if ran.returncode == 0 else "Failed",
                "run_result": {
                    "status": "Finished",
                    "return_code": ran.returncode,
                    "stdout": ran.stdout.decode(),
                    "stderr": ran.stderr.decode(),
                },
            }
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing to standard error."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Fusion, "said", None)
    monkeypatch.setattr(Fusion, "asked", [], raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fusion)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_fusion_server_runs_programs(address: str) -> None:
    sandbox = open_sandbox(f"fusion:{address}")
    ran = sandbox.run("print(input())\nraise SystemExit(3)", b"hello\n", Limits(seconds=7, memory=2**28))
    assert (ran.status, ran.code, ran.out) == ("ended", 3, b"hello\n")
    assert (Fusion.asked[-1]["run_timeout"], Fusion.asked[-1]["memory_limit_MB"]) == (7, 256)
    assert sandbox.run("print('x' * 99)", b"", Limits(output=10)).status == "output"
    sandbox.close()


@pytest.mark.parametrize(
    ("said", "status", "note"),
    [
        ({"status": "Failed", "run_result": {"status": "TimeLimitExceeded", "stdout": "a"}}, "time", ""),
        ({"status": "SandboxError", "message": "no room"}, "lost", "the sandbox failed: no room"),
        ({"status": "Success"}, "lost", "it gave no result"),
        ({"run_result": {"status": "Finished", "return_code": "x"}}, "lost", "ValueError"),
        ({"run_result": [1]}, "lost", "AttributeError"),
    ],
)
def test_what_a_fusion_server_says_is_told_apart(
    address: str, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], status: str, note: str
) -> None:
    sandbox = open_sandbox(f"fusion:{address}")
    monkeypatch.setattr(Fusion, "said", said)
    ran = sandbox.run("print(1)", b"", PLAIN)
    assert ran.status == status
    assert note in ran.note
    sandbox.close()


def test_a_server_that_is_gone_is_no_fault_of_the_program(address: str) -> None:
    sandbox = open_sandbox(f"fusion:{address}")
    sandbox.close()
    gone = remote.fusion
    with pytest.raises(SandboxUnavailable, match="does not run Python: the sandbox failed"):
        gone("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="fusion needs the server's address"):
        open_sandbox("fusion:host")


def test_a_container_is_closed_and_is_ended_with_its_program(tmp_path: Path) -> None:
    log = tmp_path / "log"
    docker = tmp_path / "docker"
    docker.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        f"open({str(log)!r}, 'a').write(' '.join(sys.argv[1:-1]) + '\\n')\n"
        "if sys.argv[1] == 'run':\n"
        "    os.execv(sys.executable, [sys.executable, *sys.argv[sys.argv.index('python3') + 1:]])\n"
    )
    docker.chmod(0o755)
    sandbox = remote.docker("python:3.12-slim", binary=str(docker))
    assert sandbox.run("print(input())", b"hello", Limits(seconds=20)).out == b"hello\n"
    assert "--network=none --cap-drop=ALL --security-opt=no-new-privileges --user=65534:65534" in log.read_text()
    assert "--memory=536870912" in log.read_text()
    assert sandbox.run("raise SystemExit(125)", b"", Limits(seconds=20)).status == "lost"  # docker's own failure
    assert sandbox.run("import time; time.sleep(99)", b"", Limits(seconds=0.1)).status == "time"
    assert log.read_text().splitlines()[-1] == "kill"
    with pytest.raises(SandboxUnavailable, match="is not installed"):
        remote.docker("x", binary="/nowhere/docker")
    with pytest.raises(ValueError, match="docker needs an image"):
        open_sandbox("docker:")


class E2B(types.ModuleType):
    """A stand-in of E2B's SDK: its one sandbox is a folder and a shell of this machine."""

    class SandboxException(Exception):  # noqa: N818
        pass

    class TimeoutException(SandboxException):
        pass

    class SandboxNotRunningException(TimeoutException):
        pass

    class CommandExitException(SandboxException):
        def __init__(self, exit_code: int) -> None:
            self.exit_code = exit_code

    class AuthenticationException(Exception):  # noqa: N818
        pass

    class ServiceBusyException(Exception):  # noqa: N818
        pass

    def __init__(self, folder: Path) -> None:
        super().__init__("e2b")
        self.folder = folder
        self.Sandbox = self.files = self.commands = self
        self.calls: list[tuple[Any, ...]] = []
        self.fault: Exception | None = None

    def create(self, template: str | None, *, timeout: int, allow_internet_access: bool) -> E2B:
        self.calls.append(("create", template, timeout, allow_internet_access))
        if isinstance(self.fault, self.AuthenticationException):
            raise self.fault
        return self

    def write(self, path: str, data: bytes) -> None:
        (self.folder / Path(path).name).write_bytes(data)

    def run(
        self, cmd: str, *, envs: dict[str, str], timeout: float, on_stdout: Any, on_stderr: Any, **how: bool
    ) -> None:
        assert how == {"retain_output": False}
        self.calls.append(("run", cmd, envs, timeout))
        if self.fault:
            raise self.fault
        here = cmd.replace("cd /tmp", f"cd {self.folder}").replace("python3", sys.executable)
        ran = subprocess.run(here, shell=True, capture_output=True, env={**os.environ, **envs})
        for chunk, hear in ((ran.stdout, on_stdout), (ran.stderr, on_stderr)):
            if chunk:
                hear(chunk.decode())
        if ran.returncode:
            raise self.CommandExitException(ran.returncode)

    def kill(self) -> None:
        self.calls.append(("kill",))


@pytest.fixture
def e2b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> E2B:
    stub = E2B(tmp_path)
    monkeypatch.setitem(sys.modules, "e2b", stub)
    return stub


def test_e2b_runs_each_program_in_a_sandbox_of_its_own(e2b: E2B) -> None:
    sandbox = open_sandbox("e2b:mine")
    del e2b.calls[:]
    ran = sandbox.run("print(input())\nraise SystemExit(3)", b"hello\n", Limits(seconds=7, memory=2**30))
    assert (ran.status, ran.code, ran.out) == ("ended", 3, b"hello\n")
    (_, template, life, internet), (_, command, _, patience), killed = e2b.calls
    assert (template, life, internet, patience, killed) == ("mine", 81, False, 21, ("kill",))
    assert "ulimit -v 1048576; ulimit -f 16384; ulimit -u 24; ulimit -t 7; " in command
    assert sandbox.run("print('x' * 99)", b"", Limits(output=10)).status == "output"
    assert e2b.calls[-1] == ("kill",)
    assert open_sandbox("e2b:").run("print(1)", b"", PLAIN).complaint == ""
    assert e2b.calls[-3][:2] == ("create", None)


def test_what_e2b_says_is_told_apart(e2b: E2B) -> None:
    sandbox = open_sandbox("e2b:mine")
    for fault, status, note in (
        (e2b.TimeoutException(), "time", ""),
        (e2b.SandboxNotRunningException("gone"), "lost", "SandboxNotRunningException: gone"),
        (e2b.ServiceBusyException("later"), "lost", "ServiceBusyException: later"),
        (e2b.CommandExitException(137), "ended", ""),
    ):
        e2b.fault = fault
        ran = sandbox.run("print(1)", b"", PLAIN)
        assert (ran.status, note in ran.note) == (status, True)
        assert e2b.calls[-1] == ("kill",)
    e2b.fault = e2b.AuthenticationException("no key")
    with pytest.raises(
        SandboxUnavailable, match="does not run Python: the sandbox failed: AuthenticationException: no key"
    ):
        open_sandbox("e2b:mine")


def test_without_its_sdk_e2b_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e2b", None)
    with pytest.raises(SandboxUnavailable, match=r"pip install 'forethought\[e2b\]'"):
        open_sandbox("e2b:base")


def test_no_sandbox_is_taken_only_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise SandboxUnavailable("apt install bubblewrap")

    monkeypatch.setattr(choose, "HERE", {"bwrap-pool": none})
    with pytest.raises(SandboxUnavailable, match=r"bwrap-pool: apt install bubblewrap.*unsafe-no-sandbox"):
        open_sandbox("auto")
    sandbox = open_sandbox("unsafe-no-sandbox")
    assert sandbox.run("print(1)", b"", PLAIN).out == b"1\n"
    assert sandbox.run("import time; time.sleep(99)", b"", Limits(seconds=0.1)).status == "time"
