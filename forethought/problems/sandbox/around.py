"""What runs around a program that no bubblewrap encloses: servers on our own Python, started with the words

    landlock PYTHON FOLDER...
    wasi MODULE_FD

They speak the protocol of `inside.requests` on standard input, and never read a program: root's rights are given up by
the process that does.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from forethought.problems.sandbox import seccomp
from forethought.problems.sandbox.inside import PR_SET_PDEATHSIG, call, closed, limit, refuse, requests, streams, watch
from forethought.problems.sandbox.jail import INSIDE, NOBODY

_OWN = 1 << 30
"""Users from here on, plus the number of a process, belong to nobody else: their processes can be counted."""
_DUMPABLE, _SUBREAPER = 4, 36
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache")


def landlock(python: str, *folders: str) -> None:
    """Each program in a sandlock of its own, in a folder of its own, as a user of its own where we are root."""
    import sandlock

    readable = [path for path in (*_LIBRARIES, python, *folders, "/dev/zero", "/dev/urandom") if os.path.exists(path)]
    filters = seccomp.filters().hex()

    def supervise(folder: str, request: str, files: list[int]) -> NoReturn:
        """As the folder's user: the program, and the process that answers for its system calls."""
        alone = _step_down(_OWN + os.getpid(), folder)
        call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        disk, memory, processes, _, limits = request.split("|")
        source = Path(folder, "program.py")
        source.write_bytes(streams(files))
        for each in ("work", "changes"):
            Path(folder, each).mkdir()
        jail = sandlock.Sandbox(
            fs_readable=[*readable, str(source)],
            fs_writable=["/dev/null", f"{folder}/work"],
            workdir=f"{folder}/work",
            cwd=f"{folder}/work",
            fs_storage=f"{folder}/changes",
            max_disk=int(disk),
            max_memory=int(memory),
            max_processes=int(processes),
            clean_env=True,
            env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "TMPDIR": f"{folder}/work"},
            no_coredump=True,
            name=f"jail-{os.getpid()}",  # no two of a user's may have one name
        )
        words = [python, "-s", "-S", "-c", INSIDE, "file", str(source), limits, filters]
        program = jail.popen(words)
        if alone:  # threads too; ours are counted with them
            most = int(processes) + len(os.listdir("/proc/self/task"))
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(program.pid, resource.RLIMIT_NPROC, (most, most))
        ran = program.wait()
        if ran.reason == sandlock.ExitReason.EXITED:
            os._exit(ran.exit_code)
        os._exit(128 + (ran.signal if ran.signal > 0 else signal.SIGKILL))

    def attend(request: str, files: list[int]) -> None:
        call("prctl", _SUBREAPER, 1, 0, 0, 0)
        folder = tempfile.mkdtemp(prefix="jail-")
        try:
            child = os.fork()
            if child == 0:
                closed(control, supervise, folder, request, files)
            for file in files:
                os.close(file)
            code, used = watch(control, child)
        finally:
            _end_the_rest()
            shutil.rmtree(folder, ignore_errors=True)
        if code == 128 + signal.SIGKILL and used >= 0.8 * float(request.split("|")[3]):
            code = -signal.SIGKILL  # its own, or the kernel's for the time it took
        control.send(f"{code} {used}".encode())

    control = _control()
    requests(control, attend)


def wasi(module: str) -> None:
    """Each program in a WebAssembly of its own that may write to its standard streams, and nothing else."""
    import wasmtime

    engine = wasmtime.Engine()
    python = wasmtime.Module.deserialize_file(engine, f"/proc/self/fd/{module}")
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    control = _control()
    _step_down(NOBODY)

    def attend(request: str, files: list[int]) -> None:
        memory, limits = request.split("|")

        def close() -> tuple[wasmtime.Store, wasmtime.Func]:
            call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            os.setsid()
            config = wasmtime.WasiConfig()
            config.argv = ["python", "-s", "-S", "-c", INSIDE, "text", streams(files).hex()]
            config.env = [("PYTHONHASHSEED", "0")]
            config.inherit_stdin()
            config.inherit_stdout()
            config.inherit_stderr()
            store = wasmtime.Store(engine)
            store.set_limits(memory_size=int(memory))
            store.set_wasi(config)
            limit(limits)
            refuse(seccomp.filters())
            begin = linker.instantiate(store, python).exports(store)["_start"]
            assert isinstance(begin, wasmtime.Func)
            control.close()
            return store, begin

        child = os.fork()
        if child == 0:
            store, begin = closed(control, close)
            try:
                begin(store)
            except wasmtime.ExitTrap as end:
                os._exit(end.code)
            except (wasmtime.WasmtimeError, wasmtime.Trap) as trap:
                os.write(2, str(trap).strip().splitlines()[-1].encode() + b"\n")
                os._exit(128 + signal.SIGABRT)
            os._exit(0)
        for file in files:
            os.close(file)
        code, used = watch(control, child)
        control.send(f"{code} {used}".encode())

    requests(control, attend)


def _control() -> socket.socket:
    control = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # /dev/null
    return control


def _step_down(user: int, folder: str = "") -> bool:
    """Give root's rights up, and become `user`, to whom `folder` then belongs. False where it is shared with others."""
    if os.getuid() != 0:
        return False
    for each in (user, NOBODY):
        try:
            if folder:
                os.chown(folder, each, each)
            os.setgroups([])
            os.setresgid(each, each, each)
            os.setresuid(each, each, each)
        except OSError:  # a container's root has few users to give
            if each == NOBODY:
                raise
            continue
        call("prctl", _DUMPABLE, 1, 0, 0, 0)  # whoever answers for a child's system calls reads its memory
        break
    return each != NOBODY


def _end_the_rest() -> None:
    """End what the program has left running: it is ours since its parents are gone."""
    mine = os.getpid()
    while True:
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                if int(status.read_text().rpartition(")")[2].split()[1]) == mine:
                    os.kill(int(status.parent.name), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


SERVERS: dict[str, Callable[..., None]] = {"landlock": landlock, "wasi": wasi}
