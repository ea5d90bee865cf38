"""What runs inside the jail, before the program and around it. The jail's interpreter gets this file as text, or, where
it starts anew for each program, as that very interpreter compiled it (`jail.compiled`).

    python -s -S -c TEXT once PROGRAM_FD RLIMITS            run one program
    python -s -S -c TEXT file PATH RLIMITS SECCOMP_HEX      run one where no file descriptor can be handed down
    python -s -S -c TEXT text PROGRAM_HEX                   run one where nothing else can (WASI)
    python -s -S -c TEXT serve SECCOMP_FD KNOWN_FD GROUP_FD...
                                                            run one for each request on standard input, a socket

Standard library only, any Python from 3.8; but in the last form nothing is imported that takes time. Nothing here is
trusted with a verdict: what it reports is how a process ended.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` would take its time
    import socket
    from collections.abc import Callable
    from typing import Any, NoReturn

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
NOSUID_NODEV = 6
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 22, 38, 47
FAULT = 125
"""Exit status where the jail could not be closed, and the program was not begun."""


def limit(words: str) -> None:
    """`AS=1024 NPROC=4`: soft and hard limits of this process and those it will start."""
    import resource  # which WASI does not have

    for word in words.split():
        name, _, value = word.partition("=")
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (int(value), int(value)))


LIBRARIES: list[Any] = []
"""The C library, once it was opened: that takes longer than most of its calls."""


def call(name: str, *arguments: object) -> None:
    """A function of the C library's; raises `OSError` where it fails."""
    import ctypes

    if not LIBRARIES:
        LIBRARIES.append(ctypes.CDLL(None, use_errno=True))
    if getattr(LIBRARIES[0], name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def refuse(filters: bytes) -> None:
    """No new rights for this process from here on, and no system call that `filters` (classic BPF) denies."""
    import ctypes
    import struct

    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if filters:
        code = ctypes.create_string_buffer(filters, len(filters))
        # struct sock_fprog; a class of ctypes' for it would take a third of a millisecond to make.
        program = struct.pack("@HP", len(filters) // 8, ctypes.addressof(code))
        call("prctl", PR_SET_SECCOMP, 2, program, 0, 0)


def read(file: int) -> bytes:
    """All of a file, which is then closed."""
    chunks: list[bytes] = []
    while True:
        chunk = os.read(file, 1 << 20)
        if not chunk:
            os.close(file)
            return b"".join(chunks)
        chunks.append(chunk)


KNOWN: dict[bytes, Any] = {}
"""Programs of our own that a server will be asked to run again and again, compiled before it is."""


def program(source: bytes) -> None:
    """Run a program as Python runs a script, and exit with its status."""
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    main.__dict__["__builtins__"] = __builtins__
    sys.path[:] = [folder for folder in sys.path if folder]
    sys.argv[:] = ["program.py"]
    code = 0
    try:
        exec(KNOWN.get(source) or compile(source, "program.py", "exec"), main.__dict__)
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


def file(path: str, limits: str, filters: str) -> None:
    """Run the program at `path` in this very process."""
    try:
        source = read(os.open(path, os.O_RDONLY))
        limit(limits)
        refuse(bytes.fromhex(filters))
    except BaseException as error:  # noqa: BLE001 - nothing runs in a jail that did not close
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(FAULT)
    program(source)


def text(source: str) -> None:
    """Run a program that is given as hexadecimal digits."""
    program(bytes.fromhex(source))


def requests(control: socket.socket, attend: Callable[[str, list[int]], None]) -> NoReturn:
    """Fork for each request on `control`, until it is closed; each child attends to one and says how it ended.

    A request is one packet; with it come the program and its standard streams, which this process never reads.
    """
    import array
    import gc
    import socket

    gc.freeze()
    control.send(b"ready")
    while True:
        request, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_SPACE(16))
        if not request:
            os._exit(0)
        files = array.array("i")
        for _, _, data in ancillary:
            files.frombytes(data)
        middle = os.fork()
        if middle == 0:
            closed(control, attend, request.decode(), list(files))
            os._exit(0)
        for file in files:
            os.close(file)
        if os.waitpid(middle, 0)[1] != 0:
            control.send(b"fault: the process around the program died")


def closed(control: socket.socket, close: Callable[..., Any], *arguments: object) -> Any:
    """What `close` returns once it has closed the jail around this process; else nothing runs in it, and that is said
    in words that no program can say: it has no such socket."""
    try:
        return close(*arguments)
    except BaseException as error:  # noqa: BLE001 - nothing runs in a jail that did not close
        control.send(f"fault {type(error).__name__}: {error}".encode())
        os._exit(FAULT)


def streams(files: list[int]) -> bytes:
    """Take a request's files for standard input, output and error; returns the program."""
    source = read(files[0])
    for target, file in enumerate(files[1:]):
        os.dup2(file, target)
        os.close(file)
    return source


def watch(control: socket.socket, child: int) -> tuple[int, float]:
    """Wait until `child` ends, or end it when nobody listens any more: exit status, below 0 for a signal, and the
    processor time that it took."""
    import select
    import signal

    poll = select.poll()
    ended = os.pidfd_open(child)
    poll.register(ended, select.POLLIN)
    poll.register(control, 0)  # hung up: whoever asked is gone, or will not wait any more
    poll.poll()
    os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return code, used.ru_utime + used.ru_stime


def hung_up(pipe: int) -> bool:
    """Has nobody the other end of it any more?"""
    import select

    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


def serve(filters: str, known: str, *groups: str) -> None:
    """Fork for each request; each program is process 1 of namespaces of its own. `known` is a program to compile ahead,
    `groups` are the doors of control groups to step into.

    A request is the namespaces to make, the options of the fresh /tmp, and the rlimits.
    """
    import ctypes
    import resource  # noqa: F401 - as below: what is here already costs the program no time
    import select  # noqa: F401
    import signal
    import socket
    import struct  # noqa: F401

    for common in ("json", "math", "typing", "collections", "heapq", "random", "itertools", "functools", "ast", "io"):
        __import__(common)
    for door in map(int, groups):
        os.write(door, b"0")
        os.close(door)
    seccomp = read(int(filters)) if filters != "-" else b""
    ours = read(int(known))
    KNOWN[ours] = compile(ours, "program.py", "exec")
    control = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # /dev/null

    def attend(request: str, files: list[int]) -> None:
        """Between the server and the program: makes the namespaces, waits, reports."""
        spaces, tmp, limits = request.split("|")
        call("unshare", int(spaces))
        if int(spaces) & NEWNS:
            call("mount", b"tmpfs", b"/tmp", b"tmpfs", NOSUID_NODEV, tmp.encode())
        os.chdir("/tmp")

        def close() -> bytes:
            os.setsid()
            source = streams(files)
            call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            os.close(held)
            if hung_up(alive):  # who was killed before that call has taken nobody along
                os._exit(FAULT)
            os.close(alive)
            limit(limits)
            call("prctl", PR_CAP_AMBIENT, 4, 0, 0, 0)
            call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
            refuse(seccomp)
            control.close()
            return source

        alive, held = os.pipe()
        child = os.fork()
        if child == 0:
            program(closed(control, close))
        for file in (*files, alive):
            os.close(file)
        code, used = watch(control, child)
        control.send(f"{code} {used}".encode())

    requests(control, attend)


FORMS: dict[str, Callable[..., None]] = {"once": once, "file": file, "text": text, "serve": serve}

if __name__ == "__main__":
    FORMS[sys.argv[1]](*sys.argv[2:])
