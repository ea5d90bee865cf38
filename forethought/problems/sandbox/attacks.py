"""What a jailed program might try, one program each; the tests and `forethought sandbox doctor` run them all.

Each prints `escaped` where it got what it wanted. The bait is on this side: a listener, a file, a variable, a process
and a piece of shared memory of the machine's, which a program inside must not reach.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from forethought.problems.sandbox.run import Limits, MiB, Ran, Run

TIGHT = Limits(seconds=0.5, memory=256 * MiB, processes=8, disk=8 * MiB, output=256 * 1024)
"""The limits that the attacks try to pass."""
LONG = replace(TIGHT, seconds=20)
"""Where time is not what an attack is after: on a busy machine too it shall fail for its own reason."""
_BEFORE = """import errno, json, os, socket, subprocess, sys, time
bait = json.load(sys.stdin)
try: import ctypes; libc = ctypes.CDLL(None, use_errno=True)
except ImportError: pass  # WebAssembly has none, and the others are tried there too
def got(what): print("escaped:", what, flush=True)
def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0: raise OSError(ctypes.get_errno(), name)
    return result
def reaches(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    if ctypes.get_errno() != errno.EPERM: got(number)
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """A program, what it is after, and the guards without any of which it gets it."""

    name: str
    guard: str
    """What encloses it, in the words of the doctor's table."""
    program: str
    opens: tuple[str, ...] = ()
    """Guards (`jail.GUARDS`) that have to be taken away for it to succeed; none where that would not be safe to try."""
    pooled: bool = False
    """Is it aimed at the next program of the same server?"""

    @property
    def limits(self) -> Limits:
        """What it may use."""
        return TIGHT if self.guard == "time" else LONG

    @property
    def source(self) -> str:
        """The whole program."""
        return _BEFORE + self.program


ATTACKS = (
    Attack(
        "TCP to this machine",
        "network",
        "socket.create_connection(('127.0.0.1', bait['port']), 2); got('connected')",
        ("network", "seccomp"),
    ),
    Attack(
        "UDP to this machine",
        "network",
        """s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('127.0.0.1', bait['port']))
s.send(b'x')
got('sent') if [i for i in socket.if_nameindex() if i[1] != 'lo'] else None
""",
    ),
    Attack(
        "an address outside",
        "network",
        """s = socket.socket()
s.settimeout(1)
code = s.connect_ex(('192.0.2.1', 80))
got(code) if code not in (errno.ENETUNREACH, errno.EPERM) else None
""",
    ),
    Attack(
        "an abstract socket",
        "network",
        """s = socket.socket(socket.AF_UNIX)
s.connect(chr(0) + bait['abstract'])
got('connected')
""",
        ("network",),
    ),
    Attack(
        "vsock, which no network namespace holds",
        "system calls",
        "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); got('a socket')",
    ),
    Attack(
        "a socket of the internet's",
        "system calls",
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM); got('a socket')",
        ("seccomp",),
    ),
    Attack("a file of the machine's", "files", "got(open(bait['file']).read())", ("files",)),
    Attack("/etc/passwd", "files", "got(open('/etc/passwd').read(20))", ("files",)),
    Attack("/etc/shadow", "files", "got(open('/etc/shadow').read(20))"),
    Attack("root's home", "files", "got(os.listdir('/root'))"),
    Attack("homes", "files", "got(os.listdir('/home'))", ("files",)),
    Attack("another program", "files", "got(subprocess.check_output(['/usr/bin/id']))", ("files",)),
    Attack("writing beside a file", "files", "open(bait['folder'] + '/left', 'w').write('x'); got('written')"),
    Attack(
        "the processes' environments",
        "files",
        """import glob
got([open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/environ')][0])
""",
    ),
    Attack(
        "a disk itself",
        "files",
        """import stat
os.mknod('/tmp/disk', stat.S_IFBLK | 0o666, os.makedev(254, 0))
got(open('/tmp/disk', 'rb').read(9))
""",
    ),
    Attack("the terminal", "session", "got(os.open('/dev/tty', os.O_RDWR))"),
    Attack("the caller's session", "session", "got('in it') if os.getsid(0) == 0 else None", ("session",)),
    Attack(
        "the standard library",
        "read-only",
        "import json.decoder as d; open(d.__file__, 'a').write('#'); got('written')",
    ),
    Attack(
        "the root folder", "read-only", "open('/filler', 'wb').write(bytes(1 << 20)); got('written')", ("read-only",)
    ),
    Attack("/dev/shm", "read-only", "open('/dev/shm/filler', 'wb').write(bytes(1 << 20)); got('written')"),
    Attack(
        "mounting it writable",
        "system calls",
        "call('mount', None, b'/usr/lib', None, 4096 | 32, None); got('remounted')",
    ),
    Attack("a secret in the environment", "environment", "got(os.environ[bait['variable']])", ("environment",)),
    Attack("files left open", "environment", "got([n for n in range(3, 64) if not os.fstat(n) is None])"),
    Attack("its own input", "environment", "os.write(0, b'x'); got('written')"),
    Attack("killing everything", "processes", "os.kill(-1, 9); time.sleep(0.1)", ("requests",), pooled=True),
    Attack("a process of the machine's", "processes", "os.kill(bait['pid'], 0); got('there it is')"),
    Attack(
        "a process of the machine's, seen",
        "processes",
        """try: os.kill(bait['pid'], 0)
except PermissionError: got('there it is')
""",
        ("pid",),
    ),
    Attack(
        "its memory",
        "system calls",
        """import platform
reaches(310 if platform.machine() == 'x86_64' else 270, bait['pid'], None, 0, None, 0, 0)
""",
    ),
    Attack(
        "shared memory of the machine's",
        "shared memory",
        """libc.shmat.restype = ctypes.c_void_p
if libc.shmat(bait['shared'], None, 4096) != ctypes.c_void_p(-1).value: got('attached')
""",
        ("ipc",),
    ),
    Attack("being root", "rights", "os.setuid(0); got(os.getuid())"),
    Attack("a namespace of its own", "rights", "call('unshare', 0x10000000); got('unshared')", ("nested", "seccomp")),
    Attack("another root", "rights", "os.chroot('/tmp'); got('changed')"),
    Attack("another name for the machine", "rights", "socket.sethostname('mine'); got('changed')"),
    Attack(
        "keys of the kernel's",
        "system calls",
        """import platform
reaches(248 if platform.machine() == 'x86_64' else 217, b'user', b'name', b'value', 5, -3)
""",
    ),
    Attack("io_uring", "system calls", "reaches(425, 1, ctypes.create_string_buffer(240))"),
    Attack(
        "memory that no limit counts",
        "memory",
        """files = [os.memfd_create(str(n)) for n in range(9)]
[os.write(f, bytes(1 << 22)) for f in files]
got(len(files))
""",
        ("seccomp",),
    ),
    Attack("System V memory", "memory", "got(call('shmget', 0, 1 << 28, 0o1600))", ("seccomp",)),
    Attack("four gigabytes", "memory", "import mmap; got(len(mmap.mmap(-1, 4 << 30)))", ("memory",)),
    Attack(
        "raising its limits",
        "memory",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); got('raised')",
        ("memory",),
    ),
    Attack(
        "a fork bomb",
        "number of processes",
        """for n in range(40):
    if os.fork() == 0: time.sleep(1); os._exit(0)
got(n)
""",
        ("processes",),
    ),
    Attack(
        "threads without end",
        "number of processes",
        """import threading
threading.stack_size(1 << 18)
for n in range(40): threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
got(n)
""",
        ("processes",),
    ),
    Attack(
        "a loop",
        "time",
        """end, late = time.process_time() + 1.4, time.monotonic() + 2  # WebAssembly's are the same clock
while time.process_time() < end or time.monotonic() < late: pass
got('all the time it wanted')
""",
        ("cpu", "time"),
    ),
    Attack(
        "one long multiplication",
        "time",
        """x = 7 ** (10 ** 7)
for n in range(9): x *= x
got('it ended')
""",
    ),
    Attack("sleep", "time", "time.sleep(2); got('woke up')", ("time",)),
    Attack(
        "silence", "time", "o = os.dup(1); os.close(1); os.close(2); time.sleep(2); os.write(o, b'escaped')", ("time",)
    ),
    Attack(
        "a daemon",
        "time",
        """if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(2)
        got('still here')
    os._exit(0)
""",
    ),
    Attack("a flood of text", "output", "sys.stdout.write('x' * (1 << 20)); got('printed')", ("output",)),
    Attack(
        "a flood of errors",
        "output",
        "sys.stderr.write('x' * (1 << 20)); sys.stderr.flush(); got('printed')",
        ("output",),
    ),
    Attack(
        "a full disk",
        "disk",
        """for n in range(4): open(f'{n}', 'wb').write(bytes(6 << 20))
got(n)
""",
        ("disk",),
    ),
    Attack(
        "one large file",
        "disk",
        "os.truncate(os.open('large', os.O_CREAT | os.O_RDWR), 1 << 30); got('made')",
        ("file size",),
    ),
)


@contextlib.contextmanager
def bait() -> Iterator[bytes]:
    """What the attacks are after, and where it is, as their standard input."""
    variable, secret = f"BAIT_{secrets.token_hex(4)}".upper(), secrets.token_hex(8)
    abstract = f"forethought-{secrets.token_hex(8)}"
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bait-"))
        os.chmod(folder, 0o777)
        file = Path(folder, "secret")
        file.write_text(secret)
        file.chmod(0o644)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(f"\0{abstract}")
        local.listen()
        shared = libc.shmget(0, 4096, 0o1666)
        stack.callback(libc.shmctl, shared, 0, None)
        os.environ[variable] = secret
        stack.callback(os.environ.pop, variable)
        yield json.dumps(
            {
                "port": listener.getsockname()[1],
                "abstract": abstract,
                "file": str(file),
                "folder": folder,
                "variable": variable,
                "pid": os.getpid(),
                "shared": shared,
            }
        ).encode()


def escaped(ran: Ran) -> bool:
    """Did the attack get what it wanted? A sandbox that died under it did not hold."""
    return ran.status == "lost" or b"escaped" in ran.out


LEFT = Attack("what another left", "the next program", "if os.listdir(): got(os.listdir())")


def attack(run: Run, workers: int) -> list[tuple[Attack, Ran]]:
    """Run every attack, `workers` at a time, then one that looks for what others left behind."""
    with bait() as stdin, ThreadPoolExecutor(workers) as threads:

        def one(each: Attack) -> tuple[Attack, Ran]:
            return each, run(each.source, stdin, each.limits)

        found = list(threads.map(one, ATTACKS))
        run("open('note', 'w').write('x')", b"", LONG)
        return [*found, one(LEFT)]
