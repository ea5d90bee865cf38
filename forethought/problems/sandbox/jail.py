"""The jail as a command line: bubblewrap with every guard it has, around a Python of the machine.

What naive command lines leave open, and this one closes: process 1's environment in /proc (no /proc, and bubblewrap
itself starts with none), fork bombs of root (RLIMIT_NPROC binds no root: we step down first), nested user namespaces,
a writable root and /dev/shm that fill the machine's memory, daemons that outlive the call.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from forethought.problems.sandbox import inside, seccomp
from forethought.problems.sandbox.run import Limits, SandboxUnavailable, sealed

NOBODY = 65534
"""The user and group inside, and outside where we are root."""
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
INSIDE = Path(inside.__file__).read_text(encoding="utf-8")
GUARDS = (
    *("root", "environment", "pid", "network", "ipc", "files", "read-only", "nested", "session", "seccomp"),
    *("memory", "processes", "cpu", "file size", "disk", "time", "output", "requests", "group"),
)
"""What `without` may name. Only tests take a guard away, to see that an attack then gets through."""


@functools.cache
def interpreter() -> tuple[str, tuple[str, ...]]:
    """The Python for inside, and the folders it needs beside the system's libraries.

    `FORETHOUGHT_SANDBOX_PYTHON`, else the one we run on, else /usr/bin/python3: the first that the user who will run
    it may reach. Raises `SandboxUnavailable` where none is.
    """
    asked = os.environ.get("FORETHOUGHT_SANDBOX_PYTHON")
    tried = []
    for path in [asked] if asked else [os.path.realpath(sys.executable), "/usr/bin/python3"]:
        binary = os.path.realpath(path)
        code = "import os, sys; print(os.path.dirname(os.__file__), sys.version_info >= (3, 9))"
        try:
            said = subprocess.run(
                [*step_down(), "env", binary, "-I", "-S", "-c", code],  # setpriv itself may still reach what we cannot
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
                env={"PATH": PATH},
                cwd="/",
            ).stdout.split()
        except (OSError, subprocess.SubprocessError):
            tried.append(f"{path} does not start" + (" as a user without rights" if os.getuid() == 0 else ""))
            continue
        if said[-1] != "True":
            tried.append(f"{path} is older than Python 3.9")
            continue
        library = " ".join(said[:-1])
        near = (os.path.join(os.path.dirname(os.path.dirname(binary)), "lib"),) if not _system(library) else ()
        return binary, near
    raise SandboxUnavailable(
        f"no Python for the sandbox: {'; '.join(tried)}; install one system-wide (apt install python3), or name one "
        "that every user can reach in FORETHOUGHT_SANDBOX_PYTHON"
    )


def _system(path: str) -> bool:
    return path.startswith(("/usr/lib/", "/usr/lib64/"))


def step_down(without: Collection[str] = ()) -> list[str]:
    """What goes before a command so that root's rights are given up; nothing where we have none."""
    if os.getuid() != 0 or "root" in without:
        return []
    nobody = str(NOBODY)
    return ["setpriv", "--reuid", nobody, "--regid", nobody, "--clear-groups", "--bounding-set=-all", "--no-new-privs"]


@functools.cache
def _has(option: str) -> bool:
    said = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, timeout=60, env={"PATH": PATH})
    return option in said.stdout + said.stderr


def missing() -> str:
    """Which program of those the jail needs is not here, and how to get it; empty where none is missing."""
    if not sys.platform.startswith("linux"):
        return f"bubblewrap needs Linux, and this is {sys.platform}"
    if shutil.which("bwrap", path=PATH) is None:
        return "bubblewrap is not installed (apt install bubblewrap)"
    if os.getuid() == 0 and shutil.which("setpriv", path=PATH) is None:
        return "setpriv is not installed, and root's rights must be given up first (apt install util-linux)"
    return ""


@functools.cache
def compiled(python: str) -> int:
    """A file with `inside` as `python` compiles it, which would take it 3 ms a program; to be read by `pread`,
    as all who have it share its offset."""
    words = "import marshal, sys; code = compile(sys.stdin.read(), 'inside', 'exec', optimize=2)"
    said = subprocess.run(
        [*step_down(), python, "-I", "-S", "-c", f"{words}; sys.stdout.buffer.write(marshal.dumps(code))"],
        input=INSIDE.encode(),
        capture_output=True,
        timeout=60,
        env={"PATH": PATH},
        cwd="/",
    )
    if said.returncode != 0 or not said.stdout:
        raise SandboxUnavailable(f"{python} does not compile what runs inside: {said.stderr.decode(errors='replace')}")
    return sealed(said.stdout)


def command(limits: Limits | None, *, filters: int | None = None, without: Collection[str] = ()) -> list[str]:
    """The command up to the arguments of `inside`: for one program where its limits are given, else for a server.

    Inside: the system's libraries and one interpreter, read-only; /tmp, in memory; null, zero and urandom. No /proc,
    no shell, no other program. For one program it wants the file `compiled` as well. `filters` is a file descriptor
    with the system calls to refuse (`seccomp.filters`).
    """
    python, folders = interpreter()
    words = [*step_down(without), "bwrap", "--unshare-user", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--unshare-pid", "--as-pid-1"] if "pid" not in without else []
    words += ["--unshare-ipc"] if "ipc" not in without else []
    words += ["--unshare-net"] if "network" not in without else []
    words += ["--disable-userns"] if "nested" not in without and _has("--disable-userns") else []
    words += ["--new-session"] if "session" not in without else []
    words += ["--clearenv"] if "environment" not in without else []
    words += ["--setenv", "PYTHONHASHSEED", "0", "--setenv", "LANG", "C.UTF-8", "--hostname", "jail"]
    words += ["--uid", str(NOBODY), "--gid", str(NOBODY)]
    if "files" in without:
        words += ["--ro-bind", "/", "/"]
    else:
        for folder in ("/usr/lib", "/usr/lib64"):
            words += ["--ro-bind-try", folder, folder]
        for link in ("/lib", "/lib64"):
            words += ["--symlink", f"usr{link}", link] if os.path.islink(link) else ["--ro-bind-try", link, link]
        for path in ("/etc/ld.so.cache", python, *folders):
            words += ["--ro-bind-try", path, path]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        words += ["--dev-bind", device, device]
    if limits is None:
        # The server makes the namespaces of each request; in no other namespace does it have that right.
        words += ["--cap-add", "CAP_SYS_ADMIN", "--dir", "/tmp"]
    else:
        words += ["--die-with-parent"]
        size = ["--size", str(limits.disk)] if "disk" not in without else []
        words += [*size, "--tmpfs", "/tmp"] if "files" not in without else []
        words += ["--chdir", "/tmp"]
        words += ["--seccomp", str(filters)] if filters is not None else []
    words += ["--remount-ro", "/"] if "read-only" not in without else []
    code = INSIDE
    if limits is not None:
        file = compiled(python)
        code = f"import marshal, os; code = os.pread({file}, 1 << 20, 0); os.close({file}); exec(marshal.loads(code))"
    return [*words, "--", python, "-s", "-S", "-c", code]


def rlimits(limits: Limits, *, without: Collection[str] = ()) -> str:
    """The limits that the kernel holds each process to, in the words of `inside.limit`."""
    words = {"CORE": 0, "NOFILE": 64, "MSGQUEUE": 0, "MEMLOCK": 0}
    words |= {"AS": limits.memory} if "memory" not in without else {}
    words |= {"NPROC": limits.processes + 3} if "processes" not in without else {}  # the server's own two, and bwrap's
    words |= {"CPU": math.ceil(limits.seconds)} if "cpu" not in without else {}
    words |= {"FSIZE": limits.disk} if "file size" not in without else {}
    return " ".join(f"{name}={value}" for name, value in words.items())


def environment(without: Collection[str]) -> dict[str, str]:
    """bubblewrap's own environment: process 1's would show in /proc whatever `--clearenv` says of the program's."""
    return dict(os.environ) if "environment" in without else {"PATH": PATH}


def filters(without: Collection[str]) -> bytes:
    """The system calls to refuse; empty where this machine's are not known."""
    return b"" if "seccomp" in without else seccomp.filters()
