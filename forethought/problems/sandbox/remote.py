"""Running programs elsewhere: on a SandboxFusion server, at E2B, or in containers of this machine. Each by its spec:

    fusion:http://host:8080        SandboxFusion's /run_code
    e2b:base                       one sandbox of E2B's a program, from a template, without internet
    docker:python:3.12-slim        one container a program, without network

What they enclose is theirs to say; `forethought sandbox doctor --sandbox SPEC` tries it out.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from forethought.problems.sandbox.bwrap import WORKERS
from forethought.problems.sandbox.run import Limits, Ran, Run, Sandbox, SandboxUnavailable, Status, drain, sealed

REMOTE = 32
"""Programs at a time on a server of others'."""


def fusion(address: str) -> Sandbox:
    """SandboxFusion (bytedance/SandboxFusion) at `address`; raises `SandboxUnavailable` where none answers."""
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"fusion needs the server's address, as fusion:http://host:8080, and not {address!r}")
    client = httpx.Client(base_url=address, limits=httpx.Limits(max_connections=REMOTE))

    def run(program: str, stdin: bytes, limits: Limits) -> Ran:
        began = time.monotonic()
        request = {
            "code": program,
            "language": "python",
            "stdin": stdin.decode(errors="replace"),
            "run_timeout": limits.seconds,
            "memory_limit_MB": limits.memory >> 20,
        }
        try:
            reply = client.post("/run_code", json=request, timeout=limits.patience + 30)
            reply.raise_for_status()
            said: dict[str, Any] = reply.json()
            result = said.get("run_result") or {}
            out, err = (str(result.get(name) or "").encode() for name in ("stdout", "stderr"))
            seconds = time.monotonic() - began
            if said.get("status") == "SandboxError" or not result:
                return _lost(str(said.get("message") or "it gave no result"), seconds)
            if result.get("status") == "TimeLimitExceeded":
                return Ran("time", None, out[: limits.output], err[: limits.output], seconds)
            return _whole(int(result["return_code"]), out, err, limits, seconds)
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            return _lost(f"{type(error).__name__}: {error}", time.monotonic() - began)

    return _tried(Sandbox(f"fusion:{address}", run, REMOTE, client.close))


def e2b(template: str) -> Sandbox:
    """One E2B sandbox a program, from `template` (E2B's own without one), through its SDK, which reads E2B_API_KEY and
    E2B_DOMAIN (for one's own servers). Raises `SandboxUnavailable` without the SDK, and where it runs nothing."""
    try:
        import e2b as sdk
    except ImportError:
        raise SandboxUnavailable("E2B's SDK is not installed (pip install 'forethought[e2b]')") from None

    def run(program: str, stdin: bytes, limits: Limits) -> Ran:
        began = time.monotonic()
        heard: tuple[list[str], list[str]] = ([], [])

        def hear(place: int) -> Callable[[str], None]:
            def take(chunk: str) -> None:
                heard[place].append(chunk)
                if sum(map(len, heard[place])) > limits.output:
                    raise _Flood

            return take

        def ran(status: Status, code: int | None = None) -> Ran:
            out, err = ("".join(chunks).encode()[: limits.output] for chunks in heard)
            return Ran(status, code, out, err, time.monotonic() - began)

        kib = {"v": limits.memory >> 10, "f": limits.disk >> 10}  # what `ulimit` counts in
        counts = {"u": limits.processes + 8, "t": math.ceil(limits.seconds), "n": 64, "c": 0}
        held = "; ".join(f"ulimit -{name} {value}" for name, value in {**kib, **counts}.items())
        box = None
        try:
            life = math.ceil(limits.patience) + 60  # it ends by itself where we are gone
            box = sdk.Sandbox.create(template or None, timeout=life, allow_internet_access=False)
            box.files.write("/tmp/program.py", program.encode(errors="replace"))
            box.files.write("/tmp/stdin", stdin)
            box.commands.run(
                f"bash -c '{held}; cd /tmp; exec python3 -s program.py < stdin'",
                envs={"PYTHONHASHSEED": "0"},
                timeout=limits.patience,
                on_stdout=hear(0),
                on_stderr=hear(1),
                retain_output=False,
            )
            return ran("ended", 0)
        except _Flood:
            return ran("output")
        except sdk.CommandExitException as end:
            late = end.exit_code in _KILLED and time.monotonic() - began >= limits.seconds
            return ran("time") if late else ran("ended", end.exit_code)
        except (sdk.SandboxException, sdk.AuthenticationException, sdk.ServiceBusyException, httpx.HTTPError) as error:
            if type(error) is sdk.TimeoutException and box is not None:  # its kinds tell of a sandbox that is gone
                return ran("time")
            return _lost(f"{type(error).__name__}: {error}", time.monotonic() - began)
        finally:
            if box is not None:
                with contextlib.suppress(sdk.SandboxException, httpx.HTTPError):
                    box.kill()

    return _tried(Sandbox(f"e2b:{template}", run, REMOTE))


class _Flood(Exception):  # noqa: N818 - it tells of an end
    """The program printed too much."""


_KILLED = (128 + 9, 128 + int(signal.SIGXCPU))
"""Exit statuses of a program that took too much processor time."""


def docker(image: str, *, binary: str = "docker") -> Sandbox:
    """One container a program, without network, rights or a writable disk; 300 ms and more a program."""
    if not image:
        raise ValueError("docker needs an image with Python in it, as docker:python:3.12-slim")
    if shutil.which(binary) is None:
        raise SandboxUnavailable(f"{binary} is not installed")
    slots = threading.BoundedSemaphore(WORKERS)

    def run(program: str, stdin: bytes, limits: Limits) -> Ran:
        name = f"forethought-{secrets.token_hex(8)}"
        words = [binary, "run", f"--name={name}", "--rm", "--interactive", "--network=none", "--cap-drop=ALL"]
        words += ["--security-opt=no-new-privileges", "--user=65534:65534", "--workdir=/tmp", "--read-only"]
        words += [f"--tmpfs=/tmp:size={limits.disk}", f"--memory={limits.memory}", f"--memory-swap={limits.memory}"]
        words += [f"--pids-limit={limits.processes + 2}", f"--ulimit=cpu={max(1, round(limits.seconds))}"]
        words += [f"--ulimit=fsize={limits.disk}", "--env=PYTHONHASHSEED=0", image, "python3", "-s", "-c", program]
        with slots:
            ran = spawned(words, stdin, limits)
            if ran.status != "ended":  # with its client gone a container still runs
                subprocess.run([binary, "kill", name], capture_output=True, timeout=60)
        if ran.code == 125:
            return _lost(ran.complaint, ran.seconds)
        return ran

    return _tried(Sandbox(f"docker:{image}", run, WORKERS))


def unsafe() -> Sandbox:
    """No sandbox at all: a process like any other of ours, with limits of time and output alone."""
    slots = threading.BoundedSemaphore(WORKERS)

    def run(program: str, stdin: bytes, limits: Limits) -> Ran:
        with slots:
            return spawned([sys.executable, "-s", "-c", program], stdin, limits, env={"PYTHONHASHSEED": "0"})

    return _tried(Sandbox("unsafe-no-sandbox", run, WORKERS))


def spawned(words: list[str], stdin: bytes, limits: Limits, *, env: dict[str, str] | None = None) -> Ran:
    """A command's run, killed at its limits."""
    began = time.monotonic()
    given = sealed(stdin)
    try:
        process = subprocess.Popen(
            words, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True
        )
    except OSError as error:
        return _lost(str(error), time.monotonic() - began)
    finally:
        os.close(given)
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        deadline = began + limits.patience
        status, out, err = drain(process.stdout.fileno(), process.stderr.fileno(), deadline, limits.output)
        try:
            process.wait(max(0.5, deadline - time.monotonic()) if status == "ended" else 0)
        except subprocess.TimeoutExpired:
            status = "time" if status == "ended" else status
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started goes with it
    seconds = time.monotonic() - began
    return Ran(status, process.returncode if status == "ended" else None, out, err, seconds)


REMOTES: dict[str, Callable[[str], Sandbox]] = {"fusion": fusion, "e2b": e2b, "docker": docker}
"""What stands before the colon of a spec, to what opens it with the rest."""


def _whole(code: int, out: bytes, err: bytes, limits: Limits, seconds: float) -> Ran:
    if max(len(out), len(err)) > limits.output:
        return Ran("output", None, out[: limits.output], err[: limits.output], seconds)
    return Ran("ended", code, out, err, seconds)


def _lost(why: str, seconds: float) -> Ran:
    return Ran("lost", None, b"", b"", seconds, f"the sandbox failed: {why}"[:500])


def _tried(sandbox: Sandbox) -> Sandbox:
    run: Run = sandbox.run
    ran = run("print(2)", b"", Limits(seconds=60))
    if ran.out != b"2\n":
        sandbox.close()
        raise SandboxUnavailable(f"{sandbox.name} does not run Python: {ran.complaint}")
    return sandbox
