"""Which system calls a jailed program may not make, as a filter for the kernel (classic BPF, seccomp(2)).

Namespaces close what is reachable by name; this closes what is not: sockets that no network namespace holds (vsock
leads to the hypervisor's host), memory that no address-space limit counts (memfd, System V shared memory), and the
calls whose bugs have let programs out before (io_uring, bpf, userfaultfd, keyrings, new namespaces).
"""

from __future__ import annotations

import errno
import platform
import struct

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
"""x86_64's other calling convention repeats every call from this number on."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST = 0, 4, 16
"""Offsets in `struct seccomp_data`: the call's number, the machine, the low half of the first argument."""
_NAMESPACES = 0x7E020080
"""The flags of clone(2) that make one."""
_UNIX = 1

# name: x86_64, aarch64
_DENIED = {
    "ptrace": (101, 117),
    "syslog": (103, 116),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "acct": (163, 89),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "migrate_pages": (256, 238),
    "unshare": (272, 97),
    "vmsplice": (278, 75),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "finit_module": (313, 273),
    "memfd_create": (319, 279),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
}
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)


def filters(machine: str | None = None) -> bytes:
    """The filter for this machine (or `platform.machine()`'s name of another); empty where its calls are not known."""
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        return b""
    which = list(_ARCHITECTURES).index(machine)
    refuse = _RETURN, 0, 0, 0x00050000 | errno.EPERM
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), refuse]
    for numbers in _DENIED.values():
        code += [(_EQUAL, 0, 1, numbers[which]), refuse]
    # The C library goes on to clone, whose flags can be read, where clone3 does not exist.
    code += [(_EQUAL, 0, 1, _CLONE3[which]), (_RETURN, 0, 0, 0x00050000 | errno.ENOSYS)]
    code += [(_EQUAL, 0, 3, _CLONE[which]), (_LOAD, 0, 0, _FIRST), (_ANY_BIT, 0, 4, _NAMESPACES), refuse]
    code += [(_EQUAL, 0, 2, _SOCKET[which]), (_LOAD, 0, 0, _FIRST), (_EQUAL, 0, 1, _UNIX)]
    code += [(_RETURN, 0, 0, _ALLOW), refuse]
    return b"".join(struct.pack("=HBBI", *line) for line in code)
