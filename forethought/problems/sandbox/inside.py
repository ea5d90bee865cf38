"""What runs inside the jail, before the program and around it. The jail's interpreter gets this file as text.

    python -s -S -c TEXT once PROGRAM_FD RLIMITS     run one program
    python -s -S -c TEXT serve SECCOMP_FD            run one for each request on the socket that is standard input

Standard library only, any Python from 3.8; in the first form nothing is imported that takes time. Nothing here is
trusted with a verdict: what it reports is how a process ended.
"""

from __future__ import annotations

import os
import resource
import sys

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
NOSUID_NODEV = 6
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 22, 38, 47
FAULT = 125
"""Exit status where the jail could not be closed, and the program was not begun."""


def limit(words: str) -> None:
    """`AS=1024 NPROC=4`: soft and hard limits of this process and those it will start."""
    for word in words.split():
        name, _, value = word.partition("=")
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (int(value), int(value)))


def read(file: int) -> bytes:
    """All of a file, which is then closed."""
    chunks: list[bytes] = []
    while True:
        chunk = os.read(file, 1 << 20)
        if not chunk:
            os.close(file)
            return b"".join(chunks)
        chunks.append(chunk)


def program(source: bytes) -> None:
    """Run a program as Python runs a script, and exit with its status."""
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    main.__dict__["__builtins__"] = __builtins__
    sys.path[:] = [folder for folder in sys.path if folder]
    sys.argv[:] = ["program.py"]
    code = 0
    try:
        exec(compile(source, "program.py", "exec"), main.__dict__)
    except SystemExit as stop:
        code = _status(stop.code)
    except BaseException as error:  # noqa: BLE001 - the sandbox's wall: a program may raise anything
        code = 1
        if error.__traceback__ is not None:  # our own frame is nobody's business
            error.__traceback__ = error.__traceback__.tb_next
        sys.excepthook(type(error), error, error.__traceback__)
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def once(file: str, limits: str) -> None:
    """Run the program in `file` in this very process."""
    source = read(int(file))
    limit(limits)
    program(source)


def serve(filters: str) -> None:
    """Fork for each request; each program is process 1 of namespaces of its own.

    A request is one packet: the namespaces to make, the options of the fresh /tmp, and the rlimits; with it come the
    program and its standard streams, which this process never reads. The reply says how the program ended and what
    processor time it took.
    """
    import array
    import ctypes
    import gc
    import select
    import signal
    import socket

    for common in ("json", "math", "typing", "collections", "heapq", "random", "itertools", "functools", "ast", "io"):
        __import__(common)
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp = read(int(filters)) if filters != "-" else b""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # /dev/null

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    def close_jail(limits: str) -> None:
        call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        limit(limits)
        call("prctl", PR_CAP_AMBIENT, 4, 0, 0, 0)
        call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if seccomp:

            class Filters(ctypes.Structure):
                _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_char_p)]

            call("prctl", PR_SET_SECCOMP, 2, ctypes.byref(Filters(len(seccomp) // 8, seccomp)), 0, 0)

    def attend(spaces: int, tmp: str, limits: str, files: list[int]) -> None:
        """Between the server and the program: makes the namespaces, waits, reports."""
        call("unshare", spaces)
        if spaces & NEWNS:
            call("mount", b"tmpfs", b"/tmp", b"tmpfs", NOSUID_NODEV, tmp.encode())
        os.chdir("/tmp")
        child = os.fork()
        if child == 0:
            try:
                control.close()
                os.setsid()
                source = read(files[0])
                for target, file in enumerate(files[1:]):
                    os.dup2(file, target)
                    os.close(file)
                close_jail(limits)
            except BaseException as error:  # noqa: BLE001 - nothing runs in a jail that did not close
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(FAULT)
            program(source)
        for file in files:
            os.close(file)
        poll = select.poll()
        ended = os.pidfd_open(child)
        poll.register(ended, select.POLLIN)
        poll.register(control, 0)  # hung up: whoever asked is gone, or will not wait any more
        poll.poll()
        os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        control.send(f"{code} {used.ru_utime + used.ru_stime}".encode())

    gc.freeze()
    control.send(b"ready")
    while True:
        request, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_SPACE(16))
        if not request:
            os._exit(0)
        files = array.array("i")
        for _, _, data in ancillary:
            files.frombytes(data)
        spaces, tmp, limits = request.decode().split("|")
        middle = os.fork()
        if middle == 0:
            try:
                attend(int(spaces), tmp, limits, list(files))
            except BaseException as error:  # noqa: BLE001 - the sandbox's wall: reported, and the server goes on
                control.send(f"fault {type(error).__name__}: {error}".encode())
            os._exit(0)
        for file in files:
            os.close(file)
        if os.waitpid(middle, 0)[1] != 0:
            control.send(b"fault: the process around the program died")


if __name__ == "__main__":
    if sys.argv[1] == "once":
        once(*sys.argv[2:])
    serve(sys.argv[2])
